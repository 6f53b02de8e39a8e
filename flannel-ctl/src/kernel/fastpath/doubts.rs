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

    /// Has flows doubted if they are to be now. It stays owed if that fails.
    pub(super) fn settle<E>(&mut self, now: Instant, doubt: impl FnOnce() -> Result<(), E>) -> Result<(), E> {
        if self.wait(now) != Some(Duration::ZERO) {
            return Ok(());
        }
        self.rested = Some(self.rested.map_or(now, |rested| rested.max(now)) + PAUSE);
        doubt()?;
        self.owed = false;
        Ok(())
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

    /// Whether flows are doubted now.
    fn settle(doubts: &mut Doubts, now: Instant) -> bool {
        let mut done = false;
        let doubt = || {
            done = true;
            Ok::<(), ()>(())
        };
        doubts.settle(now, doubt).unwrap();
        done
    }

    #[test]
    fn a_few_changes_are_answered_at_once_each() {
        let (mut doubts, now) = (Doubts::default(), Instant::now());
        for _ in 0..BURST {
            assert!(!settle(&mut doubts, now), "nothing has changed");
            doubts.raise();
            assert!(settle(&mut doubts, now));
        }
        assert_eq!(doubts.wait(now), None);
    }

    #[test]
    fn what_could_not_be_done_stays_owed_and_tries_are_as_rare_as_successes() {
        let (mut doubts, now) = (Doubts::default(), Instant::now());
        doubts.raise();
        for _ in 0..BURST {
            assert_eq!(doubts.settle(now, || Err("no")), Err("no"));
        }
        assert_eq!(doubts.settle(now, || Err("too early to try again")), Ok(()));
        let wait = doubts.wait(now).expect("it is owed");
        assert!(settle(&mut doubts, now + wait));
        assert_eq!(doubts.wait(now + wait), None);
    }

    #[test]
    fn a_storm_is_answered_four_times_a_second_and_its_last_change_is_never_lost() {
        let (mut doubts, start) = (Doubts::default(), Instant::now());
        let change = Duration::from_millis(1);
        let mut settled = 0;
        for n in 0..10_000 {
            doubts.raise();
            settled += u32::from(settle(&mut doubts, start + change * n));
        }
        assert_eq!(settled, BURST + 39);
        let end = start + change * 10_000;
        let wait = doubts.wait(end).expect("the last change is owed");
        assert!(wait <= PAUSE, "{wait:?}");
        assert!(settle(&mut doubts, end + wait));
        assert_eq!(doubts.wait(end + wait), None);
        let later = end + PAUSE * BURST * 2;
        for _ in 0..BURST {
            doubts.raise();
            assert!(settle(&mut doubts, later), "it has rested");
        }
    }
}
