use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::{
    kernel::{Kernel, fake::FakeKernel},
    model::{Mac, Route},
    plan::{
        Facts, Roster,
        desire::desire,
        fixtures::{facts, mac, record, rules},
    },
};

fn wanted(facts: &Facts, peers: &BTreeSet<u16>) -> State {
    let mut roster = Roster::default();
    roster.snapshot(&rules(true), peers.iter().map(|n| record(*n, true)).collect());
    desire(facts, roster.peers())
}

/// One thing that somebody may do to the kernel behind our back.
#[derive(Clone, Debug)]
enum Mischief {
    Drop(usize),
    LoseDevice(Family),
    Port(Family, u16),
    Mtu(Family, u32),
    Down(Family),
    Mac(Family, u16),
    Stale(u16),
    Flannels(u16),
    Repoint(u16),
}

fn mischief() -> impl Strategy<Value = Mischief> {
    let family = prop_oneof![Just(Family::V4), Just(Family::V6)];
    prop_oneof![
        any::<usize>().prop_map(Mischief::Drop),
        family.clone().prop_map(Mischief::LoseDevice),
        (family.clone(), 1u16..9999).prop_map(|(family, port)| Mischief::Port(family, port)),
        (family.clone(), 1280u32..9000).prop_map(|(family, mtu)| Mischief::Mtu(family, mtu)),
        family.clone().prop_map(Mischief::Down),
        (family, 100u16..200).prop_map(|(family, n)| Mischief::Mac(family, n)),
        (100u16..200).prop_map(Mischief::Stale),
        (2u16..40).prop_map(Mischief::Flannels),
        (2u16..40).prop_map(Mischief::Repoint),
    ]
}

