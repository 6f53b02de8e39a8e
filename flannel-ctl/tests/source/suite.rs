//! The suite: what any server must give, and what any node must make of it.

mod cuts;
mod identity;

use std::{collections::BTreeSet, time::Duration};

use etcd_client::PutOptions;
use flannel_ctl::{
    config::LeaseOptions,
    model::{LeaseValue, Subnet},
    source::{EtcdSource, Event, MAX_VALUE, NoLease},
};
use tokio::task::JoinSet;
use xtask::lab::Stopwatch;

use crate::{
    lab::{NETWORK, PREFIX, Server},
    node::{Setup, equals, flannel_value, key, stored, stored_at, value},
};

use self::cuts::{
    a_revoked_lease_is_taken_again_after_a_cut, a_subnet_that_another_took_while_we_were_cut_off_is_given_up,
    twenty_changes_and_a_compaction_during_a_cut, two_thousand_changes_and_a_compaction_during_a_blackhole,
};

use self::identity::{
    a_copied_node_id_does_not_start_beside_its_original, a_dead_lease_that_is_not_taken_is_put_back_as_it_was,
    a_holder_that_answers_too_late_has_its_subnet_back, a_lease_is_renewed_while_a_quarrel_waits,
    a_node_installed_anew_gets_its_old_subnet_back, a_second_node_with_one_address_does_not_start,
    a_store_that_lost_its_data_costs_no_living_peer, copies_that_start_at_once_end_as_one_owner,
    nodes_with_one_address_that_start_at_once_end_as_one,
};

macro_rules! suite {
    ($server:ident, $kind:expr; $($case:ident,)*) => {
        mod $server {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                if let Some(server) = crate::lab::Server::start($kind).await {
                    super::$case(server).await;
                }
            })*
        }
    };
}

macro_rules! suites {
    ($($case:ident,)*) => {
        suite!(etcd, crate::lab::Kind::Etcd; $($case,)*);
        suite!(embedded, crate::lab::Kind::Embedded; $($case,)*);
    };
}

suites! {
    a_fresh_node_leases_a_subnet_as_flannel_writes_it,
    a_restart_finds_its_lease_and_writes_nothing,
    a_changed_address_keeps_the_subnet,
    a_changed_value_is_written_in_place_with_the_fields_of_others,
    a_lease_of_flannel_is_taken_over_and_hung_on_our_own,
    a_lease_is_written_again_for_daemons_of_flannels_that_miss_changes,
    a_lease_that_does_not_fit_the_network_is_released,
    the_previous_subnet_is_taken_again,
    a_hundred_simultaneous_starts_get_a_hundred_subnets,
    thirty_starts_in_a_range_of_sixty_two,
    a_full_range_says_so,
    a_reservation_is_used_and_stays_one,
    a_reservation_for_others_is_left_alone,
    a_copied_node_id_does_not_start_beside_its_original,
    a_second_node_with_one_address_does_not_start,
    a_node_installed_anew_gets_its_old_subnet_back,
    copies_that_start_at_once_end_as_one_owner,
    nodes_with_one_address_that_start_at_once_end_as_one,
    a_dead_lease_that_is_not_taken_is_put_back_as_it_was,
    a_holder_that_answers_too_late_has_its_subnet_back,
    a_lease_is_renewed_while_a_quarrel_waits,
    a_store_that_lost_its_data_costs_no_living_peer,
    an_own_key_that_was_deleted_is_back_within_a_second,
    an_own_key_that_was_overwritten_is_regained_and_reported,
    a_subnet_that_another_took_while_we_were_cut_off_is_given_up,
    a_revoked_lease_is_taken_again_after_a_cut,
    twenty_changes_and_a_compaction_during_a_cut,
    two_thousand_changes_and_a_compaction_during_a_blackhole,
    hostile_keys_arrive_by_name_and_bounded,
    a_network_config_is_waited_for,
    a_changed_network_config_is_told_and_not_applied,
    a_clean_exit_releases_only_when_asked_to,
}

