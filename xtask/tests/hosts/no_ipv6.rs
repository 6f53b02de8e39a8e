//! IPv6 switched off, on the whole host or for a device.

use xtask::lab::{Cluster, Dump, Family, Launch, Node, skip_unless};

use super::{TOOLS, complaints, same_again, text, verb, wait_converged, wait_status};

const ALL: [(&str, &str); 2] = [("ipv6/conf/all/disable_ipv6", "1"), ("ipv6/conf/default/disable_ipv6", "1")];

fn start(node: &Node) {
    node.start().unwrap();
    node.wait_ready().unwrap();
    node.wire_pod().unwrap();
}

#[test]
fn an_ipv4_network_does_not_miss_it() {
    if skip_unless(&TOOLS) {
        return;
    }
    let cluster = Cluster::builder("fh6off").nodes(2).prepare().unwrap();
    for node in cluster.nodes() {
        node.netns().sysctl(&ALL).unwrap();
        start(node);
    }
    cluster.assert_whole();
    let node = cluster.node(1);
    let status = wait_converged(node);
    assert_eq!(status["filter"]["limits"], serde_json::json!([]), "{status:#}");
    // A sweep and a restart say no more than the start.
    wait_status(node, "a sweep", |status| status["counters"]["sweeps"].as_u64() > Some(1));
    let before = Dump::of(node.netns()).unwrap();
    node.netns().ip("link del flannel.1").unwrap();
    same_again(node, &before);
    node.restart().unwrap();
    wait_converged(node);
    let complaints = complaints(node);
    let noise: Vec<_> = complaints.iter().filter(|line| !line.contains("mending what somebody else changed")).collect();
    assert!(noise.is_empty(), "{noise:#?}");
    let etcd = cluster.store().endpoint();
    let check = verb(node, &Launch::default(), &["check", "--iface=eth0", "--etcd-endpoints", &etcd]);
    assert!(check.status.success(), "{}", text(&check));
    assert!(!text(&check).to_lowercase().contains("ipv6 is off"), "nobody asked for it: {}", text(&check));
}

#[test]
fn a_dual_stack_network_says_what_is_missing() {
    if skip_unless(&TOOLS) {
        return;
    }
    let cluster = Cluster::builder("fh6want").nodes(1).dual_stack().prepare().unwrap();
    let node = cluster.node(1);
    node.netns().sysctl(&ALL).unwrap();
    node.start().unwrap();
    let status = node.wait_end(xtask::lab::wait::LONG).unwrap();
    assert_eq!(status.code(), Some(2), "{}", node.log());
    let log = node.log();
    let said: Vec<_> = log.lines().filter(|line| line.contains("IPv6")).collect();
    assert!(said.iter().any(|line| line.contains("disable_ipv6")), "the cause is named: {log}");
    let etcd = cluster.store().endpoint();
    let check = text(&verb(node, &Launch::default(), &["check", "--iface=eth0", "--etcd-endpoints", &etcd]));
    assert!(check.contains("disable_ipv6"), "{check}");
}

#[test]
fn it_is_switched_off_and_on_under_a_running_daemon() {
    if skip_unless(&TOOLS) {
        return;
    }
    let cluster = Cluster::builder("fh6run").nodes(2).dual_stack().start().unwrap();
    cluster.assert_whole();
    let node = cluster.node(1);
    wait_converged(node);
    let before = Dump::of(node.netns()).unwrap();
    let ping = cluster.ping(1, 2, Family::V4).unwrap();

    // For our device alone.
    node.netns().sysctl(&[("ipv6/conf/flannel-v6.1/disable_ipv6", "1")]).unwrap();
    wait_status(node, "the device's state to be named", |status| {
        status["state"] == "degraded" && status.to_string().contains("disable_ipv6")
    });
    node.netns().sysctl(&[("ipv6/conf/flannel-v6.1/disable_ipv6", "0")]).unwrap();
    same_again(node, &before);
    wait_converged(node);
    cluster.assert_whole();

    // For the whole host: its addresses go too.
    node.netns().sysctl(&ALL).unwrap();
    let status = wait_status(node, "the host's state to be named", |status| {
        status["state"] == "degraded" && status.to_string().contains("disable_ipv6")
    });
    println!("IPv6 off on the host: {}", status["reason"]);
    node.netns().sysctl(&ALL.map(|(key, _)| (key, "0"))).unwrap();
    let own = node.address(Family::V6);
    node.netns().ip(&format!("address add {own}/64 dev eth0\nroute add default via fd77::ffff dev eth0\n")).unwrap();
    same_again(node, &before);
    wait_converged(node);
    ping.more(50).unwrap();
    ping.stop().assert_nothing_lost();
}
