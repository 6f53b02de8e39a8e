//! Cases of the suite in which several nodes claim what only one can have.

use std::time::Duration;

use etcd_client::{Client, PutOptions};
use flannel_ctl::{
    model::{LeaseValue, Subnet},
    source::{Clash, Contested, Event, NoLease},
};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

use crate::{
    lab::{NETWORK, Server, config},
    node::{Node, Setup, flannel_value, key, stored, stored_at, value},
    proxy::{Proxy, Weather},
};

fn quarrels(node: &Node) -> usize {
    node.count(|event| matches!(event, Event::Conflict { .. }))
}

fn losses(node: &Node) -> usize {
    node.count(|event| matches!(event, Event::Lost { .. }))
}

fn contested(error: NoLease) -> Contested {
    let NoLease::Contested(contested) = error else { panic!("{error}") };
    contested
}

/// The second node is refused, and the first does not notice more than the question.
async fn is_refused(server: &Server, second: Setup, clash: Clash) {
    let mut client = server.with_network(NETWORK).await;
    let mut first = Setup::new(server.config(), "a", "192.0.2.1").run().await;
    first.until("connected", |node| node.heard.contains(&Event::Connected)).await;
    let before = stored(&mut client).await;
    let refusal = contested(second.clone().try_acquire().await.err().expect("refused"));
    assert_eq!((refusal.clash, refusal.remembered), (clash, false));
    assert_eq!((refusal.holder.as_str(), refusal.holding.key.as_str()), ("host-a (192.0.2.1)", &*first.acquired.key));
    first.until("the question is reported", |node| quarrels(node) == 1).await;
    let after = stored(&mut client).await;
    assert_eq!(after.len(), 1);
    assert_eq!((after[0].value(), after[0].lease()), (before[0].value(), before[0].lease()));

    // It does not ask again, and so does not take the reboot of the first for its end.
    first.abort().await;
    let again = Setup { refused_by: Some(refusal.holding), ..second };
    let refusal = contested(again.clone().try_acquire().await.err().expect("refused again"));
    assert!(refusal.remembered);
    assert_eq!(stored(&mut client).await[0].mod_revision(), after[0].mod_revision(), "not even asked");
    client.delete(after[0].key(), None).await.unwrap();
    again.acquire().await;
}

pub(super) async fn a_copied_node_id_does_not_start_beside_its_original(server: Server) {
    let copy = Setup::new(server.config(), "a", "192.0.2.2");
    Box::pin(is_refused(&server, copy, Clash::NodeId)).await;
}

pub(super) async fn a_second_node_with_one_address_does_not_start(server: Server) {
    let second = Setup::new(server.config(), "b", "192.0.2.1");
    Box::pin(is_refused(&server, second, Clash::PublicAddress)).await;
}

pub(super) async fn a_node_installed_anew_gets_its_old_subnet_back(server: Server) {
    let mut client = server.with_network(NETWORK).await;
    let first = Setup::new(server.config(), "a", "192.0.2.1").run().await;
    let old = first.acquired.subnet;
    first.abort().await;
    let mut second = Setup::new(server.config(), "b", "192.0.2.1").run().await;
    second.until("connected", |node| node.heard.contains(&Event::Connected)).await;
    assert_eq!(second.acquired.subnet, old);
    let now = stored(&mut client).await;
    assert_eq!(now.len(), 1);
    assert_eq!(now[0].value_str().unwrap(), serde_json::to_string(&value("b", "192.0.2.1")).unwrap());
    assert_eq!(quarrels(&second) + losses(&second), 0);
}

