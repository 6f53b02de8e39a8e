//! What is open beyond the end of this process: the service manager's file descriptor store (`FileDescriptorStoreMax=`
//! in the unit, systemd 219) keeps it for the next start, and with it what the kernel has queued there.

use std::{
    collections::BTreeMap,
    io,
    os::fd::{BorrowedFd, FromRawFd as _, OwnedFd},
};

use sd_notify::NotifyState;

use crate::kernel::userspace::Handover;

/// Ours begin so.
const PREFIX: &str = "tunnel-";

/// The store of this process's manager, if it has one.
#[derive(Debug)]
pub(super) struct Store(BTreeMap<String, Vec<OwnedFd>>);

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
        Self(inherited)
    }
}

impl Handover for Store {
    fn take(&mut self, name: &str) -> Vec<OwnedFd> {
        self.0.remove(&named(name)).unwrap_or_default()
    }

    fn left(&mut self) -> Vec<(String, Vec<OwnedFd>)> {
        let ours = |(name, descriptors): (String, Vec<OwnedFd>)| {
            name.strip_prefix(PREFIX).map(|name| (name.to_owned(), descriptors))
        };
        std::mem::take(&mut self.0).into_iter().filter_map(ours).collect()
    }

    fn keep(&mut self, name: &str, descriptors: &[BorrowedFd<'_>]) {
        note(sd_notify::notify_with_fds(&[NotifyState::FdStore, NotifyState::FdName(&named(name))], descriptors));
    }

    fn forget(&mut self, name: &str) {
        note(sd_notify::notify(&[NotifyState::FdStoreRemove, NotifyState::FdName(&named(name))]));
    }
}

fn named(name: &str) -> String {
    format!("{PREFIX}{name}")
}

fn note(told: io::Result<()>) {
    if let Err(error) = told {
        tracing::warn!(%error, "the service manager could not be told (NOTIFY_SOCKET)");
    }
}
