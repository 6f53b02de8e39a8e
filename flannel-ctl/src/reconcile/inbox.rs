//! Notices on their way to the loop: however long a pass takes, no more than a bound of them.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Filled by a listening thread, emptied by the loop. Beyond the bound what waits is dropped
/// for one notice that says so: a full look at the kernel then tells more than all of them.
#[derive(Debug)]
pub struct Inbox<N>(Arc<Shared<N>>);

#[derive(Debug)]
struct Shared<N> {
    limit: usize,
    overflow: N,
    waiting: Mutex<Waiting<N>>,
}

#[derive(Debug)]
struct Waiting<N> {
    notices: Vec<N>,
    overflowed: bool,
}

impl<N: Clone> Inbox<N> {
    /// `overflow` stands for all that came when `limit` was waiting already.
    pub fn new(limit: usize, overflow: N) -> Self {
        let waiting = Mutex::new(Waiting { notices: Vec::new(), overflowed: false });
        Self(Arc::new(Shared { limit, overflow, waiting }))
    }

    /// Whether the loop has to be woken: it has not been since it last took everything.
    #[must_use]
    pub fn push(&self, notice: N) -> bool {
        let mut waiting = self.lock();
        let first = waiting.notices.is_empty();
        if waiting.overflowed {
            return false;
        }
        if waiting.notices.len() < self.0.limit {
            waiting.notices.push(notice);
        } else {
            waiting.notices = vec![self.0.overflow.clone()];
            waiting.overflowed = true;
        }
        first
    }

    /// All that is waiting, in order.
    pub fn take(&self) -> Vec<N> {
        let mut waiting = self.lock();
        waiting.overflowed = false;
        std::mem::take(&mut waiting.notices)
    }

    fn lock(&self) -> MutexGuard<'_, Waiting<N>> {
        self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<N> Clone for Inbox<N> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notices_come_in_order_and_wake_once() {
        let inbox = Inbox::new(8, "lost");
        assert!(inbox.push("a"));
        assert!(!inbox.push("b"));
        assert_eq!(inbox.take(), ["a", "b"]);
        assert!(inbox.push("c"));
        assert_eq!(inbox.take(), ["c"]);
        assert!(inbox.take().is_empty());
    }

    #[test]
    fn beyond_the_bound_one_notice_stands_for_all() {
        let inbox = Inbox::new(8, 0);
        let wakes = (1..=10_000).filter(|number| inbox.push(*number)).count();
        assert_eq!(wakes, 1);
        assert_eq!(inbox.take(), [0]);
        assert!(inbox.push(1), "and then it listens again");
        assert_eq!(inbox.take(), [1]);
    }
}
