use proptest::prelude::*;

use super::*;
use crate::{
    kernel::{Kernel, fake::FakeKernel},
    plan::fixtures::{facts, record, rules, with_value},
};

fn settle(world: &mut World, kernel: &mut FakeKernel) {
    let ops = world.ops(|_| false);
    for (op, outcome) in ops.iter().zip(kernel.apply(&ops)) {
        outcome.unwrap();
        world.applied(op);
    }
}

#[derive(Clone, Debug)]
enum Step {
    Put(u16),
    Steal(u16, u16),
    Garbage(u16),
    Delete(u16),
    Snapshot(Vec<u16>),
}

fn step() -> impl Strategy<Value = Step> {
    let node = || 2u16..12;
    prop_oneof![
        4 => node().prop_map(Step::Put),
        2 => (node(), node()).prop_map(|(n, victim)| Step::Steal(n, victim)),
        1 => node().prop_map(Step::Garbage),
        3 => node().prop_map(Step::Delete),
        1 => prop::collection::vec(node(), 0..8).prop_map(Step::Snapshot),
    ]
}

fn stolen(n: u16, victim: u16, same_address: bool) -> LeaseRecord {
    let mut value = crate::plan::fixtures::value(n, true);
    let of = crate::plan::fixtures::value(victim, true);
    value.backend_data = of.backend_data;
    if same_address {
        value.public_ip = of.public_ip;
    }
    with_value(crate::plan::fixtures::subnet(n, true).key(), &serde_json::to_string(&value).unwrap(), n.into())
}

proptest! {
    /// Following events one by one leads where recomputing from the top would.
    #[test]
    fn following_equals_recomputing(steps in prop::collection::vec(step(), 1..40)) {
        let mut world = World::new(facts(true), rules(true));
        let mut kernel = FakeKernel::default();
        world.snapshot(vec![]);
        for step in steps {
            match step {
                Step::Put(n) => drop(world.put(record(n, true))),
                Step::Steal(n, victim) => drop(world.put(stolen(n, victim, n % 2 == 0))),
                Step::Garbage(n) => world.put(with_value(crate::plan::fixtures::subnet(n, true).key(), "{{", n.into())).clear(),
                Step::Delete(n) => drop(world.delete(&crate::plan::fixtures::subnet(n, true).key())),
                Step::Snapshot(nodes) => drop(world.snapshot(nodes.into_iter().map(|n| record(n, true)).collect())),
            }
            prop_assert_eq!(world.wanted(), &desire(world.facts(), world.roster().peers()));
            settle(&mut world, &mut kernel);
            prop_assert_eq!(world.wanted(), &kernel.state);
            prop_assert_eq!(world.preview(), vec![]);
        }
    }
}

#[test]
fn one_lease_plans_only_its_own_objects() {
    let (mut world, mut kernel) = (World::new(facts(false), rules(false)), FakeKernel::default());
    world.snapshot((2..200).map(|n| record(n, false)).collect());
    settle(&mut world, &mut kernel);
    world.put(record(201, false));
    assert_eq!(world.ops(|_| false).len(), 5);
    world.put(record(202, false));
    world.delete(&record(202, false).key);
    assert_eq!(world.ops(|_| false), []);
}

#[test]
fn the_echo_of_our_own_change_is_no_news() {
    let (mut world, mut kernel) = (World::new(facts(false), rules(false)), FakeKernel::default());
    world.snapshot(vec![record(2, false)]);
    settle(&mut world, &mut kernel);
    for (key, object) in kernel.state.clone() {
        assert!(!world.noticed(key, Some(object)));
    }
    assert_eq!(world.ops(|_| false), []);
    let route = Key::Route("10.244.2.0/24".parse().unwrap());
    assert!(world.noticed(route, None));
    assert_eq!(world.ops(|_| false).len(), 1);
}

#[test]
fn held_keys_wait_without_being_forgotten() {
    let mut world = World::new(facts(false), rules(false));
    world.snapshot(vec![]);
    let all = world.ops(|key| *key == Key::Filter);
    assert!(all.iter().all(|op| op.key != Key::Filter));
    let later = world.ops(|_| false);
    assert_eq!(later.iter().map(|op| op.key).collect::<Vec<_>>(), [Key::Filter]);
}

#[test]
fn a_fenced_node_wants_nothing_until_it_has_a_subnet_again() {
    let (mut world, mut kernel) = (World::new(facts(false), rules(false)), FakeKernel::default());
    world.snapshot(vec![record(2, false)]);
    settle(&mut world, &mut kernel);
    world.fence(true);
    world.put(record(3, false));
    settle(&mut world, &mut kernel);
    assert!(kernel.state.is_empty());
    world.fence(false);
    settle(&mut world, &mut kernel);
    assert!(kernel.state.contains_key(&Key::Route("10.244.3.0/24".parse().unwrap())));
}

#[test]
fn peers_that_left_while_we_were_away_are_removed_with_the_first_snapshot_only() {
    let (mut world, mut kernel) = (World::new(facts(false), rules(false)), FakeKernel::default());
    world.snapshot(vec![record(2, false), record(3, false)]);
    settle(&mut world, &mut kernel);
    let mut restarted = World::new(facts(false), rules(false));
    restarted.observe(kernel.state.clone());
    assert_eq!(restarted.ops(|_| false), [], "adopting changes nothing");
    restarted.snapshot(vec![record(2, false)]);
    let gone = restarted.ops(|_| false);
    assert!(!gone.is_empty() && gone.iter().all(|op| op.to.is_none()));
}

#[test]
fn the_guard_waits_for_the_peers_that_it_must_let_in() {
    let mut world = World::new(facts(false), rules(false));
    world.put(record(2, false));
    assert!(world.ops(|_| false).iter().all(|op| op.key != Key::Filter), "two of three peers are unknown yet");
    world.snapshot(vec![record(2, false), record(3, false)]);
    assert!(world.ops(|_| false).iter().any(|op| op.key == Key::Filter));
}

#[test]
fn what_was_known_of_a_peer_that_left_is_forgotten() {
    let mut facts = facts(false);
    facts.network.backend = Backend::Vxlan(crate::model::VxlanConfig { direct_routing: true, ..Default::default() });
    let mut world = World::new(facts, rules(false));
    world.snapshot((2..200).map(|n| record(n, false)).collect());
    let asked = world.unknown_on_link();
    assert_eq!(asked.len(), 198);
    world.set_on_link(asked.into_iter().map(|ip| (ip, true)).collect());
    assert_eq!(world.wanted(), &desire(world.facts(), world.roster().peers()));
    world.snapshot(vec![record(2, false)]);
    world.forget_on_link();
    assert_eq!(world.facts().on_link, [([10, 200, 2, 2].into(), true)].into());
    assert_eq!(world.wanted(), &desire(world.facts(), world.roster().peers()));
    world.put(record(3, false));
    assert_eq!(world.unknown_on_link(), [IpAddr::from([10, 200, 3, 2])], "asked anew when it comes back");
}