pub(super) async fn copies_that_start_at_once_end_as_one_owner(server: Server) {
    let copies = |previous: Option<&str>| -> Vec<Setup> {
        let copy = |i| Setup {
            previous: previous.map(|key| Subnet::from_key(key).unwrap()),
            ..Setup::new(server.config(), "a", &format!("192.0.2.{i}"))
        };
        (1..=4).map(copy).collect()
    };
    let mut client = server.with_network(NETWORK).await;
    one_of(&mut client, copies(None)).await;
    one_of(&mut client, copies(Some("10.5.9.0-24"))).await;
    // As after an image that was taken of a node that had run.
    let lease = client.lease_grant(86_400, None).await.unwrap().id();
    let old = serde_json::to_string(&value("a", "192.0.2.99")).unwrap();
    client.put(key("10.5.7.0-24"), old, Some(PutOptions::new().with_lease(lease))).await.unwrap();
    one_of(&mut client, copies(None)).await;
}

pub(super) async fn nodes_with_one_address_that_start_at_once_end_as_one(server: Server) {
    let mut client = server.with_network(NETWORK).await;
    let setups = ["a", "b", "c"].map(|id| Setup::new(server.config(), id, "192.0.2.1"));
    one_of(&mut client, setups.to_vec()).await;
}

/// Starts all at once; exactly one gets a lease and keeps it. Leaves an empty store.
async fn one_of(client: &mut Client, setups: Vec<Setup>) {
    let count = setups.len();
    let mut starting = JoinSet::new();
    for setup in setups {
        starting.spawn(async move {
            let value = setup.value.clone();
            let (source, acquired) = setup.try_acquire().await?;
            Ok::<_, NoLease>(Node::run(source, acquired, value))
        });
    }
    let (owners, refused): (Vec<_>, Vec<_>) = starting.join_all().await.into_iter().partition(Result::is_ok);
    assert_eq!((owners.len(), refused.len()), (1, count - 1));
    for error in refused {
        contested(error.err().unwrap());
    }
    let mut owner = owners.into_iter().next().unwrap().unwrap();
    owner.until("connected", |node| node.heard.contains(&Event::Connected)).await;
    let left = stored(client).await;
    assert_eq!(left.len(), 1, "{left:?}");
    assert_eq!(left[0].key_str().unwrap(), key(&owner.acquired.key));
    let stands: LeaseValue = serde_json::from_slice(left[0].value()).unwrap();
    assert_eq!(stands, owner.acquired.value);
    assert_eq!(losses(&owner), 0);
    owner.abort().await;
    client.delete(left[0].key(), None).await.unwrap();
}

pub(super) async fn a_dead_lease_that_is_not_taken_is_put_back_as_it_was(server: Server) {
    let mut client = server.with_network(NETWORK).await;
    let lease = client.lease_grant(86_400, None).await.unwrap().id();
    let old = serde_json::to_string(&value("b", "192.0.2.1")).unwrap();
    let options = || Some(PutOptions::new().with_lease(lease));
    // Neither fits nor is ours to release: that node had another network config.
    client.put(key("10.9.1.0-24"), old.as_str(), options()).await.unwrap();
    client.put(key("10.5.2.0-24"), flannel_value("192.0.2.1"), options()).await.unwrap();
    let (_source, own) = Setup::new(server.config(), "a", "192.0.2.1").acquire().await;
    assert_eq!(own.key, "10.5.2.0-24", "what flannel left comes first");
    let now = stored_at(&mut client, "10.9.1.0-24").await.unwrap();
    assert_eq!((now.value_str().unwrap(), now.lease()), (old.as_str(), lease));
}

pub(super) async fn a_holder_that_answers_too_late_has_its_subnet_back(server: Server) {
    let mut client = server.with_network(NETWORK).await;
    for (id, ip) in [("a", "192.0.2.2"), ("b", "192.0.2.1")] {
        let proxy = Proxy::to(server.port).await;
        let mut first = Setup::new(config(&[&proxy.url]), "a", "192.0.2.1").run().await;
        first.until("connected", |node| node.heard.contains(&Event::Connected)).await;
        let own = first.acquired.key.clone();
        let before = stored_at(&mut client, &own).await.unwrap();
        proxy.set(Weather::Cut);
        let mut second = Setup::new(server.config(), id, ip).run().await;
        assert_eq!(second.acquired.key, own, "it looks like a node that came back");
        proxy.set(Weather::Fine);
        second.until("it gives way", |node| losses(node) == 1).await;
        let refused = |event: &Event| matches!(event, Event::Disconnected(why) if why.contains("host-a (192.0.2.1)"));
        second.until("it says why it has no other", |node| node.count(refused) == 1).await;
        first.until("it has noticed", |node| quarrels(node) == 1).await;
        first
            .until("its value is back", |node| {
                node.leases.get(&own).is_some_and(|record| record.value == before.value())
            })
            .await;
        assert_eq!(stored(&mut client).await.len(), 1);
        assert_eq!((losses(&first), quarrels(&first)), (0, 1), "one overwrite and no quarrel");
        second.abort().await;
        first.abort().await;
        client.delete(key(&own), None).await.unwrap();
    }
}

