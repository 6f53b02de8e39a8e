//! Connection tracking beside a fast path that it does not see.
//!
//! It follows TCP's windows, and calls a packet invalid that is beyond the window that it saw last; rules commonly drop
//! those, and address translation passes them by. After a while on the fast path every packet is beyond. The kernel has a
//! switch for hosts that do not see all packets of a connection, per network namespace:
//! `nf_conntrack_tcp_be_liberal` (`nf_conntrack_proto_tcp.c`, 6.18).

use std::{fs, io};

use super::{FastPathError, directory::Directory};

/// Left where everything is pinned.
const MARK: &str = "restore-tcp-be-liberal";
const PATH: &str = "/proc/sys/net/netfilter/nf_conntrack_tcp_be_liberal";

/// `None`: there is no connection tracking here.
pub(super) fn is_liberal() -> Option<bool> {
    fs::read_to_string(PATH).ok().map(|text| text.trim() != "0")
}

/// Turns it on, and leaves a mark that says so; or off.
pub(super) fn set_liberal(on: bool, directory: &Directory) -> Result<(), FastPathError> {
    if on && is_liberal() == Some(false) {
        directory.mark(MARK)?;
    }
    write(on)
}

/// It was us who turned it on.
pub(super) fn is_ours(directory: &Directory) -> bool {
    directory.is_marked(MARK)
}

/// Turns it off if it was us who turned it on. Whether it was.
pub(super) fn restore(directory: &Directory) -> Result<bool, FastPathError> {
    let ours = directory.unmark(MARK)?;
    if ours {
        write(false)?;
    }
    Ok(ours)
}

fn write(on: bool) -> Result<(), FastPathError> {
    match fs::write(PATH, if on { "1" } else { "0" }) {
        // Nothing tracks, so nothing is in the way.
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(()),
        outcome => outcome.map_err(|cause| FastPathError::Sysctl { path: PATH, cause }),
    }
}