async fn a_fresh_node_leases_a_subnet_as_flannel_writes_it(server: Server) {
    let mut client = server.with_network(NETWORK).await;
    let mut node = Setup::new(server.config(), "a", "192.0.2.1").run().await;
    node.until_listed().await;
    let stored = stored(&mut client).await;
    assert_eq!(stored.len(), 1);
    assert_eq!(stored[0].key_str().unwrap(), key(&node.acquired.key));
    assert_eq!(
        stored[0].value_str().unwrap(),
        r#"{"PublicIP":"192.0.2.1","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"46:82:fb:f7:52:6d"},"NodeID":"a","NodeName":"host-a"}"#
    );
    let ttl = client.lease_time_to_live(stored[0].lease(), None).await.unwrap();
    assert_eq!(ttl.granted_ttl(), 86_400);
    assert!(equals(&node.leases, &stored));
    assert_eq!(node.own.as_ref(), Some(&node.acquired));
    node.until("connected", |node| node.heard.contains(&Event::Connected)).await;
    let name = node.acquired.key.clone();
    node.stop().await;
    assert!(stored_at(&mut client, &name).await.is_some(), "it waits for our return");
}

async fn a_restart_finds_its_lease_and_writes_nothing(server: Server) {
    let mut client = server.with_network(NETWORK).await;
    let setup = Setup::new(server.config(), "a", "192.0.2.1");
    let first = setup.clone().run().await;
    let subnet = first.acquired.subnet;
    first.abort().await;
    let before = stored(&mut client).await;
    let mut second = setup.run().await;
    second.until("connected", |node| node.heard.contains(&Event::Connected)).await;
    assert_eq!(second.acquired.subnet, subnet);
    let after = stored(&mut client).await;
    assert_eq!(before[0].mod_revision(), after[0].mod_revision());
    assert_eq!(before[0].lease(), after[0].lease());
}

async fn a_changed_address_keeps_the_subnet(server: Server) {
    let mut client = server.with_network(NETWORK).await;
    let first = Setup::new(server.config(), "a", "192.0.2.1").run().await;
    let subnet = first.acquired.subnet;
    first.abort().await;
    let (_source, lease) = Setup::new(server.config(), "a", "192.0.2.77").acquire().await;
    assert_eq!(lease.subnet, subnet);
    let stored = stored(&mut client).await;
    assert_eq!(stored.len(), 1);
    assert_eq!(stored[0].value_str().unwrap(), serde_json::to_string(&value("a", "192.0.2.77")).unwrap());
}

async fn a_changed_value_is_written_in_place_with_the_fields_of_others(server: Server) {
    let mut client = server.with_network(NETWORK).await;
    let mut node = Setup::new(server.config(), "a", "192.0.2.1").run().await;
    node.until_listed().await;
    let name = node.acquired.key.clone();
    let lease = stored_at(&mut client, &name).await.unwrap().lease();
    let text = serde_json::to_string(&value("a", "192.0.2.1")).unwrap().replace("\"NodeID\"", "\"Rack\":7,\"NodeID\"");
    client.put(key(&name), text, Some(PutOptions::new().with_lease(lease))).await.unwrap();
    let moved = value("a", "192.0.2.9");
    node.values.send_replace(moved);
    node.until("our lease says the new address", |node| {
        node.own.as_ref().is_some_and(|own| own.value.public_ip.octets()[3] == 9)
    })
    .await;
    let now = stored_at(&mut client, &name).await.unwrap();
    let now_value: LeaseValue = serde_json::from_slice(now.value()).unwrap();
    assert_eq!(now_value.public_ip.to_string(), "192.0.2.9");
    assert_eq!(now_value.other.get("Rack"), Some(&7.into()));
    assert_eq!(now.lease(), lease);
    assert_eq!(node.count(|event| matches!(event, Event::Conflict { .. } | Event::Lost { .. })), 0);
}

