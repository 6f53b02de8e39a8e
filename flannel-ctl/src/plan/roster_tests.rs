use proptest::prelude::*;

use super::*;
use crate::{
    model::LeaseValue,
    plan::fixtures::{mac, record, rules, value, with_value},
};

fn keys(roster: &Roster) -> Vec<&str> {
    roster.peers().map(|peer| &*peer.key).collect()
}

fn with(n: u16, change: impl Fn(&mut LeaseValue)) -> LeaseRecord {
    let mut value = value(n, false);
    change(&mut value);
    with_value(format!("10.244.{n}.0-24"), &serde_json::to_string(&value).unwrap(), i64::from(n))
}

fn steals_mac_of(n: u16, victim: u16) -> LeaseRecord {
    with(n, |value| value.backend_data = crate::plan::fixtures::value(victim, false).backend_data)
}

#[test]
fn a_snapshot_removes_what_it_does_not_list() {
    let (mut roster, rules) = (Roster::default(), rules(false));
    roster.snapshot(&rules, vec![record(2, false), record(3, false)]);
    let changes = roster.snapshot(&rules, vec![record(3, false), record(4, false)]);
    assert_eq!(keys(&roster), ["10.244.3.0-24", "10.244.4.0-24"]);
    assert_eq!(changes.gone.len(), 1);
    assert_eq!(changes.come.len(), 1);
}

#[test]
fn a_snapshot_notices_changed_attributes() {
    let (mut roster, rules) = (Roster::default(), rules(false));
    roster.snapshot(&rules, vec![record(2, false)]);
    let moved = with(2, |value| value.public_ip = [10, 200, 22, 2].into());
    let changes = roster.snapshot(&rules, vec![moved]);
    assert_eq!((changes.gone.len(), changes.come.len()), (1, 1));
    assert_eq!(changes.come[0].public_v4, Some([10, 200, 22, 2].into()));
}

#[test]
fn the_first_owner_of_a_vtep_address_keeps_it() {
    let (mut roster, rules) = (Roster::default(), rules(false));
    roster.snapshot(&rules, vec![steals_mac_of(9, 2), record(2, false)]);
    assert_eq!(keys(&roster), ["10.244.2.0-24"]);
    assert!(matches!(roster.refused()["10.244.9.0-24"].reason, Refusal::DuplicateMac(m, _) if m == mac(2)));
    // An older lease that turns to stealing loses its own place, not the victim's.
    let (mut roster, early) = (Roster::default(), record(2, false));
    roster.snapshot(&rules, vec![early, record(9, false)]);
    roster.put(&rules, steals_mac_of(2, 9));
    assert_eq!(keys(&roster), ["10.244.9.0-24"]);
}

#[test]
fn who_was_refused_gets_what_is_given_up() {
    let (mut roster, rules) = (Roster::default(), rules(false));
    roster.snapshot(&rules, vec![record(2, false), steals_mac_of(9, 2)]);
    let changes = roster.delete(&rules, "10.244.2.0-24");
    assert_eq!(keys(&roster), ["10.244.9.0-24"]);
    assert_eq!((changes.gone.len(), changes.come.len()), (1, 1));
    assert!(roster.refused().is_empty());
}

#[test]
fn a_node_may_leave_an_old_lease_behind() {
    let (mut roster, rules) = (Roster::default(), rules(false));
    let twin = with(9, |value| *value = crate::plan::fixtures::value(2, false));
    roster.snapshot(&rules, vec![record(2, false), twin]);
    assert_eq!(keys(&roster), ["10.244.2.0-24", "10.244.9.0-24"]);
    roster.delete(&rules, "10.244.2.0-24");
    assert_eq!(&*roster.vtep_in_use(Family::V4, mac(2)).unwrap().key, "10.244.9.0-24");
}

#[test]
fn two_dual_leases_cannot_share_one_half() {
    let (mut roster, rules) = (Roster::default(), rules(true));
    let mut thief = record(9, true);
    thief.key = "10.244.9.0-24&fc00:0:0:2::-64".into();
    roster.snapshot(&rules, vec![record(2, true), thief]);
    assert_eq!(roster.peer_count(), 1);
    assert!(matches!(roster.refused().values().next().unwrap().reason, Refusal::OverlapsPeer(..)));
}

