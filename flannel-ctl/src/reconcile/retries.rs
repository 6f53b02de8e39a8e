//! PURE: which objects failed, how often, and when each is tried again.
//!
//! Every object waits on its own: one that the kernel refuses for ever holds up nobody else.
//! Time is the time since the agent started; randomness comes in as an argument.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::{kernel::KernelError, model::Key};

/// First wait after a failure.
const FIRST: Duration = Duration::from_millis(100);
/// Longest wait: as long as a sweep, which would try again anyhow.
const LONGEST: Duration = Duration::from_secs(10);
/// For each object that fails, the next try may wait this much longer for company, up to a
/// second: a pass for each of ten thousand would leave time for nothing else.
const COMPANY: Duration = Duration::from_micros(100);
const LONGEST_COMPANY: Duration = Duration::from_secs(1);

/// One object that could not be brought into its wanted state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub error: KernelError,
    pub tries: u32,
    /// When it failed first, and when it is tried next.
    pub since: Duration,
    pub next: Duration,
}

/// All failing objects.
#[derive(Debug, Default)]
pub struct Retries {
    failures: BTreeMap<Key, Failure>,
    /// The same in the order of `since` and of `next`.
    oldest: BTreeSet<(Duration, Key)>,
    due: BTreeSet<(Duration, Key)>,
    surprises: BTreeSet<Key>,
}

impl Retries {
    /// Notes a failure. `jitter` in 0..=1 stretches the wait by up to a quarter, so that many
    /// failures of one moment do not come back in one moment.
    pub fn failed(&mut self, key: Key, error: KernelError, now: Duration, jitter: f64) {
        let entry =
            self.failures.entry(key).or_insert(Failure { error: error.clone(), tries: 0, since: now, next: now });
        let wait = FIRST.saturating_mul(1 << entry.tries.min(10)).min(LONGEST);
        entry.tries += 1;
        entry.error = error;
        self.due.remove(&(entry.next, key));
        entry.next = now + wait.mul_f64(1.0 + jitter.clamp(0.0, 1.0) / 4.0);
        self.oldest.insert((entry.since, key));
        self.due.insert((entry.next, key));
    }

    /// Whether a failure that another look may explain is the first since it worked: then it is
    /// none yet, and the object need not wait.
    pub fn surprised(&mut self, key: Key) -> bool {
        self.surprises.insert(key)
    }

    /// It worked, or is not wanted any more.
    pub fn forget(&mut self, key: &Key) {
        if let Some(failure) = self.failures.remove(key) {
            self.oldest.remove(&(failure.since, *key));
            self.due.remove(&(failure.next, *key));
        }
        self.surprises.remove(key);
    }

    /// Forgets every failure for which `stale` holds.
    pub fn forget_if(&mut self, mut stale: impl FnMut(&Key) -> bool) {
        let gone: Vec<Key> = self.failures.keys().chain(&self.surprises).filter(|key| stale(key)).copied().collect();
        gone.iter().for_each(|key| self.forget(key));
    }

    /// It is too early to try this one again.
    pub fn holds(&self, key: &Key, now: Duration) -> bool {
        self.failures.get(key).is_some_and(|failure| failure.next > now)
    }

    /// When to try again: the earliest time at which something is due, and a little later the
    /// more there is.
    pub fn next(&self) -> Option<Duration> {
        let (next, _) = self.due.first()?;
        let failing = u32::try_from(self.failures.len()).unwrap_or(u32::MAX);
        Some(*next + COMPANY.saturating_mul(failing).min(LONGEST_COMPANY))
    }

    /// Those that have failed for the longest come first.
    pub fn oldest(&self) -> impl Iterator<Item = (&Key, &Failure)> {
        self.oldest.iter().filter_map(|(_, key)| self.failures.get_key_value(key))
    }

    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&Key, &Failure)> {
        self.failures.iter()
    }

    pub fn get(&self, key: &Key) -> Option<&Failure> {
        self.failures.get(key)
    }

    pub fn is_empty(&self) -> bool {
        self.failures.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error() -> KernelError {
        KernelError { attempt: "add".into(), answer: "no".into(), hint: None, errno: 1 }
    }

    #[test]
    fn waits_grow_to_a_bound_and_start_over_after_success() {
        let (mut retries, key, mut now) = (Retries::default(), Key::Filter, Duration::ZERO);
        let mut waits = Vec::new();
        for _ in 0..12 {
            retries.failed(key, error(), now, 0.0);
            let next = retries.next().unwrap();
            assert!(retries.holds(&key, now));
            assert!(!retries.holds(&key, next));
            waits.push((next - now).as_millis());
            now = next;
        }
        assert_eq!(waits, [100, 200, 400, 800, 1600, 3200, 6400, 10000, 10000, 10000, 10000, 10000]);
        assert_eq!(retries.get(&key).unwrap().since, Duration::ZERO);
        retries.forget(&key);
        assert!(retries.is_empty());
        retries.failed(key, error(), now, 0.0);
        assert_eq!(retries.get(&key).unwrap().tries, 1);
    }

    #[test]
    fn ten_thousand_that_fail_are_tried_together() {
        let mut retries = Retries::default();
        let key = |n: u32| Key::Nexthop(std::net::Ipv4Addr::from(n));
        for n in 0..10_000 {
            retries.failed(key(n), error(), Duration::ZERO, f64::from(n) / 10_000.0);
        }
        let (mut now, mut passes, mut tries) = (Duration::ZERO, 0, 0);
        while now < Duration::from_mins(2) {
            now = retries.next().unwrap();
            passes += 1;
            for n in (0..10_000).filter(|n| !retries.holds(&key(*n), now)).collect::<Vec<_>>() {
                retries.failed(key(n), error(), now, f64::from(n) / 10_000.0);
                tries += 1;
            }
        }
        assert!(passes <= 130, "{passes} passes in two minutes");
        assert!(tries >= 90_000, "each is still tried, {tries} times in all");
    }

    #[test]
    fn the_oldest_come_first_and_go_when_they_work() {
        let mut retries = Retries::default();
        let (first, second) = (Key::Nexthop([10, 9, 9, 9].into()), Key::Filter);
        retries.failed(first, error(), Duration::from_secs(1), 0.0);
        retries.failed(second, error(), Duration::from_secs(2), 0.0);
        retries.failed(first, error(), Duration::from_secs(3), 0.0);
        assert_eq!(retries.oldest().map(|(key, _)| *key).collect::<Vec<_>>(), [first, second]);
        retries.forget_if(|key| *key == first);
        assert_eq!(retries.oldest().map(|(key, _)| *key).collect::<Vec<_>>(), [second]);
        retries.forget(&second);
        assert_eq!((retries.oldest().count(), retries.next()), (0, None));
    }

    #[test]
    fn a_surprise_is_one_until_it_worked() {
        let mut retries = Retries::default();
        assert!(retries.surprised(Key::Filter));
        assert!(!retries.surprised(Key::Filter));
        retries.forget(&Key::Filter);
        assert!(retries.surprised(Key::Filter));
    }

    #[test]
    fn one_failure_holds_only_itself() {
        let mut retries = Retries::default();
        retries.failed(Key::Filter, error(), Duration::ZERO, 1.0);
        assert!(!retries.holds(&Key::Neighbour([10, 0, 0, 1].into()), Duration::ZERO));
    }
}
