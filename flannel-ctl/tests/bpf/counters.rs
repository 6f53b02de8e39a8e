//! Every reason that the programs count has a case that shows it.

use std::collections::{BTreeMap, BTreeSet};

use flannel_common::Counter;
use flannel_ctl::kernel::fastpath::{Hook, trial::Outcome};

use crate::{
    deserted, egress, forgery, ingress, learning,
    site::{DROP, NEXT, Net, REDIRECT, Site, net},
    skipped,
};

/// One packet and what it counts as.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) counter: Counter,
    pub(crate) families: &'static [bool],
    pub(crate) hook: Hook,
    /// Makes the site as it has to be, and the packet.
    pub(crate) packet: fn(&mut Site, &Net) -> Packet,
}

pub(crate) struct Packet {
    pub(crate) frame: Vec<u8>,
    pub(crate) segment: u32,
}

impl From<Vec<u8>> for Packet {
    fn from(frame: Vec<u8>) -> Self {
        Self { frame, segment: 0 }
    }
}

pub(crate) const BOTH: &[bool] = &[true, false];
pub(crate) const V4: &[bool] = &[true];
pub(crate) const V6: &[bool] = &[false];

/// What one packet in a test run cannot count as, and what shows it.
const ELSEWHERE: &[(Counter, &str)] = &[
    (Counter::EgressVlan, "to a test run a tag is another protocol: kernel/live.rs sends one over a veth"),
    (Counter::IngressVlan, "the same"),
    (
        Counter::Lost,
        "memory that runs out between two helpers cannot be brought about at will; races.rs changes flows under way",
    ),
    (Counter::LearnFull, "an LRU map makes room unless all CPUs are at it: kernel/live.rs lets them"),
];

fn cases() -> Vec<Case> {
    [egress::cases(), ingress::cases(), learning::cases(), forgery::cases(), deserted::cases()]
        .into_iter()
        .flatten()
        .collect()
}

/// What becomes of a packet that counts so.
fn verdict(counter: Counter) -> i32 {
    match counter {
        Counter::EgressFast | Counter::IngressFast => REDIRECT,
        Counter::IngressForged | Counter::Lost => DROP,
        _ => NEXT,
    }
}

#[test]
fn every_case_counts_once_and_is_left_untouched_unless_it_is_taken() {
    if skipped(&[]) {
        return;
    }
    let mut site = Site::new();
    for case in cases() {
        for v4 in case.families {
            let name = format!("{} ({})", case.name, if *v4 { "IPv4" } else { "IPv6" });
            site.reset();
            let Packet { frame, segment } = (case.packet)(&mut site, &net(*v4));
            let (outcome, counted) = site.counted(|site| site.run_in(case.hook, &frame, segment));
            assert_eq!(counted, BTreeMap::from([(case.counter, 1)]), "{name}");
            assert_eq!(outcome.verdict, verdict(case.counter), "{name}");
            if outcome.verdict != REDIRECT {
                assert_eq!(outcome, Outcome { packet: frame, ..outcome.clone() }, "{name}");
            }
        }
    }
}

#[test]
fn every_counter_has_a_case() {
    let mut shown: BTreeSet<Counter> = cases().iter().map(|case| case.counter).collect();
    for (counter, why) in ELSEWHERE {
        assert!(shown.insert(*counter), "{counter:?} has a case, so this is no longer so: {why}");
    }
    let missing: Vec<_> = Counter::ALL.into_iter().filter(|counter| !shown.contains(counter)).collect();
    assert!(missing.is_empty(), "no case in tests/bpf counts as {missing:?}");
}
