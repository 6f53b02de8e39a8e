//! Waiting for packets, or for the end.

use std::{
    io,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};

/// Says when to end; one for all threads.
#[derive(Debug)]
pub(super) struct Stop {
    flag: AtomicBool,
    /// Readable from then on.
    bell: UnixStream,
    rope: UnixStream,
}

impl Stop {
    pub(super) fn new() -> io::Result<Arc<Self>> {
        let (bell, rope) = UnixStream::pair()?;
        Ok(Arc::new(Self { flag: AtomicBool::new(false), bell, rope }))
    }

    /// Wakes everybody, now and in future.
    pub(super) fn ring(&self) {
        self.flag.store(true, Ordering::Relaxed);
        // Fails only if the other end is closed, which lives as long as this one.
        drop(self.rope.shutdown(std::net::Shutdown::Both));
    }

    pub(super) fn is_rung(&self) -> bool {
        self.flag.load(Ordering::Relaxed)
    }

    /// Waits until there is something to read, or the end; no longer than that.
    pub(super) fn wait(&self, sources: [BorrowedFd<'_>; 2], patience: PollTimeout) -> io::Result<()> {
        let [tun, socket] = sources;
        let mut all = [tun, socket, self.bell.as_fd()].map(|source| PollFd::new(source, PollFlags::POLLIN));
        match poll(&mut all, patience) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }
}
