//! Looking at the kernel: all of it on doubt, part by part for what sent no notice.

use std::time::Duration;

use rand::Rng as _;

use super::{Agent, LARGE};
use crate::{kernel::Kernel, reconcile::Host};

/// Every object is looked at this often.
const SWEEP: Duration = Duration::from_secs(10);

/// When to look at the next part.
#[derive(Debug)]
pub(super) struct Sweep {
    due: Duration,
    part: usize,
    /// [`SWEEP`], except in tests.
    pub(super) every: Duration,
}

impl Default for Sweep {
    fn default() -> Self {
        Self { due: Duration::ZERO, part: 0, every: SWEEP }
    }
}

impl Sweep {
    pub(super) fn due(&self) -> Duration {
        self.due
    }

    /// Which part is to be looked at now.
    pub(super) fn part(&self, now: Duration) -> Option<usize> {
        (self.due <= now).then_some(self.part)
    }

    /// Goes on with this part of so many, in time for each to be looked at again within a sweep.
    fn goes_on(&mut self, part: usize, parts: usize, now: Duration) {
        let share = u32::try_from(parts).map_or(self.every, |parts| self.every / parts.max(1));
        self.due = now + share.mul_f64(rand::rng().random_range(0.8..0.98));
        self.part = part % parts;
    }
}

impl<K: Kernel<Notice: Clone>, H: Host> Agent<K, H> {
    pub(super) fn observe_after(&mut self, wait: Duration, why: &'static str) {
        let at = self.now() + wait;
        if self.due.observe.is_none_or(|(due, _)| at < due) {
            self.due.observe = Some((at, why));
        }
    }

    /// A full look, for doubt.
    pub(super) fn observe(&mut self, why: &'static str) {
        // Whatever made the kernel state doubtful may have been at the uplink too.
        self.choose_uplink();
        self.look_at_pods();
        self.read_kernel(why);
    }

    /// A part of what nobody gave reason to doubt. What is not as it was brings a full look, and so does a part that
    /// could not be read.
    pub(super) fn sweep(&mut self, part: usize) {
        self.sweep.goes_on(part + 1, K::PARTS, self.now());
        let still = self.kernel.is_still(part, self.world.observed(), self.world.wanted());
        if !matches!(still, Ok(true)) {
            tracing::debug!(part, ?still, "not as it was");
            self.memory.swept();
            return self.read_kernel("sweep");
        }
        if part + 1 == K::PARTS {
            self.memory.swept();
            self.forget_healed();
        }
    }

    fn read_kernel(&mut self, why: &'static str) {
        tracing::debug!(why, "looking at the kernel state");
        self.sweep.goes_on(0, K::PARTS, self.now());
        match self.kernel.observe(self.world.wanted()) {
            Ok(observed) => {
                self.memory.observe_problem = None;
                self.memory.observed(why);
                let large = observed.len() >= LARGE;
                self.world.observe(observed);
                self.forget_healed();
                if large {
                    self.rest_soon();
                }
            }
            Err(error) => {
                let problem = error.to_string();
                if self.memory.observe_problem.as_ref() != Some(&problem) {
                    tracing::error!(%error, "cannot read the kernel state; trying again every second");
                }
                self.memory.observe_problem = Some(problem);
                self.observe_after(Duration::from_secs(1), "reading the kernel state failed");
            }
        }
    }

    /// What failed and is as wanted all the same, since somebody else saw to it.
    fn forget_healed(&mut self) {
        let (wanted, observed) = (self.world.wanted(), self.world.observed());
        self.retries.forget_if(|key| wanted.get(key) == observed.get(key));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_is_looked_at_again_within_a_sweep() {
        let (mut sweep, mut now) = (Sweep::default(), Duration::ZERO);
        sweep.goes_on(0, 5, now);
        let mut last = [Duration::ZERO; 5];
        for turn in 0..100 {
            assert_eq!(sweep.part(now), None);
            now = sweep.due();
            let part = sweep.part(now).unwrap();
            assert_eq!(part, turn % 5);
            assert!(now - last[part] <= SWEEP, "part {part} after {:?}", now - last[part]);
            last[part] = now;
            sweep.goes_on(part + 1, 5, now);
        }
    }
}
