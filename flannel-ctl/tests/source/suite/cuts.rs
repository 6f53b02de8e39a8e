//! Cases of the suite in which a node is cut off from the store.

use std::time::Duration;

use etcd_client::{Client, Txn, TxnOp};
use flannel_ctl::source::Event;
use xtask::lab::Stopwatch;

use crate::{
    lab::{NETWORK, Server},
    node::{Node, Setup, equals, flannel_value, key, stored, stored_at},
    proxy::{Proxy, Weather},
};

pub(super) async fn a_subnet_that_another_took_while_we_were_cut_off_is_given_up(server: Server) {
    let CutOff { mut client, proxy, mut node, name, .. } = revoked_behind_a_cut(&server).await;
    let mut thief = Setup::new(server.config(), "b", "192.0.2.2");
    thief.previous = Some(node.acquired.subnet);
    let (_source, theirs) = thief.acquire().await;
    assert_eq!(theirs.key, name);
    proxy.set(Weather::Fine);
    let first = node.acquired.subnet;
    node.until("another subnet", |node| node.own.as_ref().is_some_and(|own| own.subnet != first)).await;
    let lost = node.heard.iter().position(|event| matches!(event, Event::Lost { subnet, .. } if *subnet == first));
    let shown = node.heard.iter().rposition(|event| matches!(event, Event::Snapshot(_)));
    assert!(lost.unwrap() < shown.unwrap(), "fenced before anything else");
    assert!(stored_at(&mut client, &name).await.unwrap().value_str().unwrap().contains(r#""NodeID":"b""#));
    assert_eq!(stored(&mut client).await.len(), 2);
}

pub(super) async fn a_revoked_lease_is_taken_again_after_a_cut(server: Server) {
    let CutOff { mut client, proxy, mut node, name, lease } = revoked_behind_a_cut(&server).await;
    assert_eq!(stored(&mut client).await.len(), 0);
    let owns = node.count(|event| matches!(event, Event::Own(_)));
    proxy.set(Weather::Fine);
    node.until("our lease is back", |node| node.count(|event| matches!(event, Event::Own(_))) > owns).await;
    assert_eq!(node.own.as_ref().unwrap().key, name);
    assert_eq!(node.count(|event| matches!(event, Event::Lost { .. })), 0);
    let now = stored_at(&mut client, &name).await.unwrap();
    assert!(now.lease() != lease && now.lease() != 0);
}

pub(super) async fn twenty_changes_and_a_compaction_during_a_cut(server: Server) {
    changes_while(server, Weather::Cut, 20).await;
}

pub(super) async fn two_thousand_changes_and_a_compaction_during_a_blackhole(server: Server) {
    changes_while(server, Weather::Blackhole, 2000).await;
}

async fn changes_while(server: Server, weather: Weather, count: usize) {
    let network = r#"{"Network":"10.0.0.0/8","SubnetLen":24,"Backend":{"Type":"vxlan"}}"#;
    let mut client = server.with_network(network).await;
    for i in 0..40 {
        client.put(key(&format!("10.1.{i}.0-24")), flannel_value("192.0.2.3"), None).await.unwrap();
    }
    let proxy = Proxy::to(server.port).await;
    let mut node = Setup::new(crate::lab::config(&[&proxy.url]), "a", "192.0.2.1").run().await;
    node.until("connected", |node| node.heard.contains(&Event::Connected)).await;
    proxy.set(weather);
    for batch in (0..count).collect::<Vec<_>>().chunks(100) {
        let change = |i: &usize| {
            let name = key(&format!("10.{}.{}.0-24", 1 + i / 250, i % 250));
            if i.is_multiple_of(5) {
                TxnOp::delete(name, None)
            } else {
                TxnOp::put(name, flannel_value("192.0.2.4"), None)
            }
        };
        client.txn(Txn::new().and_then(batch.iter().map(change).collect::<Vec<_>>())).await.unwrap();
    }
    let revision = client.get("x", None).await.unwrap().header().unwrap().revision();
    client.compact(revision, None).await.unwrap();
    node.until("the cut is noticed", |node| node.count(|e| matches!(e, Event::Disconnected(_))) > 0).await;
    proxy.set(Weather::Fine);
    let healed = Stopwatch::start();
    let truth = stored(&mut client).await;
    node.until("the list is that of the store", |node| equals(&node.leases, &truth)).await;
    let took = healed.elapsed();
    // A lost SYN is sent again after a second.
    healed.assert_within(Duration::from_secs(6));
    eprintln!("{count} changes, {weather:?}: complete {took:?} after the heal");
}

/// A node that cannot reach the store any more, and whose etcd lease was revoked there.
struct CutOff {
    client: Client,
    /// Still cut.
    proxy: Proxy,
    node: Node,
    /// The key that the node held, and the etcd lease that it hung on.
    name: String,
    lease: i64,
}

async fn revoked_behind_a_cut(server: &Server) -> CutOff {
    let mut client = server.with_network(NETWORK).await;
    let proxy = Proxy::to(server.port).await;
    let mut node = Setup::new(crate::lab::config(&[&proxy.url]), "a", "192.0.2.1").run().await;
    node.until("connected", |node| node.heard.contains(&Event::Connected)).await;
    let name = node.acquired.key.clone();
    proxy.set(Weather::Cut);
    node.until("the cut is noticed", |node| node.count(|e| matches!(e, Event::Disconnected(_))) == 1).await;
    let lease = stored_at(&mut client, &name).await.unwrap().lease();
    client.lease_revoke(lease).await.unwrap();
    CutOff { client, proxy, node, name, lease }
}
