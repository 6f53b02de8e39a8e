//! What is open beyond the end of this process: the service manager's file descriptor store (`FileDescriptorStoreMax=`
//! in the unit, systemd 219) keeps it for the next start, and with it what the kernel has queued there.

use std::{
    collections::BTreeMap,
    env,
    io::{self, IoSlice},
    os::{
        fd::{AsRawFd, BorrowedFd, FromRawFd as _, OwnedFd, RawFd},
        unix::net::UnixDatagram,
    },
};

use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, sendmsg};

use crate::kernel::userspace::Handover;

/// Ours begin so.
const PREFIX: &str = "tunnel-";

/// The store of this process's manager, if it has one.
#[derive(Debug)]
pub(super) struct Store {
    inherited: BTreeMap<String, Vec<OwnedFd>>,
    socket: Option<std::ffi::OsString>,
}

impl Store {
    /// Takes what the manager has passed. Once in a process.
    pub(super) fn open() -> Self {
        let mut inherited = BTreeMap::<String, Vec<OwnedFd>>::new();
        match sd_notify::listen_fds_with_names() {
            Ok(passed) => {
                for (descriptor, name) in passed {
                    // SAFETY: the manager opened it for us before this process began, and nobody else here asks for it.
                    let descriptor = unsafe { OwnedFd::from_raw_fd(descriptor) };
                    inherited.entry(name).or_default().push(descriptor);
                }
            }
            Err(error) => tracing::warn!(%error, "what the service manager has kept cannot be used (LISTEN_FDS)"),
        }
        Self { inherited, socket: env::var_os("NOTIFY_SOCKET") }
    }

    fn send(&self, lines: &str, descriptors: &[BorrowedFd<'_>]) {
        let Some(socket) = &self.socket else { return };
        let send = || -> io::Result<()> {
            let address = match socket.as_encoded_bytes() {
                [b'@', name @ ..] => UnixAddr::new_abstract(name)?,
                path => UnixAddr::new(path)?,
            };
            let raw: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
            let rights = [ControlMessage::ScmRights(&raw)];
            let rights = if raw.is_empty() { &[] } else { &rights[..] };
            let text = [IoSlice::new(lines.as_bytes())];
            let from = UnixDatagram::unbound()?;
            sendmsg(from.as_raw_fd(), &text, rights, MsgFlags::MSG_NOSIGNAL, Some(&address))?;
            Ok(())
        };
        if let Err(error) = send() {
            tracing::warn!(%error, "the service manager could not be told (NOTIFY_SOCKET)");
        }
    }
}

impl Handover for Store {
    fn take(&mut self, name: &str) -> Vec<OwnedFd> {
        self.inherited.remove(&format!("{PREFIX}{name}")).unwrap_or_default()
    }

    fn left(&mut self) -> Vec<(String, Vec<OwnedFd>)> {
        let ours = |(name, descriptors): (String, Vec<OwnedFd>)| {
            name.strip_prefix(PREFIX).map(|name| (name.to_owned(), descriptors))
        };
        std::mem::take(&mut self.inherited).into_iter().filter_map(ours).collect()
    }

    fn keep(&mut self, name: &str, descriptors: &[BorrowedFd<'_>]) {
        self.send(&format!("FDSTORE=1\nFDNAME={PREFIX}{name}\n"), descriptors);
    }

    fn forget(&mut self, name: &str) {
        self.send(&format!("FDSTOREREMOVE=1\nFDNAME={PREFIX}{name}\n"), &[]);
    }
}
