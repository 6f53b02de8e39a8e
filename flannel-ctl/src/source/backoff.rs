//! How long to wait before the next try.

use std::time::Duration;

/// Doubles from try to try, up to a limit, with jitter so that a cluster does not try in step.
#[derive(Clone, Debug)]
pub(in crate::source) struct Backoff {
    first: Duration,
    limit: Duration,
    tries: u32,
}

impl Backoff {
    pub(in crate::source) fn new(first: Duration, limit: Duration) -> Self {
        Self { first, limit, tries: 0 }
    }

    pub(in crate::source) fn reset(&mut self) {
        self.tries = 0;
    }

    pub(in crate::source) fn next(&mut self) -> Duration {
        let base = self.first.saturating_mul(1 << self.tries.min(16)).min(self.limit);
        self.tries = self.tries.saturating_add(1);
        base.mul_f64(rand::random_range(0.5..1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_to_its_limit_and_starts_again() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        assert!(backoff.next() <= Duration::from_millis(100));
        for _ in 0..100 {
            assert!(backoff.next() <= Duration::from_secs(5));
        }
        assert!(backoff.next() >= Duration::from_millis(2500));
        backoff.reset();
        assert!(backoff.next() <= Duration::from_millis(100));
    }
}
