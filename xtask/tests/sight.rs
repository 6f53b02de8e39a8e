//! lane: e2e
//!
//! What one can see of the fast path through the built binary: which packets took it, which flows it knows, and why the
//! others did not.
#![expect(clippy::unwrap_used, reason = "a test's helper functions are tests too")]

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead as _, BufReader},
    net::{IpAddr, SocketAddr, UdpSocket},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
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
    socket.set_read_timeout(Some(wait::SHORT)).unwrap();
    socket
}

/// Sends `count` datagrams, and has each answered; how many were lost.
fn converse(one: &UdpSocket, other: &UdpSocket, count: usize) -> usize {
    let mut buffer = [0; 64];
    let mut lost = 0;
    for _ in 0..count {
        one.send_to(b"question", other.local_addr().unwrap()).unwrap();
        if other.recv(&mut buffer).is_ok() {
            other.send_to(b"answer", one.local_addr().unwrap()).unwrap();
        }
        lost += usize::from(one.recv(&mut buffer).is_err());
    }
    lost
}

fn flow(flows: &Value, pod: &UdpSocket) -> Option<Value> {
    let pod = pod.local_addr().unwrap().to_string();
    flows.as_array().unwrap().iter().find(|flow| flow["pod"] == *pod).cloned()
}

fn counter(counters: &Value, name: &str, field: &str) -> u64 {
    let line = counters["counters"].as_array().unwrap().iter().find(|line| line["name"] == name).unwrap();
    line[field].as_u64().unwrap()
}

/// What every attachment runs, by its pin.
fn programs(node: &Node) -> BTreeMap<PathBuf, u64> {
    let pins = fs::read_dir(node.bpf_dir().join("links")).unwrap().map(|entry| entry.unwrap().path());
    let program = |pin: &Path| {
        let output = Command::new("bpftool").args(["-j", "link", "show", "pinned"]).arg(pin).output().unwrap();
        let link: Value = serde_json::from_slice(&output.stdout).unwrap();
        link["prog_id"].as_u64().unwrap()
    };
    pins.map(|pin| (pin.clone(), program(&pin))).collect()
}

/// Traces a conversation, of which nothing is lost, and leaves everything as it was.
fn trace(node: &Node, asks: &UdpSocket, answers: &UdpSocket) {
    let before = programs(node);
    let mut command = node.netns().command(flannel_ctl().unwrap());
    let filter = ["--proto", "udp", "--port", "4000", "--pod", &asks.local_addr().unwrap().ip().to_string()];
    command.arg("trace").args(filter).args(["--count", "60", "--output", "json", "--bpf-dir"]).arg(node.bpf_dir());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut started = String::new();
    BufReader::new(child.stderr.take().unwrap()).read_line(&mut started).unwrap();
    assert!(started.starts_with("tracing at "), "{started}");
    assert!(programs(node).iter().all(|(pin, program)| before[pin] != *program), "others are at work");
    let busy = verb(node, node.bpf_dir(), &["trace"]);
    assert!(String::from_utf8_lossy(&busy.stderr).contains("somebody traces already"), "{busy:?}");
    let unheard = wait::until("60 lines", wait::LONG, || {
        let lost = converse(asks, answers, 20);
        child.try_wait().unwrap().map(|_| lost)
    });
    assert_eq!(unheard.unwrap(), 0);
    let output = child.wait_with_output().unwrap();
    let told: Vec<Value> =
        output.stdout.split(|octet| *octet == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect();
    assert_eq!(told.len(), 60);
    let has = |program: &str, reason: &str, verdict: &str| {
        told.iter().any(|line| line["program"] == program && line["reason"] == reason && line["verdict"] == verdict)
    };
    assert!(has("pod_ingress", "egress_fast", "redirect"), "{told:?}");
    assert!(has("uplink_ingress", "ingress_fast", "redirect"), "{told:?}");
    assert!(told.iter().all(|line| line["source_port"] == 4000 || line["destination_port"] == 4000), "{told:?}");
    assert_eq!(programs(node), before, "as if nothing had been");
}

#[test]
fn who_takes_the_fast_path_and_why_others_do_not() {
    const PREFIX: &str = "fcsee";
    if skip_unless(&["ip", "bpftool"]) {
        return;
    }
    remove_leftovers(PREFIX).unwrap();
    let launch = Launch { args: ["--datapath", "ebpf"].map(str::to_owned).into(), ..Launch::default() };
    let cluster = Cluster::builder(PREFIX).nodes(2).launches(vec![launch.clone(), launch]).start().unwrap();
    cluster.assert_whole();
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

    trace(node, &asks, &answers);

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