pub(super) async fn a_lease_is_renewed_while_a_quarrel_waits(server: Server) {
    let mut client = server.with_network(NETWORK).await;
    let mut setup = Setup::new(server.config(), "a", "192.0.2.1");
    setup.options.ttl = Duration::from_secs(2);
    let mut node = setup.run().await;
    node.until_listed().await;
    let name = node.acquired.key.clone();
    let ours = stored_at(&mut client, &name).await.unwrap();
    let thief = serde_json::to_string(&value("b", "192.0.2.66")).unwrap();
    let mut longest = Duration::ZERO;
    // The wait doubles each time; the eighth is longer than the lease lives.
    for round in 1..=8 {
        let options = PutOptions::new().with_lease(ours.lease());
        client.put(key(&name), thief.as_str(), Some(options)).await.unwrap();
        let begun = Instant::now();
        node.until("it is regained", |node| quarrels(node) == round).await;
        while stored_at(&mut client, &name).await.is_none_or(|now| now.value() != ours.value()) {
            sleep(Duration::from_millis(20)).await;
        }
        longest = longest.max(begun.elapsed());
        let now = stored_at(&mut client, &name).await.unwrap();
        assert_eq!((now.create_revision(), now.lease()), (ours.create_revision(), ours.lease()), "round {round}");
    }
    assert!(longest > Duration::from_secs(3), "the waits were too short to show anything: {longest:?}");
}

pub(super) async fn a_store_that_lost_its_data_costs_no_living_peer(mut server: Server) {
    let mut client = server.with_network(NETWORK).await;
    let (_dead, gone) = Setup::new(server.config(), "c", "192.0.2.3").acquire().await;
    let mut first = Setup::new(server.config(), "a", "192.0.2.1").run().await;
    let second = Setup::new(server.config(), "b", "192.0.2.2").run().await;
    let other = second.acquired.key.clone();
    first.until("all are known", |node| node.leases.len() == 3).await;
    // A revision far above that of the store which follows.
    for _ in 0..20 {
        client.put("/elsewhere", "x", None).await.unwrap();
    }
    server.lose_data();
    first.until("the loss is noticed", |node| matches!(node.heard.last(), Some(Event::Disconnected(_)))).await;
    server.go();
    server.ready().await;
    let holding = |node: &Node| node.count(|event| matches!(event, Event::Holding(_)));
    first.until("the removals are held back", |node| holding(node) == 1).await;
    first.until("and told in the end", |node| holding(node) == 2).await;
    assert_eq!(first.heard.last(), Some(&Event::Holding(String::new())));
    let removed = |key: &str| first.heard.contains(&Event::Delete(key.to_owned()));
    assert!(removed(&gone.key), "the dead one is removed");
    assert!(!removed(&other), "the living one is not");
    assert_eq!(first.count(|event| matches!(event, Event::Snapshot(_))), 1, "no list that would have removed it");
    let mut client = server.client().await;
    let keys: Vec<_> = stored(&mut client).await.iter().map(|kv| kv.key_str().unwrap().to_owned()).collect();
    assert!(keys.contains(&key(&other)) && keys.contains(&key(&first.acquired.key)), "{keys:?}");
    first.stop().await;
    second.stop().await;
}
