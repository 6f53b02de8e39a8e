//! bpf(2), for what the library does not offer.

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd},
    ptr,
};

use nix::{errno::Errno, libc};

/// `attribute` is the command's member of `union bpf_attr`, or the first part of it. What the kernel answers.
///
/// # Safety
/// It has the command's layout, and what it points to is there for as long and as large as it says.
pub(super) unsafe fn call<T>(command: libc::c_long, attribute: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: the kernel reads and writes the attribute, whose size it is told, and what it points to, which the caller
    // answers for.
    let answer = unsafe { libc::syscall(libc::SYS_bpf, command, ptr::from_mut(attribute), size_of::<T>()) };
    Errno::result(answer).map_err(Into::into)
}

/// As attributes have descriptors.
pub(super) fn number(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd().cast_unsigned()
}
