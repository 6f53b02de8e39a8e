//! An in-memory kernel: what the real one does to our objects, without the real one.
//!
//! It enforces what the real one enforces (a route needs its device and nexthop, a device takes
//! what sits on it along), can be told to refuse single objects, and keeps foreign objects to
//! prove that they are left alone.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use super::{Interpretation, Kernel, KernelError};
use crate::{
    model::{Family, Key, Object, Op, PodLink, Route, State, Via},
    plan::{Facts, diff::device_of},
    serve::report::FilterReport,
    traffic::Counts,
};

/// State, faults to inject, and a count of what was done.
#[derive(Debug, Default)]
pub struct FakeKernel {
    pub state: State,
    /// Puts of these keys are refused.
    pub refuse: BTreeSet<Key>,
    pub on_link: BTreeMap<IpAddr, bool>,
    /// Questions after these fail.
    pub unanswerable: BTreeSet<IpAddr>,
    /// Addresses asked after.
    pub lookups: usize,
    pub applied: Vec<Op>,
    pub observations: usize,
    pub pods: BTreeMap<u32, PodLink>,
    /// Of the fast path.
    pub counts: Option<Counts>,
    /// How often flows were to be proved again.
    pub doubts: usize,
    /// Doubts are put off.
    pub put_off: bool,
    /// How often a doubt that was put off was asked after.
    pub settled: usize,
    /// How often the fast path was told to go on.
    pub renewed: usize,
    /// Whether the IPv6 device takes zero checksums.
    pub zero_checksum: bool,
}

impl FakeKernel {
    /// Deletes a device as somebody else would: with everything on it.
    pub fn lose_device(&mut self, family: Family) {
        self.state.remove(&Key::Device(family));
        self.state.retain(|key, object| device_of(key, object) != Some(family));
    }

    fn put(&mut self, op: &Op, to: &Object) -> Result<(), KernelError> {
        if self.refuse.contains(&op.key) {
            return Err(refusal(op, "refused"));
        }
        if let Some(family) = device_of(&op.key, to)
            && !self.state.contains_key(&Key::Device(family))
        {
            return Err(refusal(op, "no such device"));
        }
        match (&op.key, to) {
            (Key::Route(dst), Object::Route(Route { via: Via::Overlay { nexthop: true }, .. })) => {
                let IpAddr::V4(gateway) = dst.addr() else { return Err(refusal(op, "IPv6 route by nexthop id")) };
                if !self.state.contains_key(&Key::Nexthop(gateway)) {
                    return Err(refusal(op, "nexthop id does not exist"));
                }
            }
            (Key::Device(family), to) if self.state.get(&op.key).is_some_and(|from| from.must_recreate(to)) => {
                self.lose_device(*family);
            }
            (Key::Guard(..), _) if !self.state.contains_key(&Key::Filter) => {
                return Err(refusal(op, "no such set"));
            }
            _ => {}
        }
        self.state.insert(op.key, to.clone());
        Ok(())
    }

    fn delete(&mut self, op: &Op) {
        match op.key {
            Key::Device(family) => self.lose_device(family),
            Key::Filter => self.state.retain(|key, _| !matches!(key, Key::Filter | Key::Guard(..))),
            // The kernel removes the routes of a nexthop with it.
            Key::Nexthop(gateway) => self.state.retain(|key, object| match (key, object) {
                (Key::Route(dst), Object::Route(Route { via: Via::Overlay { nexthop: true }, .. })) => {
                    dst.addr() != IpAddr::V4(gateway)
                }
                _ => true,
            }),
            _ => {}
        }
        self.state.remove(&op.key);
    }
}

impl Kernel for FakeKernel {
    type Notice = Interpretation;

    const PARTS: usize = 1;
    const SILENT: usize = 1;

    fn set_facts(&mut self, _facts: &Facts) {}

    fn interpret(&mut self, notice: Interpretation) -> Interpretation {
        notice
    }

    fn observe(&mut self, _wanted: &State) -> Result<State, KernelError> {
        self.observations += 1;
        Ok(self.state.clone())
    }

    /// As the real one's, without a look at what is silent.
    fn is_still(&mut self, _part: usize, known: &State, _wanted: &State) -> Result<bool, KernelError> {
        let told = |state: &State| -> State {
            let silent: BTreeSet<Key> = Key::silent(state).map(|(key, _)| *key).collect();
            state.iter().filter(|(key, _)| !silent.contains(key)).map(|(key, object)| (*key, object.clone())).collect()
        };
        Ok(told(&self.state) == told(known))
    }

    fn apply(&mut self, ops: &[Op]) -> Vec<Result<(), KernelError>> {
        let mut outcomes = Vec::with_capacity(ops.len());
        for op in ops {
            self.applied.push(op.clone());
            outcomes.push(if let Some(to) = &op.to {
                self.put(op, to)
            } else {
                self.delete(op);
                Ok(())
            });
        }
        outcomes
    }

    fn filter_report(&mut self, _wanted: &State) -> FilterReport {
        FilterReport::default()
    }

    fn fast_path_counts(&mut self) -> Option<Result<Counts, KernelError>> {
        self.counts.clone().map(Ok)
    }

    fn fast_path(&mut self) -> Option<Result<State, KernelError>> {
        Some(Ok(Key::silent(&self.state).map(|(key, object)| (*key, object.clone())).collect()))
    }

    fn pods(&mut self) -> Result<BTreeMap<u32, PodLink>, KernelError> {
        Ok(self.pods.clone())
    }

    fn doubt_flows(&mut self) {
        self.doubts += 1;
    }

    fn settle_doubts(&mut self) -> Option<Duration> {
        self.settled += 1;
        self.put_off.then_some(Duration::from_millis(1))
    }

    fn renew_fast_path(&mut self) {
        self.renewed += 1;
    }

    fn takes_zero_checksum(&self) -> bool {
        self.zero_checksum && self.state.contains_key(&Key::Device(Family::V6))
    }

    fn on_link(&mut self, addresses: &[IpAddr]) -> Vec<Result<bool, KernelError>> {
        self.lookups += addresses.len();
        let answer = |ip: &IpAddr| {
            if self.unanswerable.contains(ip) {
                let attempt = format!("look up the route to {ip}");
                return Err(KernelError { attempt, answer: "refused".into(), hint: None, errno: 1 });
            }
            Ok(self.on_link.get(ip).copied().unwrap_or(false))
        };
        addresses.iter().map(answer).collect()
    }
}

fn refusal(op: &Op, answer: &str) -> KernelError {
    KernelError { attempt: format!("put {}", op.key), answer: answer.into(), hint: None, errno: 1 }
}
