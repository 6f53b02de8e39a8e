//! What the kernel says of a pinned BPF link beyond what the library passes on.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
    ptr,
};

use nix::libc;

/// Of `enum bpf_cmd` (`linux/bpf.h`).
const OBJ_GET: libc::c_long = 7;
const TEST_RUN: libc::c_long = 10;
const PROG_GET_FD_BY_ID: libc::c_long = 13;
const OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const PROG_QUERY: libc::c_long = 16;
const LINK_UPDATE: libc::c_long = 29;
/// `BPF_F_TEST_SKB_CHECKSUM_COMPLETE` (`linux/bpf.h`, 6.17).
const TEST_CHECKSUM_COMPLETE: u32 = 1 << 2;

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

/// The member of `union bpf_attr` for [`TEST_RUN`].
#[repr(C)]
#[derive(Default)]
struct TestRun {
    program: u32,
    outcome: u32,
    size_in: u32,
    size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    context_in: [u32; 2],
    contexts: [u64; 2],
    flags: u32,
    cpu: u32,
    batch: [u32; 2],
}

/// Runs a program on a packet of which the interface has summed up everything. `EBADMSG`: what is left does not have the sum
/// that it should have by the program's account. `EINVAL`: this kernel cannot do that.
pub(super) fn run_summed(program: BorrowedFd<'_>, packet: &[u8]) -> io::Result<()> {
    let number = |value: usize| u32::try_from(value).map_err(io::Error::other);
    let mut run = TestRun {
        program: u32::try_from(program.as_raw_fd()).map_err(io::Error::other)?,
        size_in: number(packet.len())?,
        data_in: packet.as_ptr().expose_provenance() as u64,
        repeat: 1,
        flags: TEST_CHECKSUM_COMPLETE,
        ..TestRun::default()
    };
    // SAFETY: the kernel reads the packet, and reads and writes the attribute; both outlive the call.
    let outcome = unsafe { libc::syscall(libc::SYS_bpf, TEST_RUN, ptr::from_mut(&mut run), size_of::<TestRun>()) };
    if outcome < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
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

fn call<T>(command: libc::c_long, attribute: &T) -> io::Result<libc::c_long> {
    // SAFETY: the kernel reads the attribute and what it points to, which outlive the call.
    let answer = unsafe { libc::syscall(libc::SYS_bpf, command, ptr::from_ref(attribute), size_of::<T>()) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(answer) }
}

fn opened(answer: libc::c_long) -> io::Result<OwnedFd> {
    let fd = i32::try_from(answer).map_err(io::Error::other)?;
    // SAFETY: the kernel has just opened it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn open(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let get = Get { path: path.as_ptr().expose_provenance() as u64, fd: 0, flags: 0 };
    opened(call(OBJ_GET, &get)?)
}

/// The program with the kernel's number.
pub(super) fn program(id: u32) -> io::Result<OwnedFd> {
    opened(call(PROG_GET_FD_BY_ID, &ById { id, next: 0, flags: 0 })?)
}

/// Has the link pinned at `path` run another program, from one packet to the next.
pub(super) fn update(path: &Path, program: BorrowedFd<'_>) -> io::Result<()> {
    let link = open(path)?;
    let number = |fd: RawFd| u32::try_from(fd).map_err(io::Error::other);
    let update = Update { link: number(link.as_raw_fd())?, program: number(program.as_raw_fd())?, flags: 0, former: 0 };
    call(LINK_UPDATE, &update).map(drop)
}

/// The link pinned at `path`, if one is.
pub(super) fn of(path: &Path) -> Option<LinkInfo> {
    let fd = open(path).ok()?;
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
    let query = Query {
        interface,
        attach_type,
        asked: 0,
        answered: 0,
        programs: programs.as_mut_ptr().expose_provenance() as u64,
        count: u32::try_from(MOST).map_err(io::Error::other)?,
        padding: 0,
        rest: [0; 4],
    };
    call(PROG_QUERY, &query)?;
    Ok(programs.into_iter().take_while(|id| *id != 0).collect())
}
