//! Somebody on the nodes' network who knows a fast flow in every detail, and forges packets into it.

use std::{collections::BTreeSet, net::SocketAddr};

use flannel_common::Counter;
use serde_json::json;
use xtask::lab::{Cluster, Family, run, wait};

use crate::{
    site::{Site, skipped},
    talk::{Talk, connect, exchange},
};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fast_path/forge.py");

#[test]
fn forged_packets_reach_nobody_and_end_nothing() {
    if skipped(&["scapy"]) {
        return;
    }
    let site = Site::of(Cluster::builder("fpforge").nodes(3), &[&["--datapath", "ebpf", "--flow-validity", "600"]]);
    let answering = site.answering(1, Family::V4, 7000);
    // UDP goes out of node 2's pod by this port, so that the forger knows it.
    let talk = Talk::udp(site.pod(2), answering.address());
    site.until_fast(&talk, &[1, 2]);
    let other = site.answering(2, Family::V4, 7000);
    let mut stream = connect(site.pod(1), other.address()).unwrap();
    let counts = site.during(1, || exchange(&mut stream, 300));
    assert!(counts.get(Counter::EgressFast) > 200, "{}", counts.shown());
    let tcp_port = stream.local_addr().unwrap().port();
    let known = site.since(1, tcp_port);
    assert!(known.is_some(), "{}", site.flows(&[1]));

    let counts = site.during(1, || {
        forge(&site, talk.local(), tcp_port);
        wait::until("the last of them", wait::LONG, || answering.strange().contains("good: the last").then_some(()))
            .unwrap_or_else(|error| panic!("{error}: {:?}", answering.strange()));
    });
    println!("{}", counts.shown());
    let strange = answering.strange();
    let bad: BTreeSet<_> = strange.iter().filter(|text| !text.starts_with("good: ")).collect();
    assert!(bad.is_empty(), "delivered: {bad:#?}");
    let dots = |text: &str| text.trim_end_matches('.').to_owned();
    let good: BTreeSet<_> = strange.iter().map(|text| dots(text)).collect();
    let expected = ["as the peer would", "inner fragments", "options", "outer fragments", "the last"];
    assert_eq!(good, expected.map(|text| format!("good: {text}")).into());
    for counter in [
        Counter::IngressForged,
        Counter::IngressVni,
        Counter::IngressMac,
        Counter::IngressFlags,
        Counter::IngressFamily,
        Counter::IngressMalformed,
        Counter::IngressOptions,
        Counter::IngressFragment,
        Counter::IngressTtl,
        Counter::IngressOuter,
        Counter::IngressControl,
    ] {
        assert!(counts.get(counter) > 0, "{} is zero: {}", counter.label(), counts.shown());
    }
    assert_eq!(site.since(1, tcp_port), known, "a stranger's FIN, SYN and RST end nothing");
    exchange(&mut stream, 50);
    site.until_fast(&talk, &[1, 2]);
    talk.whole();
    site.alive();
}

/// Runs the forger on the port of the underlay's bridge that leads to node 1.
fn forge(site: &Site, peer: SocketAddr, tcp_port: u16) {
    let mac = |number: usize, device: &str| {
        let shown = site.netns(number).run(&format!("ip -o link show dev {device}")).unwrap();
        shown.split_once("link/ether ").unwrap().1.split(' ').next().unwrap().to_owned()
    };
    let facts = json!({
        "interface": "n1",
        "node_mac": mac(1, "eth0"),
        "node_outer": site.node(1).address(Family::V4),
        "peer_outer_mac": mac(2, "eth0"),
        "peer_outer": site.node(2).address(Family::V4),
        "other_outer": site.node(3).address(Family::V4),
        "vtep_mac": mac(1, "flannel.1"),
        "peer_mac": mac(2, "flannel.1"),
        "pod": site.pod_ip(1, Family::V4),
        "peer": site.pod_ip(2, Family::V4),
        "other": site.pod_ip(3, Family::V4),
        "peer_port": peer.port(),
        "port": 7000,
        "tcp_port": tcp_port,
    });
    let file = site.cluster.dir().join("forge.json");
    std::fs::write(&file, facts.to_string()).unwrap();
    let mut command = site.cluster.underlay().netns().command("/usr/bin/python3");
    run(command.arg(SCRIPT).arg(&file)).unwrap();
}
