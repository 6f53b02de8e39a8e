//! Why the fast path is not to be had, or a part of it failed.

use std::{io, path::PathBuf};

use aya::{EbpfError, maps::MapError, pin::PinError, programs::ProgramError, programs::links::LinkError};

use flannel_common::{PEERS_MAP, PODS_MAP};
use nix::libc;

use crate::{kernel::KernelError, model::Key};

#[derive(Debug, thiserror::Error)]
pub enum FastPathError {
    #[error("this flannel-ctl was built without the BPF programs (build with FLANNEL_BPF=require)")]
    NotEmbedded,
    #[error("{what} {}: {cause}{}", .path.display(), hint(.cause))]
    Directory { what: &'static str, path: PathBuf, cause: io::Error },
    #[error(
        "{} belongs to user {owner}, not to us: somebody else's pins are not touched; choose another --bpf-dir", .path.display()
    )]
    Stranger { path: PathBuf, owner: u32 },
    #[error(
        "no fast path is pinned in {}: `flannel-ctl status` says which datapath this node has and why; the daemon may have another --bpf-dir", .path.display()
    )]
    Absent { path: PathBuf },
    #[error(
        "{} has {found}, and this program reads maps-v{wanted}: it is of another version than the daemon", .path.display()
    )]
    OtherLayout { path: PathBuf, found: String, wanted: u32 },
    #[error("{}: permission denied: needs root, or CAP_BPF and the directory's owner", .path.display())]
    Forbidden { path: PathBuf },
    #[error("trace at {}: {cause} (needs root)", .path.display())]
    Trace { path: PathBuf, cause: io::Error },
    #[error("{}: somebody traces already; one at a time", .path.display())]
    Traced { path: PathBuf },
    #[error("load the BPF object: {}{}", chain(.0), refusal(&**.0))]
    Load(Box<EbpfError>),
    #[error("load BPF program {program}: {}{}", chain(.cause), refusal(&**.cause))]
    Program { program: &'static str, cause: Box<ProgramError> },
    #[error("this is Linux {0}, and only from 5.13 on can BPF programs encapsulate whole Ethernet frames")]
    TooOld(String),
    #[error("the BPF object has no {0}")]
    Missing(&'static str),
    #[error("{what} BPF map {map}: {}{}", chain(.cause), full(.map, .cause))]
    Map { what: &'static str, map: &'static str, cause: Box<MapError> },
    #[error("attach BPF program {program} to {interface}: {}", chain(.cause))]
    Attach { program: &'static str, interface: String, cause: Box<ProgramError> },
    #[error("{what} interface {interface}: {answer}")]
    Filter { what: &'static str, interface: u32, answer: String, cause: io::Error },
    #[error("look at the BPF link {}: {}", .path.display(), chain(.cause))]
    Link { path: PathBuf, cause: Box<LinkError> },
    #[error("pin {}: {}", .path.display(), chain(.cause))]
    Pin { path: PathBuf, cause: Box<PinError> },
    #[error("find the interface with index {index}: {cause}")]
    NoInterface { index: u32, cause: io::Error },
    #[error("read {path}: {cause}")]
    Sysctl { path: &'static str, cause: io::Error },
    #[error("{0}: not an object of the fast path")]
    Mismatch(Key),
}

impl FastPathError {
    /// As an object's failure, for the loop.
    pub fn into_kernel(self, attempt: String) -> KernelError {
        let errno = self.io().and_then(io::Error::raw_os_error).unwrap_or(0);
        KernelError { attempt, answer: self.to_string(), hint: None, errno }
    }

    fn io(&self) -> Option<&io::Error> {
        match self {
            Self::Directory { cause, .. }
            | Self::NoInterface { cause, .. }
            | Self::Sysctl { cause, .. }
            | Self::Filter { cause, .. } => Some(cause),
            Self::Attach { cause, .. } | Self::Program { cause, .. } => match &**cause {
                ProgramError::SyscallError(error) => Some(&error.io_error),
                ProgramError::LoadError { io_error, .. } => Some(io_error),
                _ => None,
            },
            Self::NotEmbedded
            | Self::TooOld(_)
            | Self::Stranger { .. }
            | Self::Absent { .. }
            | Self::OtherLayout { .. }
            | Self::Forbidden { .. }
            | Self::Trace { .. }
            | Self::Traced { .. }
            | Self::Load(_)
            | Self::Missing(_)
            | Self::Map { .. }
            | Self::Link { .. }
            | Self::Pin { .. }
            | Self::Mismatch(_) => None,
        }
    }
}

fn hint(cause: &io::Error) -> &'static str {
    match cause.raw_os_error() {
        Some(libc::EPERM) => " (needs CAP_SYS_ADMIN once, or a bpffs that is mounted already)",
        Some(libc::ENODEV) => " (this kernel has no BPF file system)",
        _ => "",
    }
}

/// What makes room in a hash that is full. Nothing is wrong without: what is not in it takes the kernel path.
fn full(map: &str, cause: &MapError) -> &'static str {
    let errno = match cause {
        MapError::SyscallError(error) => error.io_error.raw_os_error(),
        _ => None,
    };
    match (errno, map) {
        (Some(libc::E2BIG), PEERS_MAP) => " (it is full: this peer stays on the kernel path; raise --max-peers)",
        (Some(libc::E2BIG), PODS_MAP) => " (it is full: this pod stays on the kernel path; raise --max-pods)",
        _ => "",
    }
}

/// What usually explains that the kernel will not have a program or a map.
fn refusal(error: &(dyn std::error::Error + 'static)) -> &'static str {
    let mut causes = std::iter::successors(Some(error), |error| error.source());
    let errno = causes.find_map(|error| error.downcast_ref::<io::Error>()?.raw_os_error());
    match errno {
        Some(libc::EPERM) => {
            " (needs CAP_BPF and CAP_NET_ADMIN, and a seccomp filter and a kernel that let bpf through)"
        }
        Some(libc::ENOSYS) => " (this kernel was built without BPF, or a seccomp filter hides it)",
        Some(libc::EINVAL | libc::EACCES | libc::E2BIG) => " (this kernel's verifier or map types may be too old)",
        Some(libc::ENOMEM) => " (a smaller --max-flows takes less memory)",
        _ => "",
    }
}

/// An error with its causes, each shortened to its first line: a verifier's log has thousands.
fn chain(error: &dyn std::error::Error) -> String {
    let first_line = |error: &dyn std::error::Error| error.to_string().lines().next().unwrap_or_default().to_owned();
    let mut text = first_line(error);
    let mut cause = error.source();
    while let Some(error) = cause {
        let line = first_line(error);
        if !text.contains(&line) {
            text.push_str(": ");
            text.push_str(&line);
        }
        cause = error.source();
    }
    text
}
