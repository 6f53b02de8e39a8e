//! How much of the pods' traffic took the fast path of late.

use std::{collections::VecDeque, time::Duration};

use flannel_common::Counter;

use super::{World, reporting::unix_now};
use crate::{
    kernel::KernelError,
    model::{Key, Place},
    serve::report::{FastPathReport, HitRate, Report, SparedPod},
    traffic::{Counts, Way},
};

/// What counts as recent.
const WINDOW: Duration = Duration::from_mins(1);

/// The counters of the last minute.
#[derive(Debug, Default)]
pub(super) struct Hits {
    /// Oldest first; the first one is just out of the window, if there is one that old.
    samples: VecDeque<(Duration, Counts)>,
    read_unix: Option<u64>,
    problem: Option<String>,
}

impl Hits {
    /// Takes in what was read now; `None`: there is no fast path.
    pub(super) fn read(&mut self, now: Duration, counts: Option<Result<Counts, KernelError>>) {
        match counts {
            None => self.samples.clear(),
            Some(Ok(counts)) => {
                self.problem = None;
                self.read_unix = Some(unix_now());
                self.samples.push_back((now, counts));
                while self.samples.get(1).is_some_and(|(at, _)| *at + WINDOW <= now) {
                    self.samples.pop_front();
                }
            }
            Some(Err(error)) => {
                let problem = error.to_string();
                if self.problem.as_ref() != Some(&problem) {
                    tracing::warn!(problem, "cannot tell how much takes the fast path");
                }
                self.problem = Some(problem);
            }
        }
    }

    pub(super) fn report(&self, world: &World) -> Option<FastPathReport> {
        let facts = world.facts();
        let options = facts.options.fast_path?;
        let attached = |index: &u32| world.observed().contains_key(&Key::Attachment(Place::Pod(*index)));
        let spared = facts
            .pods
            .values()
            .filter_map(|pod| Some(SparedPod { interface: pod.name.clone(), why: pod.spared?.to_owned() }));
        let (first, last) = (self.samples.front(), self.samples.back());
        let total = last.map(|(_, counts)| counts.clone()).unwrap_or_default();
        // What was counted before the daemon looked first is as recent as it gets.
        let recent = first.filter(|_| self.samples.len() > 1).map_or(total.clone(), |(_, counts)| total.since(counts));
        let window = first.zip(last).map_or(Duration::ZERO, |((first, _), (last, _))| *last - *first);
        let rate = |way| hit_rate(way, &total, &recent);
        Some(FastPathReport {
            enabled: options.enabled,
            pods: facts.pods.keys().filter(|index| attached(index)).count() as u64,
            spared: spared.take(Report::LIST_LIMIT).collect(),
            sent: rate(Way::Sent),
            received: rate(Way::Received),
            decisions: labelled(|counter| total.decided(counter)),
            window_secs: window.as_secs(),
            read_unix: self.read_unix,
            problem: self.problem.clone(),
        })
    }
}

fn hit_rate(way: Way, total: &Counts, recent: &Counts) -> HitRate {
    let share = recent.share(way);
    HitRate {
        percent: share.percent(),
        recent_fast: share.fast,
        recent_kernel: share.kernel,
        leading_reason: share.leading.map(|(counter, _)| counter.label().to_owned()),
        fast: total.share(way).fast,
        kernel: labelled(|counter| total.tunnelled(way, counter)),
    }
}

/// Those that are not zero.
fn labelled(count: impl Fn(Counter) -> u64) -> std::collections::BTreeMap<String, u64> {
    let counts = Counter::ALL.into_iter().map(|counter| (counter, count(counter)));
    counts.filter(|(_, count)| *count > 0).map(|(counter, count)| (counter.label().to_owned(), count)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(fast: u64, expired: u64) -> Counts {
        let (mut decided, mut tunnelled) = (vec![0; Counter::COUNT as usize], vec![0; Counter::TUNNELLED as usize]);
        decided[Counter::EgressFast.slot() as usize] = fast;
        tunnelled[Counter::EgressExpired.tunnelled_slot(false) as usize] = expired;
        Counts::new(decided, tunnelled)
    }

    fn recent(hits: &Hits) -> (Duration, Counts) {
        let (first, last) = (hits.samples.front().unwrap(), hits.samples.back().unwrap());
        (last.0 - first.0, last.1.since(&first.1))
    }

    #[test]
    fn what_is_older_than_a_minute_does_not_count() {
        let mut hits = Hits::default();
        for tick in 0..20 {
            // Fast for 100 s, and then not any more.
            let (fast, expired) = if tick < 10 { (tick * 100, 0) } else { (1000, (tick - 9) * 10) };
            hits.read(Duration::from_secs(10 * tick), Some(Ok(counts(fast, expired))));
        }
        let (window, recent) = recent(&hits);
        assert_eq!(window, WINDOW);
        let rate = hit_rate(Way::Sent, &counts(1000, 100), &recent);
        assert_eq!((rate.percent, rate.leading_reason.as_deref()), (Some(0.0), Some("egress_expired")));
        assert_eq!((rate.fast, rate.kernel["egress_expired"]), (1000, 100));
    }

    #[test]
    fn a_failure_to_read_is_told_and_forgotten() {
        let mut hits = Hits::default();
        let error = KernelError { attempt: "read".into(), answer: "no".into(), hint: None, errno: 1 };
        hits.read(Duration::ZERO, Some(Err(error)));
        assert_eq!(hits.problem.as_deref(), Some("read: no"));
        hits.read(Duration::ZERO, Some(Ok(counts(1, 0))));
        assert_eq!((hits.problem.clone(), hits.samples.len()), (None, 1));
        hits.read(Duration::ZERO, None);
        assert!(hits.samples.is_empty());
    }
}
