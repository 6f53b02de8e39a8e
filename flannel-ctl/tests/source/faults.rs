//! What happens to an etcd, and what a node makes of it.

use std::time::Duration;

use etcd_client::AlarmAction;
use flannel_ctl::source::{Event, etcd::Connector};
use nix::sys::signal::Signal;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    task::JoinSet,
    time::timeout,
};
use xtask::lab::Stopwatch;

use crate::{
    lab::{NETWORK, PREFIX, Server, config, free_ports},
    node::{Setup, equals, flannel_value, key, stored, stored_at, value},
    proxy::{Proxy, Weather},
};

fn cuts(node: &crate::node::Node) -> usize {
    node.count(|event| matches!(event, Event::Disconnected(_)))
}

fn last_cut(node: &crate::node::Node) -> &str {
    let last = node.heard.iter().rev().find(|event| matches!(event, Event::Disconnected(_)));
    if let Some(Event::Disconnected(why)) = last { why } else { "" }
}

fn connects(node: &crate::node::Node) -> usize {
    node.count(|event| matches!(event, Event::Connected))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_etcd_is_noticed_within_ten_seconds() {
    let Some(server) = Server::etcd(&[]).await else { return };
    let mut client = server.with_network(NETWORK).await;
    let mut node = Setup::new(server.config(), "a", "192.0.2.1").run().await;
    node.until("connected", |node| connects(node) == 1).await;
    server.signal(Signal::SIGSTOP);
    let start = Stopwatch::start();
    node.until("the stop is noticed", |node| cuts(node) == 1).await;
    start.assert_within(Duration::from_secs(10));
    let took = start.elapsed();
    server.signal(Signal::SIGCONT);
    let start = Stopwatch::start();
    node.until("connected again", |node| connects(node) == 2).await;
    eprintln!("noticed after {took:?}, back {:?} after it went on", start.elapsed());
    let truth = stored(&mut client).await;
    node.until("all leases", |node| equals(&node.leases, &truth)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_etcd_that_is_killed_and_comes_back_costs_no_write() {
    let Some(mut server) = Server::etcd(&[]).await else { return };
    let mut client = server.with_network(NETWORK).await;
    let mut node = Setup::new(server.config(), "a", "192.0.2.1").run().await;
    node.until("connected", |node| connects(node) == 1).await;
    let before = stored(&mut client).await;
    server.kill();
    node.until("the loss is noticed", |node| cuts(node) == 1).await;
    server.go();
    server.ready().await;
    let start = Stopwatch::start();
    node.until("connected again", |node| connects(node) == 2).await;
    eprintln!("back {:?} after etcd", start.elapsed());
    start.assert_within(Duration::from_secs(1));
    let mut client = server.client().await;
    let after = stored(&mut client).await;
    assert_eq!(before[0].mod_revision(), after[0].mod_revision());
    client.put(key("10.5.99.0-24"), flannel_value("192.0.2.9"), None).await.unwrap();
    node.until("a new lease", |node| node.leases.contains_key("10.5.99.0-24")).await;
    assert!(node.count(|event| matches!(event, Event::Lost { .. } | Event::Conflict { .. })) == 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_etcd_that_is_down_at_boot_is_waited_for() {
    let Some(mut server) = Server::etcd(&[]).await else { return };
    server.with_network(NETWORK).await;
    server.kill();
    let starting = tokio::spawn(Setup::new(server.config(), "a", "192.0.2.1").acquire());
    let refused = Connector::new(server.config()).connect().await.err().unwrap().to_string();
    assert!(refused.contains("Connection refused") && refused.contains(&server.url), "{refused}");
    assert!(refused.contains("is etcd running"), "{refused}");
    server.go();
    server.ready().await;
    let start = Stopwatch::start();
    starting.await.unwrap();
    start.assert_within(Duration::from_secs(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_second_endpoint_serves_when_the_first_is_dead() {
    let Some(server) = Server::etcd(&[]).await else { return };
    server.with_network(NETWORK).await;
    let dead = format!("http://127.0.0.1:{}", free_ports(1)[0]);
    let mut node = Setup::new(config(&[&dead, &server.url]), "a", "192.0.2.1").run().await;
    node.until("connected", |node| connects(node) == 1).await;
    assert_eq!(cuts(&node), 0);
    let neither = Connector::new(config(&[&dead, "http://127.0.0.1:1"])).connect().await.err().unwrap().to_string();
    assert!(neither.contains(&dead) && neither.contains("http://127.0.0.1:1"), "{neither}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leader_of_three_is_killed() {
    let Some(mut members) = Server::cluster().await else { return };
    members[0].with_network(NETWORK).await;
    let urls: Vec<String> = members.iter().map(|member| member.url.clone()).collect();
    let urls: Vec<&str> = urls.iter().map(String::as_str).collect();
    let mut nodes = Vec::new();
    // One node on each member.
    for i in 0..3 {
        let mut order = urls.clone();
        order.rotate_left(i);
        let mut node = Setup::new(config(&order), &format!("n{i}"), &format!("192.0.2.{}", i + 1)).run().await;
        node.until("connected", |node| connects(node) == 1).await;
        nodes.push(node);
    }
    let mut leader = None;
    for (i, member) in members.iter().enumerate() {
        let mut client = member.client().await;
        let status = client.status().await.unwrap();
        if status.header().unwrap().member_id() == status.leader() {
            leader = Some(i);
        }
    }
    let leader = leader.unwrap();
    members[leader].kill();
    let start = Stopwatch::start();
    let mut client = members[(leader + 1) % 3].client().await;
    // A write that meets the election is held for seconds; the next one need not be.
    loop {
        let put = client.put(key("10.5.99.0-24"), flannel_value("192.0.2.9"), None);
        if let Ok(Ok(_)) = timeout(Duration::from_millis(200), put).await {
            break;
        }
    }
    let elected = start.elapsed();
    for node in &mut nodes {
        node.until("a change after the election", |node| node.leases.contains_key("10.5.99.0-24")).await;
        assert_eq!(node.count(|event| matches!(event, Event::Lost { .. } | Event::Conflict { .. })), 0);
    }
    eprintln!("elected after {elected:?}, every node up to date after {:?}", start.elapsed());
    start.assert_within(elected + Duration::from_secs(5));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dual_stack_nodes_that_start_together_share_no_range_in_either_family() {
    let Some(server) = Server::etcd(&[]).await else { return };
    let network = r#"{"Network":"10.5.0.0/24","SubnetLen":29,"EnableIPv6":true,"IPv6Network":"fc00::/120","IPv6SubnetLen":125,"Backend":{"Type":"vxlan"}}"#;
    let mut client = server.with_network(network).await;
    let mut starting = JoinSet::new();
    for i in 1..=24 {
        starting.spawn(Setup::new(server.config(), &format!("n{i}"), &format!("192.0.2.{i}")).acquire());
    }
    let subnets: Vec<_> = starting.join_all().await.into_iter().map(|(_, lease)| lease.subnet).collect();
    for (i, subnet) in subnets.iter().enumerate() {
        assert_eq!(subnet.nets().count(), 2);
        assert!(!subnets[..i].iter().any(|other| other.overlaps(subnet)), "{subnets:?}");
    }
    assert_eq!(stored(&mut client).await.len(), 24);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_database_is_named_and_survived() {
    let Some(server) = Server::etcd(&["--quota-backend-bytes", "2000000"]).await else { return };
    let mut client = server.with_network(NETWORK).await;
    let mut node = Setup::new(server.config(), "a", "192.0.2.1").run().await;
    node.until("connected", |node| connects(node) == 1).await;
    let name = node.acquired.key.clone();
    while client.put("/elsewhere", "x".repeat(200_000), None).await.is_ok() {}
    node.values.send_replace(value("a", "192.0.2.9"));
    node.until("the trouble is told", |node| cuts(node) == 1).await;
    let Some(Event::Disconnected(text)) = node.heard.last() else { panic!("{:?}", node.heard.last()) };
    assert!(text.contains("database space exceeded") && text.contains("alarm disarm"), "{text}");
    assert_eq!(node.own.as_ref().unwrap().key, name, "kept meanwhile");
    client.delete("/elsewhere", None).await.unwrap();
    let revision = client.get("x", None).await.unwrap().header().unwrap().revision();
    client.compact(revision, None).await.unwrap();
    client.defragment().await.unwrap();
    let alarms = client.alarm(AlarmAction::Get, etcd_client::AlarmType::None, None).await.unwrap();
    let alarm = alarms.alarms().first().expect("the quota was exceeded");
    let mut options = etcd_client::AlarmOptions::new();
    options.with_member(alarm.member_id());
    client.alarm(AlarmAction::Deactivate, etcd_client::AlarmType::Nospace, Some(options)).await.unwrap();
    let start = Stopwatch::start();
    node.until("the new address is in", |node| {
        node.own.as_ref().is_some_and(|own| own.value.public_ip.octets()[3] == 9) && connects(node) == 2
    })
    .await;
    start.assert_within(Duration::from_secs(5));
    assert!(stored_at(&mut client, &name).await.unwrap().value_str().unwrap().contains("192.0.2.9"));
    assert_eq!(client.get(format!("{PREFIX}/config"), None).await.unwrap().kvs().len(), 1);
}

/// How many reads etcd has answered.
async fn reads(server: &Server) -> u64 {
    let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", server.port)).await.unwrap();
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    let line = text.lines().find(|line| {
        ["grpc_server_handled_total{", r#"grpc_code="OK""#, r#"grpc_method="Range""#]
            .iter()
            .all(|part| line.contains(part))
    });
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).expect("a counter of reads")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_kept_from_a_lease_does_not_storm_the_store() {
    let Some(server) = Server::etcd(&[]).await else { return };
    server.with_network(NETWORK).await;
    let proxy = Proxy::to(server.port).await;
    let mut first = Setup::new(config(&[&proxy.url]), "a", "192.0.2.1").run().await;
    first.until("connected", |node| connects(node) == 1).await;
    proxy.set(Weather::Cut);
    let theirs = Proxy::to(server.port).await;
    let mut second = Setup::new(config(&[&theirs.url]), "a", "192.0.2.2").run().await;
    second.until("connected", |node| connects(node) == 1).await;
    proxy.set(Weather::Fine);
    second.until("it is kept from a lease", |node| cuts(node) == 1).await;
    first.until("the first is back", |node| connects(node) == 2).await;
    theirs.set(Weather::Cut);
    second.until("it is cut off", |node| cuts(node) == 2).await;
    theirs.set(Weather::Fine);
    second.until("it is kept from a lease again", |node| cuts(node) > 2 && last_cut(node).contains("node's id")).await;
    let before = reads(&server).await;
    // That nothing happens can only be seen by waiting.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let after = reads(&server).await;
    assert!(after - before < 20, "{} reads in two seconds", after - before);
}
