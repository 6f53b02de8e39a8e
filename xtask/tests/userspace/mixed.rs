//! One cluster of all three datapaths.

use std::time::{Duration, Instant};

use xtask::lab::{Capture, Cluster, Family, Ping, PingReport, skip_unless, transfer, wait};

use crate::{
    TOOLS,
    site::{cluster, count, launch},
};

const MB: usize = 1 << 20;

fn pairs(cluster: &Cluster) -> Vec<(usize, usize, Family)> {
    let numbers = 1..=cluster.nodes().len();
    let pair = |from: usize| numbers.clone().filter(move |to| *to != from).map(move |to| (from, to));
    let pairs: Vec<_> = numbers.clone().flat_map(pair).collect();
    pairs.into_iter().flat_map(|(from, to)| [(from, to, Family::V4), (from, to, Family::V6)]).collect()
}

fn bulk(cluster: &Cluster, from: usize, to: usize, family: Family, octets: usize) {
    let start = Instant::now();
    let (source, sink) = (cluster.node(from).pod(), cluster.node(to).pod());
    transfer(source.netns(), sink.netns(), sink.address(family).unwrap(), octets).unwrap();
    println!("{octets} octets from {from} to {to}, {family}: {:?}", start.elapsed());
}

#[test]
fn every_pair_of_datapaths_carries_bulk_and_the_wire_is_clean() {
    if skip_unless(&TOOLS) {
        return;
    }
    let cluster = cluster("usmix", &["ebpf", "vxlan", "userspace"]);
    let node = cluster.node(3);
    let status = node.status().unwrap();
    assert_eq!(status["datapath"]["kind"], "userspace", "{status:#}");
    assert_eq!(status["userspace"].as_array().unwrap().len(), 2, "{status:#}");

    // A train is one frame on this wire, of which tshark reads the first datagram: it is cut before.
    for node in cluster.nodes() {
        node.netns().run("ethtool -K eth0 gso off tso off tx off").unwrap();
    }
    let capture = Capture::start(node.netns(), "eth0", "udp port 8472").unwrap();
    for (from, to, family) in pairs(&cluster).into_iter().filter(|(from, to, _)| *from == 3 || *to == 3) {
        bulk(&cluster, from, to, family, MB / 4);
    }
    let packets = capture.stop().unwrap();
    assert_eq!(packets.complaints().unwrap(), Vec::<String>::new());
    let rows = packets.fields("vxlan", &["vxlan.flags", "vxlan.vni"]).unwrap();
    assert!(rows.len() > 100, "{} packets", rows.len());
    assert!(rows.iter().all(|row| row[0] == "0x0800" && row[1] == "1"), "{rows:?}");
    for node in cluster.nodes() {
        node.netns().run("ethtool -K eth0 tx on gso on tso on").unwrap();
    }

    for (from, to, family) in pairs(&cluster) {
        bulk(&cluster, from, to, family, 8 * MB);
    }
    for family in [Family::V4, Family::V6] {
        // An idle loop reads the counters every 10 s.
        let enough = || (count(node, family, "sent_bytes") > 16 * MB as u64).then_some(());
        wait::until("the octets to be counted", wait::LONG, enough).unwrap();
    }
    let metrics = node.http("/metrics").unwrap();
    for line in ["flannel_userspace_total{family=\"IPv6\",counter=\"received_packets\"}", "flannel_userspace_offload{"]
    {
        assert!(metrics.contains(line), "{metrics}");
    }
    assert!(node.ctl(&["status"]).unwrap().contains("engine IPv4"));
}

