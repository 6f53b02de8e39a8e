//! Networks of other shapes: IPv6 alone, direct routes.

use xtask::lab::{Cluster, Family, GATEWAY_V4, skip_unless, transfer, wait};

use crate::{
    TOOLS,
    site::{count, launch},
};

const OCTETS: usize = 4 << 20;

/// Between the pods of nodes 1 and 2, both ways.
fn exchange(cluster: &Cluster, family: Family) {
    let [one, two] = [1, 2].map(|number| cluster.node(number).pod());
    transfer(one.netns(), two.netns(), two.address(family).unwrap(), OCTETS).unwrap();
    transfer(two.netns(), one.netns(), one.address(family).unwrap(), OCTETS).unwrap();
}

/// Another VNI and port with it.
#[test]
fn ipv6_alone_is_carried() {
    if skip_unless(&TOOLS) {
        return;
    }
    let config = r#"{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fd10:244::/48","Backend":{"Type":"vxlan","VNI":4097,"Port":4789}}"#;
    let launches = ["userspace", "vxlan", "userspace"].map(launch).to_vec();
    let builder = Cluster::builder("us6only").nodes(3).families(&[Family::V6]).network(config);
    let cluster = builder.launches(launches).start().unwrap();
    for node in cluster.nodes() {
        node.wait_converged().unwrap();
    }
    cluster.assert_whole();
    exchange(&cluster, Family::V6);
    let [one, three] = [1, 3].map(|number| cluster.node(number).pod());
    transfer(one.netns(), three.netns(), three.address(Family::V6).unwrap(), OCTETS).unwrap();
    let node = cluster.node(1);
    let status = node.status().unwrap();
    assert_eq!(status["userspace"].as_array().unwrap().len(), 1, "{status:#}");
    let links = node.netns().run("ip -br link show").unwrap();
    assert!(links.contains("flannel-v6.4097") && !links.contains("flannel.4097"), "{links}");
    assert!(!node.log().contains("ERROR"), "{}", node.log());
}

#[test]
fn direct_routes_and_the_engine_take_turns_with_the_network_in_between() {
    if skip_unless(&TOOLS) {
        return;
    }
    let config = r#"{"Network":"10.244.0.0/16","Backend":{"Type":"vxlan","DirectRouting":true}}"#;
    let launches = ["userspace", "vxlan"].map(launch).to_vec();
    let cluster = Cluster::builder("usdir").nodes(2).network(config).launches(launches).start().unwrap();
    for node in cluster.nodes() {
        node.wait_converged().unwrap();
    }
    cluster.assert_whole();
    let node = cluster.node(1);
    let carried = || node.netns().packets("flannel.1").unwrap().1;
    let before = carried();
    exchange(&cluster, Family::V4);
    // The device itself says a word now and then.
    assert!(carried() < before + 20, "neighbours: {} packets", carried() - before);

    // By way of the gateway: no neighbours any more.
    let other = |number: usize| cluster.node(3 - number).address(Family::V4);
    cluster.underlay().netns().sysctl(&[("ipv4/ip_forward", "1"), ("ipv4/conf/all/send_redirects", "0")]).unwrap();
    for number in [1, 2] {
        let netns = cluster.node(number).netns();
        netns.sysctl(&[("ipv4/conf/all/accept_redirects", "0"), ("ipv4/conf/eth0/accept_redirects", "0")]).unwrap();
        netns.ip(&format!("route add {} via {GATEWAY_V4}\n", other(number))).unwrap();
    }
    let by = |device: &str| {
        let shown = |number: usize| cluster.node(number).netns().run("ip route show proto 102").unwrap();
        let all = || [1, 2].into_iter().all(|number| shown(number).contains(&format!("dev {device}"))).then_some(());
        wait::until(&format!("routes by {device}"), wait::LONG, all).unwrap();
        cluster.assert_whole();
    };
    by("flannel.1");
    exchange(&cluster, Family::V4);
    assert!(carried() > before + 100, "{} packets", carried() - before);
    for number in [1, 2] {
        cluster.node(number).netns().ip(&format!("route del {}\n", other(number))).unwrap();
    }
    by("eth0");
    let before = carried();
    exchange(&cluster, Family::V4);
    assert!(carried() < before + 20, "neighbours again: {} packets", carried() - before);
    assert_eq!(count(node, Family::V4, "received_forged"), 0);
}
