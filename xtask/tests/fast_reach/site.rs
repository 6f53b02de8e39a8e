//! A cluster, what its pods exchange, and which way that went.

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
};

use flannel_common::Counter;
use flannel_ctl::kernel::fastpath::counts;
use serde_json::Value;
use xtask::lab::{Builder, Cluster, Family, Launch, Netns, Node, run, skip_unless};

pub(crate) const EBPF: &[&str] = &["--datapath", "ebpf"];
pub(crate) const VXLAN: &[&str] = &["--datapath", "vxlan"];

/// True if the test must return now.
pub(crate) fn skipped() -> bool {
    skip_unless(&["ip", "nft", "tcpdump", "tshark", "ethtool"])
}

/// What one node counted meanwhile.
#[derive(Clone, Debug)]
pub(crate) struct Counts {
    ours: Vec<(Counter, u64)>,
    /// Received and sent by the VXLAN devices.
    pub(crate) tunnel: (u64, u64),
}

impl Counts {
    /// A node without BPF programs has counted nothing.
    pub(crate) fn of(node: &Node) -> Self {
        let ours = counts(node.bpf_dir())
            .map(|counts| Counter::ALL.into_iter().map(|counter| (counter, counts.decided(counter))).collect());
        Self { ours: ours.unwrap_or_default(), tunnel: node.netns().packets("flannel").unwrap() }
    }

    pub(crate) fn since(&self, before: &Self) -> Self {
        let then = |counter: Counter| before.get(counter);
        let ours = self.ours.iter().map(|(counter, now)| (*counter, now - then(*counter)));
        let tunnel = (self.tunnel.0.saturating_sub(before.tunnel.0), self.tunnel.1.saturating_sub(before.tunnel.1));
        Self { ours: ours.collect(), tunnel }
    }

    pub(crate) fn get(&self, counter: Counter) -> u64 {
        self.ours.iter().find(|(known, _)| *known == counter).map_or(0, |(_, count)| *count)
    }

    /// Packets that took the fast path out and in.
    pub(crate) fn fast(&self) -> (u64, u64) {
        (self.get(Counter::EgressFast), self.get(Counter::IngressFast))
    }

    fn shown(&self) -> String {
        let counted = self.ours.iter().filter(|(_, count)| *count > 0);
        let words: Vec<_> = counted.map(|(counter, count)| format!("{} {count}", counter.label())).collect();
        format!("{}; tunnel received {}, sent {}", words.join(", "), self.tunnel.0, self.tunnel.1)
    }

    /// Most of it went by the fast path, both ways.
    #[track_caller]
    pub(crate) fn assert_fast(&self) {
        let (out, back) = self.fast();
        let (received, sent) = self.tunnel;
        assert!(out > 4 * sent && out > 100, "out by the fast path: {}", self.shown());
        assert!(back > 4 * received && back > 100, "in by the fast path: {}", self.shown());
    }

    /// Some of it went by the fast path, both ways.
    #[track_caller]
    pub(crate) fn assert_some_fast(&self) {
        let (out, back) = self.fast();
        assert!(out > 10 && back > 10, "{}", self.shown());
    }

    /// Nothing of it left by the fast path.
    #[track_caller]
    pub(crate) fn assert_slow_out(&self) {
        assert_eq!(self.fast().0, 0, "{}", self.shown());
        assert!(self.tunnel.1 > 100, "it left by the VXLAN device: {}", self.shown());
    }
}

/// Nodes by these arguments, in turn; every pod reaches every other.
pub(crate) fn start(builder: Builder, arguments: &[&[&str]]) -> Cluster {
    let launch = |args: &&[&str]| Launch { args: args.iter().map(ToString::to_string).collect(), ..Launch::default() };
    let cluster = builder.launches(arguments.iter().map(launch).collect()).start().unwrap();
    cluster.assert_whole();
    cluster
}

/// Bulk, and requests with their answers over TCP and UDP, between the pods of nodes 1 and 2: unchanged and complete. What
/// both nodes counted meanwhile.
pub(crate) fn exchange(cluster: &Cluster, family: Family) -> [Counts; 2] {
    exchange_much(cluster, family, &["tcp-rr", "udp-rr"], 32)
}

/// Little enough for a capture to miss nothing of it.
pub(crate) fn exchange_little(cluster: &Cluster, family: Family) -> [Counts; 2] {
    exchange_much(cluster, family, &[], 4)
}

fn exchange_much(cluster: &Cluster, family: Family, requests: &[&str], megabytes: usize) -> [Counts; 2] {
    let nodes = [cluster.node(1), cluster.node(2)];
    let before = nodes.map(Counts::of);
    let pods = nodes.map(Node::pod);
    let address = pods[1].address(family).unwrap().to_string();
    let server = Server::start(pods[1].netns(), &address);
    let load = |words: &[&str]| -> Value {
        let words = [&["load", words[0], &address], &words[1..]].concat();
        let said = run(pods[0].netns().command(env!("CARGO_BIN_EXE_xtask")).args(&words)).unwrap();
        serde_json::from_str(said.lines().last().unwrap()).unwrap()
    };
    let integrity = load(&["integrity", &megabytes.to_string()]);
    assert_eq!(integrity["sent"], integrity["received"], "{integrity}");
    for kind in requests {
        let answered = load(&[*kind, "--flows", "2", "--warmup", "0.1", "--seconds", "1"]);
        eprintln!("{family} {kind}: {answered}");
    }
    drop(server);
    let [one, two] = nodes.map(Counts::of);
    let counts = [one.since(&before[0]), two.since(&before[1])];
    for (node, counts) in nodes.iter().zip(&counts) {
        eprintln!("{family} node {}: {}", node.number(), counts.shown());
    }
    counts
}

struct Server(Child);

impl Server {
    fn start(netns: &Netns, address: &str) -> Self {
        let mut command: Command = netns.command(env!("CARGO_BIN_EXE_xtask"));
        let mut child = command.args(["load", "serve", address]).stdout(Stdio::piped()).spawn().unwrap();
        let mut ready = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut ready).unwrap();
        assert_eq!(ready.trim(), "ready");
        Self(child)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}