/// What somebody breaks on a userspace node under traffic is as before, and packets flow again.
#[test]
fn what_somebody_breaks_is_mended() {
    if skip_unless(&TOOLS) {
        return;
    }
    let cluster = cluster("usbrk", &["userspace", "vxlan"]);
    let node = cluster.node(1);
    for (what, lines) in [
        ("IPv4 device deleted", "link del flannel.1"),
        ("IPv6 device deleted", "link del flannel-v6.1"),
        ("device down", "link set flannel.1 down"),
        ("device down and up", "link set flannel-v6.1 down\nlink set flannel-v6.1 up"),
        ("MTU lowered", "link set flannel.1 mtu 1300"),
        ("address removed", "address flush dev flannel.1"),
        ("routes flushed", "route flush proto 102"),
        ("IPv6 routes flushed", "-6 route flush proto 102"),
    ] {
        mended(&cluster, what, || match lines.strip_prefix("-6 ") {
            Some(line) => drop(node.netns().run(&format!("ip -6 {line}")).unwrap()),
            None => node.netns().ip(lines).unwrap(),
        });
    }
    // The uplink's address moves: peers learn of it by the lease.
    let pings = traffic(&cluster);
    node.netns().ip("address del 192.168.0.2/16 dev eth0\naddress add 192.168.0.77/16 dev eth0").unwrap();
    again(&cluster, "the address moved", pings);
    bulk(&cluster, 1, 2, Family::V4, MB);
}

/// From one datapath to another and back, with the same device names.
#[test]
fn a_node_changes_its_datapath_under_traffic_and_cleanup_leaves_nothing() {
    if skip_unless(&TOOLS) {
        return;
    }
    let cluster = cluster("usswi", &["vxlan", "vxlan"]);
    let node = cluster.node(1);
    for datapath in ["userspace", "vxlan", "userspace", "ebpf", "userspace"] {
        let pings = traffic(&cluster);
        node.stop().unwrap();
        node.start_with(&launch(datapath)).unwrap();
        node.wait_ready().unwrap();
        node.wait_converged().unwrap();
        again(&cluster, &format!("change to {datapath}"), pings);
        assert_eq!(node.status().unwrap()["datapath"]["kind"], datapath);
        bulk(&cluster, 1, 2, Family::V6, MB);
    }
    node.stop().unwrap();
    let text = xtask::lab::run(&mut node.verb(&["cleanup"]).unwrap()).unwrap();
    assert!(text.contains("removed device flannel.1") && text.contains("removed device flannel-v6.1"), "{text}");
    let left = node.netns().run("ip -br link show").unwrap();
    assert!(!left.contains("flannel"), "{left}");
    assert!(!node.run_dir().exists(), "{text}");
}

fn traffic(cluster: &Cluster) -> Vec<Ping> {
    let ping = |(from, to, family)| cluster.ping(from, to, family).unwrap();
    let pings: Vec<_> = [(1, 2, Family::V4), (2, 1, Family::V6)].map(ping).into();
    again_within(&pings, "before");
    pings
}

fn again_within(pings: &[Ping], what: &str) {
    pings.iter().for_each(|ping| ping.more(50).unwrap_or_else(|error| panic!("{what}: {error}")));
}

fn again(cluster: &Cluster, what: &str, pings: Vec<Ping>) {
    cluster.node(1).wait_converged().unwrap();
    again_within(&pings, what);
    let reports: Vec<PingReport> = pings.into_iter().map(Ping::stop).collect();
    for report in &reports {
        println!("{what}: {report}");
    }
}

/// Breaks something, and waits until the node's addresses and routes are what they were.
fn mended(cluster: &Cluster, what: &str, breaking: impl FnOnce()) {
    let node = cluster.node(1);
    let look = || {
        let shown = |line: &str| node.netns().run(line).unwrap_or_default();
        let links = shown("ip -br link show type tun").lines().count();
        let mtus = shown("ip link show flannel.1").contains("mtu 1450 ");
        let routes = shown("ip route show proto 102") + &shown("ip -6 route show proto 102");
        let addresses = shown("ip -br -4 address show dev flannel.1");
        (links, mtus, routes, addresses.contains("/32"))
    };
    let before = look();
    assert!(before.0 == 2 && before.1 && before.3, "{before:?}");
    let pings = traffic(cluster);
    let start = Instant::now();
    breaking();
    wait::until(what, wait::LONG, || (look() == before).then_some(()))
        .unwrap_or_else(|error| panic!("{error}: {before:?}, {:?}\n{}", look(), node.log()));
    let took = start.elapsed();
    again(cluster, what, pings);
    // A missed notice would be made up for by the sweep.
    assert!(took < Duration::from_secs(5), "{what}: only after {took:?}");
}
