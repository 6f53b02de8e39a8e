//! Looking at the kernel: all of it on doubt, part by part for what sent no notice.

use std::time::Duration;

use rand::Rng as _;

use super::{Agent, Ear, LARGE};
use crate::{kernel::Kernel, reconcile::Host};

/// Every object is looked at this often, as long as they are no more than [`MANY`].
const SWEEP: Duration = Duration::from_secs(10);
/// What is more than this prolongs the time in which each table entry is looked at again, so that a large cluster costs an
/// idle node no more than a middling one. The kernel tells of each change to these tables by itself; whatever it does not
/// tell of, and everything while nothing is heard, is still looked at within [`SWEEP`].
const MANY: usize = 10_000;
/// Up to so many times.
const LONGEST: f64 = 6.0;

/// When to look at what.
#[derive(Debug)]
pub(super) struct Sweep {
    silent: Round,
    told: Round,
    /// [`SWEEP`], except in tests.
    pub(super) every: Duration,
}

/// One part after the other.
#[derive(Debug, Default)]
struct Round {
    due: Duration,
    part: usize,
}

/// How much there is to look at.
#[derive(Clone, Copy, Debug)]
struct Extent {
    /// See [`Kernel::SILENT`].
    silent: usize,
    /// See [`Kernel::PARTS`].
    parts: usize,
    objects: usize,
    /// Nothing is heard of the kernel, so looking is all there is.
    deaf: bool,
}

impl Default for Sweep {
    fn default() -> Self {
        Self { silent: Round::default(), told: Round { due: Duration::MAX, part: 0 }, every: SWEEP }
    }
}

impl Sweep {
    pub(super) fn due(&self) -> Duration {
        self.silent.due.min(self.told.due)
    }

    /// Which part is to be looked at now.
    pub(super) fn part(&self, now: Duration) -> Option<usize> {
        [&self.silent, &self.told].into_iter().find(|round| round.due <= now).map(|round| round.part)
    }

    /// This part has been looked at; in time for it to be looked at again, the others of its round come first.
    fn goes_on(&mut self, part: usize, extent: Extent, now: Duration) {
        let (round, parts, time) = if part < extent.silent {
            (&mut self.silent, 0..extent.silent, self.every)
        } else {
            (&mut self.told, extent.silent..extent.parts, self.every.mul_f64(extent.longer()))
        };
        round.part = if part + 1 < parts.end { part + 1 } else { parts.start };
        let share = u32::try_from(parts.len()).map_or(time, |parts| time / parts);
        round.due = now + share.mul_f64(rand::rng().random_range(0.8..0.98));
    }

    /// Everything has been looked at.
    fn begins_anew(&mut self, extent: Extent, now: Duration) {
        self.goes_on(extent.silent - 1, extent, now);
        if extent.parts > extent.silent {
            self.goes_on(extent.parts - 1, extent, now);
        }
    }
}

impl Extent {
    /// How many times as long a round may take whose parts the kernel tells of by itself.
    fn longer(self) -> f64 {
        let tenths = u32::try_from(self.objects / (MANY / 10)).unwrap_or(u32::MAX);
        if self.deaf { 1.0 } else { (f64::from(tenths) / 10.0).clamp(1.0, LONGEST) }
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
        self.sweep.goes_on(part, self.extent(), self.now());
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

    fn extent(&self) -> Extent {
        let objects = self.world.observed().len();
        Extent { silent: K::SILENT, parts: K::PARTS, objects, deaf: self.memory.is_deaf(Ear::Kernel) }
    }

    fn read_kernel(&mut self, why: &'static str) {
        tracing::debug!(why, "looking at the kernel state");
        self.sweep.begins_anew(self.extent(), self.now());
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

    /// The longest time between two looks at each part.
    fn longest(objects: usize, deaf: bool) -> [Duration; 6] {
        let extent = Extent { silent: 2, parts: 6, objects, deaf };
        let (mut sweep, mut now) = (Sweep::default(), Duration::ZERO);
        sweep.begins_anew(extent, now);
        let (mut last, mut longest) = ([Duration::ZERO; 6], [Duration::ZERO; 6]);
        for _ in 0..300 {
            assert_eq!(sweep.part(now), None);
            now = sweep.due();
            while let Some(part) = sweep.part(now) {
                longest[part] = longest[part].max(now - last[part]);
                last[part] = now;
                sweep.goes_on(part, extent, now);
            }
        }
        longest
    }

    #[test]
    fn every_part_is_looked_at_again_within_a_sweep() {
        for (objects, deaf) in [(0, false), (MANY, false), (60 * MANY, true)] {
            let longest = longest(objects, deaf);
            assert!(longest.iter().all(|wait| (SWEEP / 2..=SWEEP).contains(wait)), "{objects} {deaf} {longest:?}");
        }
    }

    #[test]
    fn what_may_change_silently_is_looked_at_within_a_sweep_however_large_the_tables_are() {
        for (objects, longer) in [(3 * MANY, 3.0), (6 * MANY, LONGEST), (usize::MAX, LONGEST)] {
            let [few, fast_peers, tables @ ..] = longest(objects, false);
            assert!(few.max(fast_peers) <= SWEEP, "{few:?} {fast_peers:?}");
            let limit = SWEEP.mul_f64(longer);
            assert!(tables.iter().all(|wait| (limit / 2..=limit).contains(wait)), "{objects} {tables:?}");
        }
    }
}
