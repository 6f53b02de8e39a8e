//! PURE: how often flows are doubted. Each doubt sends one packet of every flow and direction the long way, so whoever
//! changes rules all the time must not be answered each time; but the last change has to be.

use std::time::{Duration, Instant};

/// Doubts in a row that are carried out at once: a policy is put in with a few commands.
const BURST: u32 = 8;
/// One more for each of these.
const PAUSE: Duration = Duration::from_millis(250);

/// What is owed, and what was done lately.
#[derive(Debug, Default)]
pub(super) struct Doubts {
    owed: bool,
    /// When a whole burst is allowed again.
    rested: Option<Instant>,
}

impl Doubts {
    /// Something changed.
    pub(super) fn raise(&mut self) {
        self.owed = true;
    }

    /// Whether flows are to be doubted now.
    pub(super) fn settle(&mut self, now: Instant) -> bool {
        if self.wait(now) != Some(Duration::ZERO) {
            return false;
        }
        self.owed = false;
        self.rested = Some(self.rested.map_or(now, |rested| rested.max(now)) + PAUSE);
        true
    }

    /// How long until flows are to be doubted; `None`: there is no reason to.
    pub(super) fn wait(&self, now: Instant) -> Option<Duration> {
        let tired = self.rested.map_or(Duration::ZERO, |rested| rested.saturating_duration_since(now));
        self.owed.then(|| tired.saturating_sub(PAUSE * (BURST - 1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_changes_are_answered_at_once_each() {
        let (mut doubts, now) = (Doubts::default(), Instant::now());
        for _ in 0..BURST {
            assert!(!doubts.settle(now), "nothing has changed");
            doubts.raise();
            assert!(doubts.settle(now));
        }
        assert_eq!(doubts.wait(now), None);
    }

    #[test]
    fn a_storm_is_answered_four_times_a_second_and_its_last_change_is_never_lost() {
        let (mut doubts, start) = (Doubts::default(), Instant::now());
        let change = Duration::from_millis(1);
        let mut settled = 0;
        for n in 0..10_000 {
            doubts.raise();
            settled += u32::from(doubts.settle(start + change * n));
        }
        assert_eq!(settled, BURST + 39);
        let end = start + change * 10_000;
        let wait = doubts.wait(end).expect("the last change is owed");
        assert!(wait <= PAUSE, "{wait:?}");
        assert!(doubts.settle(end + wait));
        assert_eq!(doubts.wait(end + wait), None);
        let later = end + PAUSE * BURST * 2;
        for _ in 0..BURST {
            doubts.raise();
            assert!(doubts.settle(later), "it has rested");
        }
    }
}
