//! lane: e2e
//!
//! What one can see of the fast path through the built binary: which packets took it, which flows it knows, and why the
//! others did not.
#![expect(clippy::unwrap_used, reason = "a test's helper functions are tests too")]

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    path::Path,
    process::Output,
    thread,
    time::Duration,
};

use serde_json::Value;
use xtask::lab::{Cluster, Family, Launch, Node, flannel_ctl, remove_leftovers, skip_unless, wait};

fn verb(node: &Node, bpf_dir: &Path, args: &[&str]) -> Output {
    let mut command = node.netns().command(flannel_ctl().unwrap());
    command.args(args).arg("--bpf-dir").arg(bpf_dir).output().unwrap()
}

fn json(node: &Node, args: &[&str]) -> Value {
    let output = verb(node, node.bpf_dir(), &[args, &["--output", "json"]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn address(node: &Node) -> IpAddr {
    node.pod().address(Family::V4).unwrap()
}

fn socket(node: &Node, port: u16) -> UdpSocket {
    let socket = node.pod().netns().enter(|| UdpSocket::bind(SocketAddr::new(address(node), port))).unwrap().unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    socket
}

/// Sends `count` datagrams, and has each answered.
fn converse(one: &UdpSocket, other: &UdpSocket, count: usize) {
    let mut buffer = [0; 64];
    for _ in 0..count {
        one.send_to(b"question", other.local_addr().unwrap()).unwrap();
        if other.recv(&mut buffer).is_ok() {
            other.send_to(b"answer", one.local_addr().unwrap()).unwrap();
            one.recv(&mut buffer).ok();
        }
    }
}

fn flow(flows: &Value, pod: &UdpSocket) -> Option<Value> {
    let pod = pod.local_addr().unwrap().to_string();
    flows.as_array().unwrap().iter().find(|flow| flow["pod"] == *pod).cloned()
}

fn counter(counters: &Value, name: &str, field: &str) -> u64 {
    let line = counters["counters"].as_array().unwrap().iter().find(|line| line["name"] == name).unwrap();
    line[field].as_u64().unwrap()
}

#[test]
fn who_takes_the_fast_path_and_why_others_do_not() {
    const PREFIX: &str = "fcsee";
    if skip_unless(&["ip"]) {
        return;
    }
    remove_leftovers(PREFIX).unwrap();
    let launch = Launch { args: ["--datapath", "ebpf"].map(str::to_owned).into(), ..Launch::default() };
    let cluster = Cluster::builder(PREFIX).nodes(2).launches(vec![launch.clone(), launch]).start().unwrap();
    cluster.wait_mesh(wait::LONG).unwrap();
    let (node, peer) = (cluster.node(1), cluster.node(2));

    let (asks, answers) = (socket(node, 4000), socket(peer, 5000));
    let known = wait::until("the conversation to be fast", wait::LONG, || {
        converse(&asks, &answers, 50);
        flow(&json(node, &["flows"]), &asks).filter(|flow| flow["fast"] == true && flow["packets"].as_u64() > Some(20))
    })
    .unwrap();
    assert_eq!(known["remote"], answers.local_addr().unwrap().to_string());
    assert_eq!(known["peer"], peer.address(Family::V4).to_string());
    assert_eq!(known["nat"], Value::Null);
    assert!(!known["interface"].as_str().unwrap().is_empty());

    let counters = json(node, &["counters"]);
    assert!(counters["sent"]["fast"].as_u64() > Some(10), "{counters}");
    assert!(counters["received"]["fast"].as_u64() > Some(10), "{counters}");
    assert!(counter(&counters, "egress_unknown", "tunnelled_sent") > 0, "{counters}");
    assert!(counter(&counters, "ingress_unknown", "tunnelled_received") > 0, "{counters}");
    // The mesh's pings.
    assert!(counter(&counters, "egress_protocol", "tunnelled_sent") > 0, "{counters}");
    assert!(counter(&counters, "ingress_protocol", "tunnelled_received") > 0, "{counters}");
    assert_eq!(counters["peers"][0]["peer"], peer.address(Family::V4).to_string());

    let (tells, listens) = (socket(node, 4001), socket(peer, 5001));
    let silent = wait::until("the monologue to be known", wait::LONG, || {
        tells.send_to(b"news", listens.local_addr().unwrap()).unwrap();
        thread::sleep(Duration::from_millis(10));
        flow(&json(node, &["flows", "--pod", &address(node).to_string()]), &tells)
    })
    .unwrap();
    assert_eq!((silent["fast"].as_bool(), silent["reason"].as_str()), (Some(false), Some("one_way")));
    let before = counter(&json(node, &["counters"]), "egress_one_way", "tunnelled_sent");
    for _ in 0..100 {
        tells.send_to(b"news", listens.local_addr().unwrap()).unwrap();
    }
    let one_way = counter(&json(node, &["counters"]), "egress_one_way", "tunnelled_sent") - before;
    assert!((50..=100).contains(&one_way), "{one_way}");

    let percent = wait::until("the hit rate in status", wait::LONG, || {
        converse(&asks, &answers, 50);
        node.status().ok()?["fast_path"]["sent"]["percent"].as_f64().filter(|percent| *percent > 0.0)
    });
    assert!(percent.unwrap() <= 100.0);

    node.stop().unwrap();
    assert!(flow(&json(node, &["flows"]), &tells).is_some(), "the maps are there without a daemon");
    let nothing = verb(node, &node.bpf_dir().join("nowhere"), &["flows"]);
    let said = String::from_utf8_lossy(&nothing.stderr);
    assert_eq!(nothing.status.code(), Some(1), "{said}");
    assert!(said.contains("no fast path is pinned in"), "{said}");
}
