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
        entry.next = now + wait.mul_f64(1.0 + jitter.clamp(0.0, 1.0) / 4.0);
    }

    /// Whether a failure that another look may explain is the first since it worked: then it is
    /// none yet, and the object need not wait.
    pub fn surprised(&mut self, key: Key) -> bool {
        self.surprises.insert(key)
    }

    /// It worked, or is not wanted any more.
    pub fn forget(&mut self, key: &Key) {
        self.failures.remove(key);
        self.surprises.remove(key);
    }

    /// Forgets every failure for which `stale` holds.
    pub fn forget_if(&mut self, mut stale: impl FnMut(&Key) -> bool) {
        self.failures.retain(|key, _| !stale(key));
        self.surprises.retain(|key| !stale(key));
    }

    /// It is too early to try this one again.
    pub fn holds(&self, key: &Key, now: Duration) -> bool {
        self.failures.get(key).is_some_and(|failure| failure.next > now)
    }

    /// The earliest time at which something is due.
    pub fn next(&self) -> Option<Duration> {
        self.failures.values().map(|failure| failure.next).min()
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
