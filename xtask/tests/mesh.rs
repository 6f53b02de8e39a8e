//! lane: e2e
//!
//! Three nodes, one store, every pod reaches every other.

use xtask::lab::{Capture, Cluster, Family, Netns, skip_unless};

#[test]
fn three_nodes_lease_subnets_and_ping_in_both_families() {
    if skip_unless(&["ip", "nft"]) {
        return;
    }
    let cluster = Cluster::builder("fmesh").nodes(3).dual_stack().start().unwrap();
    let mesh = cluster.assert_whole();
    assert_eq!(mesh.paths.len(), 3 * 2 * 2, "every ordered pair in two families");

    for node in cluster.nodes() {
        let env = node.subnet_env().unwrap();
        assert_eq!(env.get("NETWORK"), Some("10.244.0.0/16"));
        assert_eq!(env.get("MTU"), Some("1430"), "1500 less IPv6, UDP, VXLAN and Ethernet headers");
        let (received, sent) = node.netns().packets("flannel").unwrap();
        assert!(received > 0 && sent > 0, "node {}: {received} in, {sent} out of the tunnel", node.number());
        let status = node.status().unwrap();
        assert_eq!(status["peers"]["total"], 2, "{status:#}");
    }
    drop(cluster);
    let left: Vec<_> = Netns::list().into_iter().filter(|name| name.starts_with("fmesh")).collect();
    assert_eq!(left, Vec::<String>::new(), "nothing is left behind");
}

#[test]
fn a_killed_daemon_leaves_the_packets_flowing_and_comes_back_without_a_loss() {
    if skip_unless(&["ip", "nft"]) {
        return;
    }
    let cluster = Cluster::builder("fkill").nodes(2).dual_stack().start().unwrap();
    cluster.assert_whole();
    let pings = [cluster.ping(1, 2, Family::V4).unwrap(), cluster.ping(1, 2, Family::V6).unwrap()];
    cluster.node(1).kill().unwrap();
    pings[0].more(300).unwrap();
    cluster.node(1).start().unwrap();
    cluster.node(1).wait_ready().unwrap();
    pings[0].more(300).unwrap();
    cluster.node(1).restart().unwrap();
    pings[0].more(300).unwrap();
    for ping in pings {
        ping.stop().assert_nothing_lost();
    }
}

#[test]
fn the_wire_carries_vxlan_that_tshark_finds_nothing_wrong_with() {
    if skip_unless(&["ip", "nft", "tcpdump", "tshark"]) {
        return;
    }
    let cluster = Cluster::builder("fwire").nodes(2).start().unwrap();
    cluster.assert_whole();
    let capture = Capture::start(cluster.node(2).netns(), "eth0", "udp port 8472").unwrap();
    cluster.assert_whole();
    let packets = capture.stop().unwrap();
    let rows = packets.fields("vxlan && icmp", &["ip.src", "vxlan.vni", "vxlan.flags"]).unwrap();
    assert!(rows.len() >= 4, "two requests and two replies: {rows:?}");
    for row in &rows {
        let outer = row[0].split(',').next().unwrap();
        let known = cluster.nodes().iter().any(|node| node.address(Family::V4).to_string() == outer);
        assert!(known, "outer source is a node: {row:?}");
        assert_eq!(row[1..], ["1", "0x0800"], "VNI and flags as flannel's device sends them");
    }
    assert_eq!(packets.complaints().unwrap(), Vec::<String>::new());
}
