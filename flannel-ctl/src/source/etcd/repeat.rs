//! PURE: when our lease is written once more, for those who missed it.
//!
//! flannel's daemon up to 0.21.0 takes one change from its watch and then begins another, from that moment on. What is
//! written between the two it never learns, until somebody writes it again: its own nodes do so after 23 hours. So while
//! there are leases of flannel's daemons, we write ours again soon after every change, and then every few minutes.

use std::{ops::Range, time::Duration};

use tokio::time::Instant;

/// In seconds after the write before, the last one for ever. Spread, so that nodes that came together do not come
/// together again.
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

    /// Whether one is due, which then counts as done.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        let due = self.at <= now;
        if due {
            self.done += 1;
            self.at = now + pause(self.done);
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
            assert!(!repeat.take(now), "not yet");
            now = repeat.at();
            assert!(repeat.take(now));
        }
        assert!(!repeat.take(now), "once each");
    }
}
