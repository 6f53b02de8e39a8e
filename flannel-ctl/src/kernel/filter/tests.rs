//! Against the real kernel, in network namespaces of the tests' own.

mod force;
mod guard;
mod lab;
mod pods;
mod takeover;
mod tools;

use super::*;
use crate::model::{Family, Masquerade, Object};

fn policy() -> FilterPolicy {
    FilterPolicy {
        masquerade: vec![
            masquerade("10.244.0.0/16", "10.244.1.0/24"),
            masquerade("fd00:244::/32", "fd00:244:0:1::/64"),
        ],
        forward: vec!["10.244.0.0/16".parse().unwrap(), "fd00:244::/32".parse().unwrap()],
        guard: None,
    }
}

fn masquerade(network: &str, subnet: &str) -> Masquerade {
    let (network, subnet) = (network.parse().unwrap(), subnet.parse().unwrap());
    Masquerade { network, subnet, exclude: Vec::new(), fully_random: true }
}

fn guarded(count_only: bool) -> FilterPolicy {
    let guard = GuardPolicy {
        port: 8472,
        vni: Some(1),
        count_only,
        v4_len: Some(24),
        v6_len: Some(64),
        pods: vec!["10.244.0.0/16".parse().unwrap(), "fd00:244::/32".parse().unwrap()],
    };
    FilterPolicy { guard: Some(guard), ..policy() }
}

fn wanted(policy: &FilterPolicy, peers: &[(&str, &str)]) -> State {
    let mut state = State::from([(Key::Filter, Object::Filter(Box::new(policy.clone())))]);
    for (outer, inner) in peers {
        state.insert(Key::Guard(outer.parse().unwrap(), inner.parse().unwrap()), Object::Guard);
    }
    state
}

fn observed(filter: &mut HostFilter, wanted: &State) -> State {
    let mut out = State::new();
    filter.observe(wanted, &mut out).unwrap();
    assert!(filter.is_still(&out, wanted).unwrap(), "the cheap look sees what the full one sees");
    assert_eq!(filter.is_still(wanted, wanted).unwrap(), out == *wanted);
    out
}

/// Observes, applies the difference, and proves that nothing is left to do.
fn converge(filter: &mut HostFilter, wanted: &State) -> usize {
    let now = observed(filter, wanted);
    let ops = crate::plan::diff::diff(wanted, &now, true);
    for (op, result) in ops.iter().zip(filter.apply(&ops)) {
        assert_eq!(result, Ok(()), "{op:?}");
    }
    assert_eq!(&observed(filter, wanted), wanted);
    ops.len()
}