async fn a_lease_of_flannel_is_taken_over_and_hung_on_our_own(server: Server) {
    let mut client = server.with_network(NETWORK).await;
    let theirs = client.lease_grant(86_400, None).await.unwrap().id();
    let options = PutOptions::new().with_lease(theirs);
    client.put(key("10.5.77.0-24"), flannel_value("192.0.2.1"), Some(options)).await.unwrap();
    let (_source, lease) = Setup::new(server.config(), "a", "192.0.2.1").acquire().await;
    assert_eq!(lease.key, "10.5.77.0-24");
    let now = stored(&mut client).await;
    assert_eq!(now.len(), 1);
    assert!(now[0].lease() != theirs && now[0].lease() != 0);
    assert!(now[0].value_str().unwrap().contains(r#""NodeID":"a""#));
}

/// flannel's daemon up to 0.21.0 watches for one change at a time, and misses what is written in between.
async fn a_lease_is_written_again_for_daemons_of_flannels_that_miss_changes(server: Server) {
    let mut client = server.with_network(NETWORK).await;
    let lease = client.lease_grant(3600, None).await.unwrap().id();
    let options = PutOptions::new().with_lease(lease);
    client.put(key("10.5.77.0-24"), flannel_value("192.0.2.77"), Some(options)).await.unwrap();
    let mut node = Setup::new(server.config(), "a", "192.0.2.1").run().await;
    node.until_listed().await;
    let name = node.acquired.key.clone();
    let before = stored_at(&mut client, &name).await.unwrap();
    for _ in 0..2 {
        let known = node.leases[&name].modified;
        node.until("it is written again", |node| node.leases[&name].modified > known).await;
    }
    let after = stored_at(&mut client, &name).await.unwrap();
    assert_eq!((after.value(), after.lease()), (before.value(), before.lease()));
    assert_eq!(node.count(|event| matches!(event, Event::Own(_))), 1, "no news to ourselves");
    assert_eq!(node.count(|event| matches!(event, Event::Conflict { .. })), 0);
}

async fn a_lease_that_does_not_fit_the_network_is_released(server: Server) {
    let mut client = server.with_network(NETWORK).await;
    let theirs = client.lease_grant(86_400, None).await.unwrap().id();
    for name in ["10.9.1.0-24", "10.5.9.0-25"] {
        let options = PutOptions::new().with_lease(theirs);
        client.put(key(name), flannel_value("192.0.2.1"), Some(options)).await.unwrap();
    }
    client.put(key("10.5.8.0-24"), flannel_value("192.0.2.8"), None).await.unwrap();
    let (_source, lease) = Setup::new(server.config(), "a", "192.0.2.1").acquire().await;
    let names: BTreeSet<_> = stored(&mut client).await.iter().map(|kv| kv.key_str().unwrap().to_owned()).collect();
    assert_eq!(names, BTreeSet::from([key(&lease.key), key("10.5.8.0-24")]));
}

async fn the_previous_subnet_is_taken_again(server: Server) {
    let _client = server.with_network(NETWORK).await;
    let mut setup = Setup::new(server.config(), "a", "192.0.2.1");
    setup.previous = Some(Subnet::from_key("10.5.201.0-24").unwrap());
    assert_eq!(setup.acquire().await.1.key, "10.5.201.0-24");
    let mut setup = Setup::new(server.config(), "b", "192.0.2.2");
    setup.previous = Some(Subnet::from_key("10.5.201.0-24").unwrap());
    assert_ne!(setup.acquire().await.1.key, "10.5.201.0-24");
}

async fn a_hundred_simultaneous_starts_get_a_hundred_subnets(server: Server) {
    let mut client = server.with_network(NETWORK).await;
    starts(&server, 100).await;
    let stored = stored(&mut client).await;
    assert_eq!(stored.len(), 100);
    let owners: BTreeSet<_> =
        stored.iter().map(|kv| serde_json::from_slice::<LeaseValue>(kv.value()).unwrap().node_id).collect();
    assert_eq!(owners.len(), 100, "one subnet each");
}

async fn thirty_starts_in_a_range_of_sixty_two(server: Server) {
    // 255 subnets of which 193 are taken: the lots meet often.
    let mut client = server.with_network(NETWORK).await;
    for i in 1..=193 {
        client.put(key(&format!("10.5.{i}.0-24")), flannel_value("192.0.2.250"), None).await.unwrap();
    }
    client.put(key("nonsense"), "{{{{", None).await.unwrap();
    starts(&server, 30).await;
    assert_eq!(stored(&mut client).await.len(), 194 + 30);
}

async fn starts(server: &Server, count: u8) {
    let mut starting = JoinSet::new();
    for i in 1..=count {
        starting.spawn(Setup::new(server.config(), &format!("node-{i}"), &format!("192.0.2.{i}")).acquire());
    }
    let subnets: Vec<Subnet> = starting.join_all().await.into_iter().map(|(_, lease)| lease.subnet).collect();
    let overlaps = |a: &Subnet| subnets.iter().filter(|b| a.overlaps(b)).count();
    assert!(subnets.iter().all(|subnet| overlaps(subnet) == 1), "{subnets:?}");
}

async fn a_full_range_says_so(server: Server) {
    let network = r#"{"Network":"10.5.0.0/28","SubnetLen":30,"Backend":{"Type":"vxlan"}}"#;
    let _client = server.with_network(network).await;
    starts(&server, 3).await;
    let mut source = EtcdSource::new(server.config(), LeaseOptions::default());
    let network = source.network().await;
    let request = flannel_ctl::source::LeaseRequest {
        network,
        value: value("late", "192.0.2.9"),
        previous: None,
        refused_by: None,
    };
    let NoLease::Exhausted(error) = source.acquire(request).await.unwrap_err() else { panic!("contested") };
    assert_eq!((error.capacity, error.leases, error.reservations), (3, 3, 0));
}

async fn a_reservation_is_used_and_stays_one(server: Server) {
    let mut client = server.with_network(NETWORK).await;
    client.put(key("10.5.42.0-24"), r#"{"PublicIP":"192.0.2.1","PublicIPv6":null}"#, None).await.unwrap();
    let setup = Setup::new(server.config(), "a", "192.0.2.1");
    let mut node = setup.clone().run().await;
    node.until("connected", |node| node.heard.contains(&Event::Connected)).await;
    assert_eq!(node.acquired.key, "10.5.42.0-24");
    let now = stored_at(&mut client, "10.5.42.0-24").await.unwrap();
    assert_eq!(now.lease(), 0);
    assert!(now.value_str().unwrap().contains("VtepMAC"));
    node.values.send_replace(value("a", "192.0.2.9"));
    node.until("the new address", |node| node.own.as_ref().is_some_and(|own| own.value.public_ip.octets()[3] == 9))
        .await;
    node.abort().await;
    let (_source, again) = setup.acquire().await;
    assert_eq!(again.key, "10.5.42.0-24");
    assert_eq!(stored_at(&mut client, "10.5.42.0-24").await.unwrap().lease(), 0);
}

async fn a_reservation_for_others_is_left_alone(server: Server) {
    let network = r#"{"Network":"10.5.0.0/28","SubnetLen":30,"Backend":{"Type":"vxlan"}}"#;
    let mut client = server.with_network(network).await;
    client.put(key("10.5.0.4-30"), r#"{"PublicIP":"0.0.0.0","PublicIPv6":null}"#, None).await.unwrap();
    client.put(key("10.5.0.8-30"), "", None).await.unwrap();
    let (_source, lease) = Setup::new(server.config(), "a", "192.0.2.1").acquire().await;
    assert_eq!(lease.key, "10.5.0.12-30");
}

async fn an_own_key_that_was_deleted_is_back_within_a_second(server: Server) {
    let mut client = server.with_network(NETWORK).await;
    let mut node = Setup::new(server.config(), "a", "192.0.2.1").run().await;
    node.until_listed().await;
    let name = node.acquired.key.clone();
    for _ in 0..3 {
        let owns = node.count(|event| matches!(event, Event::Own(_)));
        let start = Stopwatch::start();
        client.delete(key(&name), None).await.unwrap();
        node.until("our lease is back", |node| node.count(|event| matches!(event, Event::Own(_))) > owns).await;
        start.assert_within(Duration::from_secs(1));
        assert_ne!(stored_at(&mut client, &name).await.unwrap().lease(), 0);
    }
    assert_eq!(node.count(|event| matches!(event, Event::Lost { .. })), 0);
}

async fn an_own_key_that_was_overwritten_is_regained_and_reported(server: Server) {
    let mut client = server.with_network(NETWORK).await;
    let mut node = Setup::new(server.config(), "a", "192.0.2.1").run().await;
    node.until_listed().await;
    let name = node.acquired.key.clone();
    let before = stored_at(&mut client, &name).await.unwrap();
    let other = serde_json::to_string(&value("b", "192.0.2.66")).unwrap();
    let thefts = [other, "garbage".into(), flannel_value("192.0.2.1"), flannel_value("192.0.2.66")];
    for (conflicts, theft) in (1..).zip(&thefts) {
        let start = Stopwatch::start();
        client.put(key(&name), theft.as_str(), None).await.unwrap();
        node.until("the conflict is reported", |node| {
            node.count(|event| matches!(event, Event::Conflict { .. })) == conflicts
        })
        .await;
        node.until("our value is seen again", |node| node.leases[&node.acquired.key].value == before.value()).await;
        start.assert_within(Duration::from_millis(1500));
        let now = stored_at(&mut client, &name).await.unwrap();
        assert_eq!((now.value(), now.lease()), (before.value(), before.lease()), "after {theft}");
    }
    assert_eq!(node.count(|event| matches!(event, Event::Lost { .. })), 0);
}

async fn hostile_keys_arrive_by_name_and_bounded(server: Server) {
    let mut client = server.with_network(NETWORK).await;
    let long_key = format!("10.5.1.0-24{}", "x".repeat(4000));
    for name in ["0.0.0.0-0", "10.5.0.0-16", "10.5.3.0--1", "a/b/c", &long_key] {
        client.put(key(name), "{{{{", None).await.unwrap();
    }
    client.put(format!("{PREFIX}/subnets"), "not below the slash", None).await.unwrap();
    client.put(format!("{PREFIX}/subnets0"), "not below the slash", None).await.unwrap();
    let big = "x".repeat(900_000);
    for i in 0..6 {
        client.put(key(&format!("10.5.{}.0-24", 100 + i)), big.as_str(), None).await.unwrap();
    }
    let mut node = Setup::new(server.config(), "a", "192.0.2.1").run().await;
    node.until_listed().await;
    assert_eq!(node.leases.len(), 5 + 6 + 1);
    assert!(node.leases.values().all(|record| record.value.len() <= MAX_VALUE + 1 && record.key.len() < 300));
    assert_eq!(node.leases["10.5.100.0-24"].value.len(), MAX_VALUE + 1);
    client.put(key("10.5.110.0-24"), big, None).await.unwrap();
    node.until("a large value by the watch", |node| node.leases.contains_key("10.5.110.0-24")).await;
    assert_eq!(node.leases["10.5.110.0-24"].value.len(), MAX_VALUE + 1);
    client.delete(key(&long_key), None).await.unwrap();
    node.until("the long key is gone", |node| node.leases.len() == 5 + 6 + 1).await;
}

async fn a_network_config_is_waited_for(server: Server) {
    let mut client = server.client().await;
    let mut source = EtcdSource::new(server.config(), LeaseOptions::default());
    let waiting = tokio::spawn(async move { source.network().await });
    client.put(format!("{PREFIX}/config"), r#"{"Network":"10.5.0.0/31"}"#, None).await.unwrap();
    client.put(format!("{PREFIX}/config"), "{", None).await.unwrap();
    assert!(!waiting.is_finished());
    let start = Stopwatch::start();
    client.put(format!("{PREFIX}/config"), NETWORK, None).await.unwrap();
    let network = waiting.await.unwrap();
    assert_eq!(network.v4.unwrap().network, "10.5.0.0/16".parse().unwrap());
    start.assert_within(Duration::from_secs(2));
}

async fn a_changed_network_config_is_told_and_not_applied(server: Server) {
    let mut client = server.with_network(NETWORK).await;
    let mut node = Setup::new(server.config(), "a", "192.0.2.1").run().await;
    node.until_listed().await;
    let changes = |node: &crate::node::Node| node.count(|event| matches!(event, Event::NetworkChanged(_)));
    for (i, text) in [r#"{"Network":"10.6.0.0/16"}"#, "{", NETWORK].into_iter().enumerate() {
        client.put(format!("{PREFIX}/config"), text, None).await.unwrap();
        node.until("the change is told", |node| changes(node) == i + 1).await;
    }
    assert_eq!(node.heard.last(), Some(&Event::NetworkChanged(String::new())));
    assert_eq!(node.own.as_ref(), Some(&node.acquired));
}

async fn a_clean_exit_releases_only_when_asked_to(server: Server) {
    let mut client = server.with_network(NETWORK).await;
    let mut node = Setup::new(server.config(), "a", "192.0.2.1").run().await;
    node.until_listed().await;
    node.stop().await;
    assert_eq!(stored(&mut client).await.len(), 1);
    let mut setup = Setup::new(server.config(), "a", "192.0.2.1");
    setup.options.release_on_exit = true;
    let mut node = setup.run().await;
    node.until_listed().await;
    node.stop().await;
    assert_eq!(stored(&mut client).await.len(), 0);
    assert_eq!(client.leases().await.unwrap().leases().len(), 0);
}
