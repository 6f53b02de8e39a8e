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
    thread,
    time::{Duration, Instant},
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

    /// Waits until there is something to read, or the end.
    pub(super) fn wait(&self, source: BorrowedFd<'_>) -> io::Result<()> {
        let mut both = [PollFd::new(source, PollFlags::POLLIN), PollFd::new(self.bell.as_fd(), PollFlags::POLLIN)];
        match poll(&mut both, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }
}

/// How long a thread looks again before it sleeps: a wakeup takes as long, and costs more.
const LOOK_AGAIN: Duration = Duration::from_micros(30);
/// If nothing came for longer than this, looking again was, or would have been, in vain.
const SOON: Duration = Duration::from_micros(100);

/// One thread's patience. Requests and responses come one at a time, but soon; a thread that sleeps in between has them
/// wait for it to wake.
#[derive(Debug, Default)]
pub(super) struct Patience {
    since: Option<Instant>,
    /// The last wait was a short one.
    soon: bool,
}

impl Patience {
    /// Something was there.
    pub(super) fn got_some(&mut self) {
        if let Some(since) = self.since.take() {
            self.soon = since.elapsed() < SOON;
        }
    }

    /// Nothing was there: whether to sleep now. If not, somebody else has had the core meanwhile.
    pub(super) fn is_over(&mut self) -> bool {
        let since = *self.since.get_or_insert_with(Instant::now);
        if !self.soon || since.elapsed() >= LOOK_AGAIN {
            return true;
        }
        thread::yield_now();
        false
    }
}
