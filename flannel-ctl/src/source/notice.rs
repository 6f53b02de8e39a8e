//! Notices that a file may have changed.

use std::{
    os::fd::{AsFd, AsRawFd, RawFd},
    path::Path,
    time::Duration,
};

use nix::{
    errno::Errno,
    sys::inotify::{AddWatchFlags, InitFlags, Inotify},
};
use tokio::{io::unix::AsyncFd, time::sleep};

/// Between two looks without a notice: for file systems that send none.
const LOOK: Duration = Duration::from_secs(10);
/// The same where notices cannot be had at all.
const LOOK_WITHOUT: Duration = Duration::from_secs(1);

/// Watches the directory and not the file, so that a rename over it, and the symlink that
/// Kubernetes moves for a mounted ConfigMap, are seen as well.
pub(in crate::source) struct Notices {
    inotify: Option<AsyncFd<Watch>>,
}

struct Watch(Inotify);

impl AsRawFd for Watch {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl Notices {
    /// Needs a tokio runtime.
    pub(in crate::source) fn of(path: &Path) -> Self {
        let directory = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        match watch(directory) {
            Ok(inotify) => Self { inotify: Some(inotify) },
            Err(error) => {
                tracing::info!(directory = %directory.display(), %error, "no change notices; looking every second");
                Self { inotify: None }
            }
        }
    }

    /// Returns when it is worth looking. Safe to drop while it waits.
    pub(in crate::source) async fn next(&mut self) {
        match &mut self.inotify {
            None => sleep(LOOK_WITHOUT).await,
            Some(inotify) => tokio::select! {
                () = drained(inotify) => {}
                () = sleep(LOOK) => {}
            },
        }
    }
}

fn watch(directory: &Path) -> std::io::Result<AsyncFd<Watch>> {
    let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
    let flags = AddWatchFlags::IN_CLOSE_WRITE
        | AddWatchFlags::IN_MOVED_TO
        | AddWatchFlags::IN_CREATE
        | AddWatchFlags::IN_DELETE
        | AddWatchFlags::IN_ONLYDIR;
    inotify.add_watch(directory, flags)?;
    // SAFETY: the descriptor belongs to `Watch`, which never closes or replaces it before it is
    // dropped itself, and always names the same one.
    unsafe { AsyncFd::register(Watch(inotify)) }.map_err(std::io::Error::from)
}

async fn drained(inotify: &mut AsyncFd<Watch>) {
    let Ok(mut guard) = inotify.readable_mut().await else { return sleep(LOOK_WITHOUT).await };
    loop {
        match guard.get_inner_mut().0.read_events() {
            Ok(_) => {}
            Err(Errno::EAGAIN) => {
                guard.clear_ready();
                return;
            }
            Err(_) => return,
        }
    }
}
