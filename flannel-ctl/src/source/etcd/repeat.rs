//! PURE: when our lease is written once more, for those who missed it.
//!
//! flannel's daemon up to 0.21.0 takes one change from its watch and then begins another, from that moment on. What is
//! written between the two it never learns, until somebody writes it again: its own nodes do so after 23 hours. So while
//! there are leases of flannel's daemons, we write ours again soon after every change, and then every few minutes.

use std::{ops::Range, time::Duration};

use tokio::time::Instant;

/// In seconds after the write before, the last one for ever, and as many times as long as there are thousands of leases:
/// every node hears of each write. Spread, so that nodes that came together do not come together again.
const AFTER: [Range<f64>; 4] = [0.8..2.4, 4.0..12.0, 20.0..60.0, 240.0..300.0];

/// When to repeat what was written last.
#[derive(Debug)]
pub(super) struct Repeat {
    done: usize,
    at: Instant,
}

impl Repeat {
    /// Something new was written just now.
    pub(super) fn after(now: Instant) -> Self {
        Self { done: 0, at: now + pause(0) }
    }

    /// When the next repetition is due.
    pub(super) fn at(&self) -> Instant {
        self.at
    }

    /// Whether one is due, which then counts as done. `leases`: how many there are.
    pub(super) fn take(&mut self, now: Instant, leases: usize) -> bool {
        let due = self.at <= now;
        if due {
            self.done += 1;
            let thousands = u32::try_from(leases / 1000).unwrap_or(u32::MAX).max(1);
            self.at = now + pause(self.done).saturating_mul(thousands);
        }
        due
    }
}

fn pause(done: usize) -> Duration {
    let seconds = AFTER[done.min(AFTER.len() - 1)].clone();
    Duration::from_secs_f64(rand::random_range(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn soon_and_then_ever_later() {
        let mut now = Instant::now();
        let mut repeat = Repeat::after(now);
        for range in AFTER.into_iter().chain([240.0..300.0]) {
            assert!(range.contains(&(repeat.at() - now).as_secs_f64()), "{:?}", repeat.at() - now);
            assert!(!repeat.take(now, 999), "not yet");
            now = repeat.at();
            assert!(repeat.take(now, 999));
        }
        assert!(!repeat.take(now, 999), "once each");
    }

    #[test]
    fn the_larger_the_cluster_the_later() {
        let mut now = Instant::now();
        let mut repeat = Repeat::after(now);
        for _ in 0..5 {
            now = repeat.at();
            assert!(repeat.take(now, 10_000));
        }
        let wait = (repeat.at() - now).as_secs_f64();
        assert!((2400.0..3000.0).contains(&wait), "{wait}");
    }
}