fn play(kernel: &mut FakeKernel, mischief: &Mischief) {
    let change = |kernel: &mut FakeKernel, family, f: &dyn Fn(&mut crate::model::Device)| {
        if let Some(Object::Device(device)) = kernel.state.get_mut(&Key::Device(family)) {
            f(device);
        }
    };
    match *mischief {
        Mischief::Drop(n) if !kernel.state.is_empty() => {
            let key = *kernel.state.keys().nth(n % kernel.state.len()).unwrap();
            let from = kernel.state.get(&key).cloned();
            kernel.apply(&[Op { key, from, to: None }]);
        }
        Mischief::Drop(_) => {}
        Mischief::LoseDevice(family) => kernel.lose_device(family),
        Mischief::Port(family, port) => change(kernel, family, &|device| device.port = port),
        Mischief::Mtu(family, mtu) => change(kernel, family, &|device| device.mtu = mtu),
        Mischief::Down(family) => change(kernel, family, &|device| device.up = false),
        Mischief::Mac(family, n) => change(kernel, family, &|device| device.mac = mac(n)),
        Mischief::Stale(n) => {
            let net = crate::plan::fixtures::subnet(n, false).net(Family::V4).unwrap();
            kernel.state.insert(Key::Neighbour(net.addr()), Object::Neighbour(mac(n)));
            kernel.state.insert(Key::Fdb(Family::V4, mac(n)), Object::Fdb([10, 9, 9, 9].into()));
            kernel.state.insert(Key::Route(net), Object::Route(Route::ours(Via::Overlay { nexthop: false })));
        }
        Mischief::Flannels(n) => {
            let net = crate::plan::fixtures::subnet(n, false).net(Family::V4).unwrap();
            let route = Route { via: Via::Overlay { nexthop: false }, protocol: Route::FLANNEL_PROTOCOL };
            kernel.state.insert(Key::Route(net), Object::Route(route));
        }
        Mischief::Repoint(n) => {
            kernel.state.insert(Key::Fdb(Family::V6, mac(n)), Object::Fdb([10, 8, 8, 8].into()));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// The central property: from any observed state, one plan makes it right, and there is
    /// nothing left to plan.
    #[test]
    fn after_a_plan_there_is_nothing_to_plan(
        before in prop::collection::btree_set(2u16..40, 0..20),
        after in prop::collection::btree_set(2u16..40, 0..20),
        mischiefs in prop::collection::vec(mischief(), 0..8),
        userspace in any::<[bool; 2]>(),
    ) {
        let mut facts = facts(true);
        facts.options.userspace = userspace[0];
        let mut kernel = FakeKernel::default();
        let start = wanted(&facts, &before);
        for outcome in kernel.apply(&diff(&start, &State::new(), true)) {
            prop_assert_eq!(outcome, Ok(()));
        }
        mischiefs.iter().for_each(|mischief| play(&mut kernel, mischief));

        facts.options.userspace = userspace[1];
        let goal = wanted(&facts, &after);
        let ops = diff(&goal, &kernel.observe(&goal).unwrap(), true);
        for (op, outcome) in ops.iter().zip(kernel.apply(&ops)) {
            prop_assert_eq!(outcome, Ok(()), "{:?}", op);
        }
        let observed = kernel.observe(&goal).unwrap();
        prop_assert_eq!(&observed, &goal);
        prop_assert_eq!(diff(&goal, &observed, true), vec![]);
    }

    /// Comparing only some keys plans nothing that a full comparison would not.
    #[test]
    fn a_partial_diff_is_part_of_the_full_one(
        before in prop::collection::btree_set(2u16..40, 0..10),
        after in prop::collection::btree_set(2u16..40, 0..10),
        picks in prop::collection::vec(any::<prop::sample::Index>(), 1..10),
    ) {
        let facts = facts(true);
        let (start, goal) = (wanted(&facts, &before), wanted(&facts, &after));
        let full = diff(&goal, &start, true);
        let keys: BTreeSet<Key> = start.keys().chain(goal.keys()).copied().collect();
        let keys: Vec<Key> = keys.into_iter().collect();
        let picked: BTreeSet<Key> = picks.iter().map(|pick| *pick.get(&keys)).collect();
        let expected: Vec<Op> = full.into_iter().filter(|op| picked.contains(&op.key)).collect();
        prop_assert_eq!(diff_keys(&goal, &start, picked.into_iter(), true), expected);
    }
}

#[test]
fn nothing_is_removed_before_the_list_is_known() {
    let facts = facts(true);
    let stale = wanted(&facts, &BTreeSet::from([2, 3]));
    let ops = diff(&wanted(&facts, &BTreeSet::new()), &stale, false);
    assert_eq!(ops, []);
    assert!(!diff(&wanted(&facts, &BTreeSet::new()), &stale, true).is_empty());
}

#[test]
fn a_peer_is_built_from_the_ground_up_and_torn_down_from_the_top() {
    let facts = facts(false);
    let (none, one) = (wanted(&facts, &BTreeSet::new()), wanted(&facts, &BTreeSet::from([2])));
    let kind = |op: &Op| std::mem::discriminant(&op.key);
    let up: Vec<_> = diff(&one, &none, true).iter().map(kind).collect();
    let down: Vec<_> = diff(&none, &one, true).iter().map(kind).collect();
    assert_eq!(up, down.into_iter().rev().collect::<Vec<_>>());
    assert_eq!(up.last(), Some(&std::mem::discriminant(&Key::Route("10.0.0.0/8".parse().unwrap()))));
}

#[test]
fn a_device_that_must_be_remade_brings_back_what_sat_on_it() {
    let facts = facts(false);
    let goal = wanted(&facts, &BTreeSet::from([2]));
    let mut observed = goal.clone();
    let Some(Object::Device(device)) = observed.get_mut(&Key::Device(Family::V4)) else { panic!("no device") };
    device.port = 4789;
    let ops = diff_keys(&goal, &observed, std::iter::once(Key::Device(Family::V4)), true);
    let again: BTreeSet<Key> = ops.iter().map(|op| op.key).collect();
    for key in [Key::Neighbour([10, 244, 2, 0].into()), Key::Fdb(Family::V4, Mac([2, 0, 0, 0, 0, 2]))] {
        assert!(again.contains(&key), "{key}");
    }
    assert!(!again.contains(&Key::Filter), "the packet filter does not sit on the device");
}
