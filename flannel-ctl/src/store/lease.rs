//! PURE: when leases end. Time is an argument: how long the store has been running, by a clock that never jumps.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

#[derive(Clone, Copy, Debug)]
struct Term {
    ttl: Duration,
    end: Duration,
}

/// The leases that are running, by id.
#[derive(Debug, Default)]
pub struct Lessor {
    terms: BTreeMap<i64, Term>,
    ends: BTreeSet<(Duration, i64)>,
}

impl Lessor {
    /// Starts a lease, or starts it over with another TTL (in seconds).
    pub fn grant(&mut self, id: i64, ttl: i64, now: Duration) {
        let ttl = Duration::from_secs(u64::try_from(ttl).unwrap_or(0));
        self.revoke(id);
        let end = now.saturating_add(ttl);
        self.terms.insert(id, Term { ttl, end });
        self.ends.insert((end, id));
    }

    /// Forgets a lease.
    pub fn revoke(&mut self, id: i64) {
        if let Some(term) = self.terms.remove(&id) {
            self.ends.remove(&(term.end, id));
        }
    }

    /// A keep-alive: the lease's life begins anew. Answers its TTL in seconds; none for a lease that is gone or over,
    /// because what has expired is about to be revoked and must not come back.
    pub fn renew(&mut self, id: i64, now: Duration) -> Option<i64> {
        let term = self.terms.get_mut(&id).filter(|term| term.end > now)?;
        self.ends.remove(&(term.end, id));
        term.end = now.saturating_add(term.ttl);
        self.ends.insert((term.end, id));
        Some(seconds(term.ttl))
    }

    /// What is left of a lease and what it was granted, in seconds.
    pub fn remaining(&self, id: i64, now: Duration) -> Option<(i64, i64)> {
        let term = self.terms.get(&id)?;
        Some((seconds(term.end.saturating_sub(now)), seconds(term.ttl)))
    }

    /// Leases that are over, those longest over first, at most `limit` of them.
    pub fn expired(&self, now: Duration, limit: usize) -> Vec<i64> {
        self.ends.iter().take_while(|(end, _)| *end <= now).take(limit).map(|&(_, id)| id).collect()
    }

    /// When the next lease ends.
    pub fn next_end(&self) -> Option<Duration> {
        self.ends.first().map(|&(end, _)| end)
    }

    /// All leases, the one that ends first comes first.
    pub fn ids(&self) -> Vec<i64> {
        self.ends.iter().map(|&(_, id)| id).collect()
    }
}

fn seconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    const fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_lease_that_is_kept_alive_outlives_its_ttl() {
        let mut lessor = Lessor::default();
        lessor.grant(7, 10, at(0));
        assert_eq!(lessor.renew(7, at(9)), Some(10));
        assert_eq!(lessor.expired(at(18), 10), Vec::<i64>::new());
        assert_eq!(lessor.remaining(7, at(18)), Some((1, 10)));
        assert_eq!(lessor.expired(at(19), 10), vec![7]);
    }

    #[test]
    fn an_expired_lease_cannot_be_renewed_before_it_is_revoked() {
        let mut lessor = Lessor::default();
        lessor.grant(7, 10, at(0));
        assert_eq!(lessor.renew(7, at(10)), None);
        assert_eq!(lessor.remaining(7, at(12)), Some((0, 10)));
        lessor.revoke(7);
        assert_eq!(lessor.remaining(7, at(12)), None);
        assert_eq!(lessor.next_end(), None);
    }

    #[test]
    fn a_life_beyond_the_clock_s_range_never_ends() {
        let mut lessor = Lessor::default();
        lessor.grant(1, i64::MAX, Duration::MAX);
        assert_eq!(lessor.renew(1, at(5)), Some(i64::MAX));
    }

    proptest! {
        #[test]
        fn expiry_agrees_with_a_plain_map(ops in prop::collection::vec((0..4u8, 1..6i64, 1..9i64, 0..4u64), 1..80)) {
            let mut lessor = Lessor::default();
            let mut model: BTreeMap<i64, (u64, u64)> = BTreeMap::new();
            let mut now = 0;
            for (op, id, ttl, step) in ops {
                now += step;
                match op {
                    0 => {
                        lessor.grant(id, ttl, at(now));
                        model.insert(id, (ttl.unsigned_abs(), now + ttl.unsigned_abs()));
                    }
                    1 => {
                        lessor.revoke(id);
                        model.remove(&id);
                    }
                    _ => {
                        let alive = model.get_mut(&id).filter(|(_, end)| *end > now);
                        prop_assert_eq!(lessor.renew(id, at(now)).is_some(), alive.is_some());
                        if let Some((ttl, end)) = alive {
                            *end = now + *ttl;
                        }
                    }
                }
                let mut over: Vec<(u64, i64)> = model.iter().filter(|(_, v)| v.1 <= now).map(|(&id, v)| (v.1, id)).collect();
                over.sort_unstable();
                prop_assert_eq!(lessor.expired(at(now), 99), over.into_iter().map(|(_, id)| id).collect::<Vec<_>>());
                prop_assert_eq!(lessor.next_end(), model.values().map(|v| at(v.1)).min());
            }
        }
    }
}