#[test]
fn a_bad_value_under_a_good_key_removes_only_that_peer_and_heals() {
    let (mut roster, rules) = (Roster::default(), rules(false));
    roster.snapshot(&rules, vec![record(2, false), record(3, false)]);
    let changes = roster.put(&rules, with_value("10.244.2.0-24", "{{{{", 2));
    assert_eq!(keys(&roster), ["10.244.3.0-24"]);
    assert_eq!(changes.come, []);
    roster.put(&rules, record(2, false));
    assert_eq!(roster.peer_count(), 2);
    assert!(roster.refused().is_empty());
}

#[test]
fn deleting_what_was_never_seen_changes_nothing() {
    let (mut roster, rules) = (Roster::default(), rules(false));
    roster.snapshot(&rules, vec![record(2, false)]);
    assert_eq!(roster.delete(&rules, "10.244.77.0-24"), Changes::default());
    assert_eq!(roster.delete(&rules, "\u{0}junk"), Changes::default());
}

#[test]
fn everybody_is_judged_again_when_this_node_changes() {
    let (mut roster, mut rules) = (Roster::default(), rules(false));
    roster.snapshot(&rules, vec![record(2, false), record(3, false)]);
    rules.local_nets.push(("10.244.2.0/24".parse().unwrap(), "eth9".into()));
    assert_eq!(roster.rules_changed(&rules).gone.len(), 1);
    assert_eq!(keys(&roster), ["10.244.3.0-24"]);
    rules.local_nets.pop();
    assert_eq!(roster.rules_changed(&rules).come.len(), 1);
    assert_eq!(roster.peer_count(), 2);
}

#[test]
fn what_was_our_own_key_is_another_nodes_once_we_hold_another_subnet() {
    let (mut roster, mut rules) = (Roster::default(), rules(false));
    rules.own_key = "10.244.7.0-24".into();
    roster.snapshot(&rules, vec![record(7, false), record(8, false)]);
    assert_eq!(keys(&roster), ["10.244.8.0-24"], "the new owner wrote under our key: not looked at while it is ours");
    rules.own_key = "10.244.9.0-24".into();
    let changes = roster.rules_changed(&rules);
    assert_eq!(keys(&roster), ["10.244.7.0-24", "10.244.8.0-24"]);
    assert_eq!((changes.gone.len(), changes.come.len()), (0, 1));
    roster.delete(&rules, "10.244.7.0-24");
    assert!(roster.rules_changed(&rules).come.is_empty(), "a deleted one does not come back");
}

#[test]
fn a_hopeless_lease_stays_refused_whatever_changes_here() {
    let (mut roster, rules) = (Roster::default(), rules(false));
    let long = LeaseRecord { value: vec![b'['; 4097], lease_id: 0, ..record(7, false) };
    roster.put(&rules, long);
    assert_eq!(roster.rules_changed(&rules), Changes::default(), "not even looked at: its value is not kept");
    assert_eq!(roster.refused()["10.244.7.0-24"].reason, Refusal::Size);
    assert_eq!(roster.put(&rules, record(7, false)).come.len(), 1, "a good value is believed");
    assert!(roster.refused().is_empty());
}

proptest! {
    /// A first list is admitted at once where nobody claims what another has, and one after another otherwise.
    #[test]
    fn a_first_list_is_believed_like_the_same_leases_one_by_one(
        leases in proptest::collection::btree_map(2u16..40, proptest::option::weighted(0.1, 2u16..40), 1..30),
        v6 in any::<bool>(),
    ) {
        let lease = |n: &u16, victim: &Option<u16>| victim.map_or_else(|| record(*n, v6), |victim| steals_mac_of(*n, victim));
        let records: Vec<_> = leases.iter().map(|(n, victim)| lease(n, victim)).collect();
        let rules = rules(v6);
        let (mut listed, mut told) = (Roster::default(), Roster::default());
        let changes = listed.snapshot(&rules, records.iter().rev().cloned().collect());
        let mut come = Vec::new();
        for record in records {
            come.extend(told.put(&rules, record).come);
        }
        prop_assert_eq!(changes.come, come);
        prop_assert_eq!((&listed.peers, &listed.ranges, &listed.vteps), (&told.peers, &told.ranges, &told.vteps));
        prop_assert!(listed.refused().keys().eq(told.refused().keys()));
    }
}
