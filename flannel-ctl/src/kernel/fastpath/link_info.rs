//! What the kernel says of a pinned BPF link beyond what the library passes on.

use std::{
    ffi::CString,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
    ptr,
};

use nix::libc;

/// Of `enum bpf_cmd` (`linux/bpf.h`).
const OBJ_GET: libc::c_long = 7;
const OBJ_GET_INFO_BY_FD: libc::c_long = 15;

/// `struct bpf_link_info` as far as its TCX part (`linux/bpf.h`, 6.6).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub(super) struct LinkInfo {
    kind: u32,
    id: u32,
    pub(super) program: u32,
    padding: u32,
    /// Index of the interface; 0 if that is gone or the link was detached.
    pub(super) interface: u32,
    attach_type: u32,
    /// The kernel writes no more than it is given room for.
    rest: [u32; 8],
}

/// The member of `union bpf_attr` for [`OBJ_GET`].
#[repr(C)]
struct Get {
    path: u64,
    fd: u32,
    flags: u32,
}

/// The member of `union bpf_attr` for [`OBJ_GET_INFO_BY_FD`].
#[repr(C)]
struct GetInfo {
    fd: u32,
    length: u32,
    info: u64,
}

/// The link pinned at `path`, if one is.
pub(super) fn of(path: &Path) -> Option<LinkInfo> {
    let path = CString::new(path.as_os_str().as_bytes()).ok()?;
    let get = Get { path: path.as_ptr().expose_provenance() as u64, fd: 0, flags: 0 };
    // SAFETY: the kernel reads the attribute and the path behind it; both outlive the call.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, OBJ_GET, ptr::from_ref(&get), size_of::<Get>()) };
    let fd = i32::try_from(fd).ok().filter(|fd| *fd >= 0)?;
    // SAFETY: the kernel has just opened it for us.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    let mut info = LinkInfo::default();
    let get_info = GetInfo {
        fd: u32::try_from(fd.as_raw_fd()).ok()?,
        length: u32::try_from(size_of::<LinkInfo>()).ok()?,
        info: ptr::from_mut(&mut info).expose_provenance() as u64,
    };
    let size = size_of::<GetInfo>();
    // SAFETY: the kernel reads the attribute and writes up to `length` octets to `info`; both outlive the call.
    let outcome = unsafe { libc::syscall(libc::SYS_bpf, OBJ_GET_INFO_BY_FD, ptr::from_ref(&get_info), size) };
    (outcome == 0).then_some(info)
}
