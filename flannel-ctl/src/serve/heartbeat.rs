//! Proof that the reconcile loop still turns, on the monotonic clock.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// The loop beats, everybody else looks at the age. Clones share the same heart.
#[derive(Clone, Debug)]
pub struct Heartbeat {
    origin: Instant,
    /// Milliseconds since `origin`.
    last: Arc<AtomicU64>,
}

impl Heartbeat {
    /// Older than this, the loop counts as stuck. It beats whenever it wakes, which a sweep
    /// makes it do every 10 seconds at the latest.
    pub const LIMIT: Duration = Duration::from_secs(30);

    /// The first beat.
    pub fn new(now: Instant) -> Self {
        Self { origin: now, last: Arc::new(AtomicU64::new(0)) }
    }

    /// Called by the loop each time it comes round, and by long steps in between.
    pub fn beat(&self, now: Instant) {
        let millis = u64::try_from(now.saturating_duration_since(self.origin).as_millis()).unwrap_or(u64::MAX);
        self.last.fetch_max(millis, Ordering::Relaxed);
    }

    pub fn age(&self, now: Instant) -> Duration {
        let last = Duration::from_millis(self.last.load(Ordering::Relaxed));
        now.saturating_duration_since(self.origin).saturating_sub(last)
    }

    pub fn is_young(&self, now: Instant) -> bool {
        self.age(now) <= Self::LIMIT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_old_without_beats_and_young_with_one() {
        let start = Instant::now();
        let heart = Heartbeat::new(start);
        let watcher = heart.clone();
        assert!(watcher.is_young(start + Heartbeat::LIMIT));
        let late = start + Heartbeat::LIMIT + Duration::from_secs(1);
        assert!(!watcher.is_young(late));
        heart.beat(late);
        assert_eq!(watcher.age(late + Duration::from_secs(2)), Duration::from_secs(2));
        assert!(watcher.is_young(late));
    }

    #[test]
    fn a_beat_from_the_past_does_not_age_it() {
        let start = Instant::now();
        let heart = Heartbeat::new(start);
        heart.beat(start + Duration::from_secs(9));
        heart.beat(start + Duration::from_secs(3));
        assert_eq!(heart.age(start + Duration::from_secs(9)), Duration::ZERO);
    }
}
