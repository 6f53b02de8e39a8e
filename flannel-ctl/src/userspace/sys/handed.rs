//! Descriptors that an earlier process opened.

use std::{
    ffi::CStr,
    fs::File,
    io,
    os::fd::{AsRawFd as _, BorrowedFd},
};

use nix::{errno::Errno, libc};

use super::named;

/// `TUNGETIFF`: name and flags of the device that it is a queue of.
pub(in super::super) fn tun_device(tun: &File) -> io::Result<(String, libc::c_int)> {
    let mut request = named("?")?;
    // SAFETY: the request takes a pointer to an ifreq, which outlives the call.
    let result = unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNGETIFF as _, &raw mut request) };
    Errno::result(result)?;
    // SAFETY: the kernel has written a name that ends within its array, and flags.
    let (name, flags) = unsafe { (CStr::from_ptr(request.ifr_name.as_ptr()), request.ifr_ifru.ifru_flags) };
    Ok((name.to_string_lossy().into_owned(), libc::c_int::from(flags.cast_unsigned())))
}

/// `TUNSETQUEUE`: the device gives this queue nothing any more.
pub(in super::super) fn detach_queue(tun: BorrowedFd<'_>) -> io::Result<()> {
    let mut request = named("?")?;
    request.ifr_ifru.ifru_flags = i16::try_from(libc::IFF_DETACH_QUEUE).unwrap_or_default();
    // SAFETY: the request takes a pointer to an ifreq with flags, which outlives the call.
    let result = unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETQUEUE as _, &raw mut request) };
    Errno::result(result).map(drop).map_err(Into::into)
}
