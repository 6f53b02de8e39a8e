//! What the kernel says of a pinned BPF link beyond what the library passes on.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
    ptr,
};

use nix::libc;

use super::bpf::{self, number};

/// Of `enum bpf_cmd` (`linux/bpf.h`).
const OBJ_GET: libc::c_long = 7;
const PROG_GET_FD_BY_ID: libc::c_long = 13;
const OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const PROG_QUERY: libc::c_long = 16;
const LINK_UPDATE: libc::c_long = 29;

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
    /// `enum bpf_attach_type`: which hook of the interface.
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

/// The member of `union bpf_attr` for [`PROG_GET_FD_BY_ID`].
#[repr(C)]
struct ById {
    id: u32,
    next: u32,
    flags: u32,
}

/// The member of `union bpf_attr` for [`LINK_UPDATE`].
#[repr(C)]
struct Update {
    link: u32,
    program: u32,
    flags: u32,
    former: u32,
}

/// The member of `union bpf_attr` for [`PROG_QUERY`] (6.6).
#[repr(C)]
struct Query {
    interface: u32,
    attach_type: u32,
    asked: u32,
    answered: u32,
    programs: u64,
    count: u32,
    padding: u32,
    rest: [u64; 4],
}

fn opened(answer: libc::c_long) -> io::Result<OwnedFd> {
    let fd = i32::try_from(answer).map_err(io::Error::other)?;
    // SAFETY: the kernel has just opened it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn open(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut get = Get { path: path.as_ptr().expose_provenance() as u64, fd: 0, flags: 0 };
    // SAFETY: the kernel reads the path, which ends in a zero byte and outlives the call.
    opened(unsafe { bpf::call(OBJ_GET, &mut get) }?)
}

/// The program with the kernel's number.
pub(super) fn program(id: u32) -> io::Result<OwnedFd> {
    // SAFETY: the attribute points to nothing.
    opened(unsafe { bpf::call(PROG_GET_FD_BY_ID, &mut ById { id, next: 0, flags: 0 }) }?)
}

/// Has the link pinned at `path` run another program, from one packet to the next.
pub(super) fn update(path: &Path, program: BorrowedFd<'_>) -> io::Result<()> {
    let link = open(path)?;
    let mut update = Update { link: number(link.as_fd()), program: number(program), flags: 0, former: 0 };
    // SAFETY: the attribute points to nothing.
    unsafe { bpf::call(LINK_UPDATE, &mut update) }.map(drop)
}

/// The link pinned at `path`, if one is.
pub(super) fn of(path: &Path) -> Option<LinkInfo> {
    let fd = open(path).ok()?;
    let mut info = LinkInfo::default();
    let mut get_info = GetInfo {
        fd: number(fd.as_fd()),
        length: u32::try_from(size_of::<LinkInfo>()).ok()?,
        info: ptr::from_mut(&mut info).expose_provenance() as u64,
    };
    // SAFETY: the kernel writes up to `length` octets to `info`, which outlives the call; any octets are one.
    unsafe { bpf::call(OBJ_GET_INFO_BY_FD, &mut get_info) }.ok()?;
    Some(info)
}

impl LinkInfo {
    /// Whether nobody's program comes behind it on its hook. A hook that cannot be asked has no order that matters.
    pub(super) fn is_last(&self) -> bool {
        chain(self.interface, self.attach_type).map_or(true, |programs| programs.last() == Some(&self.program))
    }
}

/// The programs of a hook, in the order in which they run. Asking for their numbers takes no more than `CAP_NET_ADMIN`.
fn chain(interface: u32, attach_type: u32) -> io::Result<Vec<u32>> {
    /// `BPF_MPROG_MAX` (`linux/bpf_mprog.h`)
    const MOST: usize = 64;
    let mut programs = [0_u32; MOST];
    let mut query = Query {
        interface,
        attach_type,
        asked: 0,
        answered: 0,
        programs: programs.as_mut_ptr().expose_provenance() as u64,
        count: u32::try_from(MOST).map_err(io::Error::other)?,
        padding: 0,
        rest: [0; 4],
    };
    // SAFETY: the kernel writes up to `count` numbers to `programs`, which outlives the call.
    unsafe { bpf::call(PROG_QUERY, &mut query) }?;
    Ok(programs.into_iter().take_while(|id| *id != 0).collect())
}
