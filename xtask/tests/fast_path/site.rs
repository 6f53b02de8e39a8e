//! Nodes with the fast path on, and what it says that it has carried.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use flannel_common::{Counter, Tuple};
use flannel_ctl::{
    kernel::fastpath::{counts, known_flows},
    traffic,
};
use xtask::lab::{Cluster, Family, Launch, Netns, Node, SecondPod, skip_unless, wait};

use crate::{answering::Answering, talk::Talk};

const PATIENCE: Duration = Duration::from_secs(30);
/// Share of the packets that learning, and looking again from time to time, may take from the fast path.
const LOOKING: f64 = 0.2;

/// A cluster whose nodes carry packets by BPF, unless told otherwise.
pub(crate) struct Site {
    pub(crate) cluster: Cluster,
}

/// One node's counters at one moment, or between two.
#[derive(Clone, Debug)]
pub(crate) struct Counts {
    ours: traffic::Counts,
    /// Received and sent by the VXLAN devices.
    pub(crate) tunnel: (u64, u64),
}

impl Counts {
    fn of_node(node: &Node) -> Self {
        let ours = counts(node.bpf_dir()).unwrap_or_else(|error| panic!("node {}: {error}", node.number()));
        Self { ours, tunnel: node.netns().packets("flannel").unwrap() }
    }

    pub(crate) fn get(&self, counter: Counter) -> u64 {
        self.ours.decided(counter)
    }

    fn since(&self, before: &Self) -> Self {
        let tunnel = (self.tunnel.0 - before.tunnel.0, self.tunnel.1 - before.tunnel.1);
        Self { ours: self.ours.since(&before.ours), tunnel }
    }

    /// The counters that are not zero, in words.
    pub(crate) fn shown(&self) -> String {
        let counted = Counter::ALL.into_iter().map(|counter| (counter.label(), self.get(counter)));
        let words: Vec<_> =
            counted.filter(|(_, count)| *count > 0).map(|(label, count)| format!("{label} {count}")).collect();
        format!("{}; tunnel received {}, sent {}", words.join(", "), self.tunnel.0, self.tunnel.1)
    }
}

/// True if the test must return now; see [`skip_unless`].
pub(crate) fn skipped(more: &[&str]) -> bool {
    skip_unless(&[&["ip", "nft", "tcpdump", "tshark"], more].concat())
}

impl Site {
    /// Nodes that are each started with these arguments beside `--datapath ebpf`.
    pub(crate) fn start(prefix: &str, nodes: usize, arguments: &[&str]) -> Self {
        let ebpf = [&["--datapath", "ebpf"], arguments].concat();
        Self::of(Cluster::builder(prefix).nodes(nodes).dual_stack(), &[&ebpf])
    }

    /// The first node with the first arguments, and so on.
    pub(crate) fn of(builder: xtask::lab::Builder, arguments: &[&[&str]]) -> Self {
        let launch =
            |args: &&[&str]| Launch { args: args.iter().map(ToString::to_string).collect(), ..Launch::default() };
        let cluster = builder.launches(arguments.iter().map(launch).collect()).start().unwrap();
        cluster.assert_whole();
        Self { cluster }
    }

    pub(crate) fn node(&self, number: usize) -> &Node {
        self.cluster.node(number)
    }

    pub(crate) fn netns(&self, number: usize) -> &Netns {
        self.node(number).netns()
    }

    pub(crate) fn pod(&self, number: usize) -> &Netns {
        self.node(number).pod().netns()
    }

    pub(crate) fn pod_ip(&self, number: usize, family: Family) -> IpAddr {
        self.node(number).pod().address(family).unwrap()
    }

    /// Another pod of node 1.
    pub(crate) fn second_pod(&self) -> SecondPod {
        let pod = SecondPod::create(self.node(1), 1430).unwrap();
        pod.netns().settle("eth0").unwrap();
        pod
    }

    /// Something that answers in the pod of a node.
    pub(crate) fn answering(&self, number: usize, family: Family, port: u16) -> Answering {
        Answering::at(self.pod(number), SocketAddr::new(self.pod_ip(number, family), port))
    }

    /// Feeds a script to `nft` on a node.
    pub(crate) fn nft(&self, number: usize, script: &str) {
        let file = self.cluster.dir().join(format!("rules-{number}.nft"));
        std::fs::write(&file, script).unwrap();
        self.netns(number).run(&format!("nft -f {}", file.display())).unwrap();
    }

    /// What kube-proxy and many firewalls do.
    pub(crate) fn drop_invalid(&self, number: usize) {
        self.nft(
            number,
            "table inet strict {\n\
             counter invalid { }\n\
             chain forward {\n\
             type filter hook forward priority 0\n\
             ct state invalid counter name invalid drop\n\
             ct state established,related,new accept\n\
             }\n}\n",
        );
    }

    /// How many packets [`Site::drop_invalid`] has dropped.
    pub(crate) fn invalid(&self, number: usize) -> u64 {
        let shown = self.netns(number).run("nft list counter inet strict invalid").unwrap();
        let count = shown.split_once("packets ").and_then(|(_, rest)| rest.split(' ').next()?.parse().ok());
        count.unwrap_or_else(|| panic!("no count in {shown}"))
    }

    /// Whether a node knows a flow with this port at one end, in either direction.
    pub(crate) fn knows(&self, number: usize, port: u16) -> bool {
        let tables = known_flows(self.node(number).bpf_dir()).unwrap();
        let has = |tuple: &Tuple| [tuple.source_port, tuple.destination_port].contains(&port.to_be());
        tables.egress.iter().any(|(sent, _)| has(sent)) || tables.ingress.iter().any(|(wire, _)| has(wire))
    }

    /// Since when a node knows the flow that its pod sends from this port.
    pub(crate) fn since(&self, number: usize, port: u16) -> Option<u64> {
        let known = known_flows(self.node(number).bpf_dir()).unwrap();
        known.egress.iter().find(|(sent, _)| sent.source_port == port.to_be()).map(|(_, flow)| flow.used.created)
    }

    pub(crate) fn counts(&self, number: usize) -> Counts {
        Counts::of_node(self.node(number))
    }

    /// What a node counts while something is done.
    pub(crate) fn during(&self, number: usize, work: impl FnOnce()) -> Counts {
        let before = self.counts(number);
        work();
        self.counts(number).since(&before)
    }

    /// Waits until these nodes carry this conversation, which must be all that they have to carry, on the fast path in both
    /// directions, and the VXLAN devices next to nothing of it.
    pub(crate) fn until_fast(&self, talk: &Talk, nodes: &[usize]) {
        let mut last = String::new();
        wait::until("the fast path to carry it", PATIENCE, || {
            let before: Vec<_> = nodes.iter().map(|number| self.counts(*number)).collect();
            let answered = talk.answered();
            talk.more(200);
            let told = talk.answered() - answered;
            let now: Vec<_> =
                nodes.iter().zip(&before).map(|(number, then)| self.counts(*number).since(then)).collect();
            last = now.iter().map(Counts::shown).collect::<Vec<_>>().join("\n");
            now.iter().all(|counts| is_fast(counts, told)).then_some(())
        })
        .unwrap_or_else(|error| panic!("{error}, of nodes {nodes:?}:\n{last}\n{}", self.flows(nodes)));
    }

    /// The flows that nodes know, in words.
    pub(crate) fn flows(&self, nodes: &[usize]) -> String {
        let mut lines = Vec::new();
        for number in nodes {
            let tables = known_flows(self.node(*number).bpf_dir()).unwrap();
            for (sent, flow) in tables.egress {
                lines.push(format!("node {number} sends {sent:?} as {:?}, state {}", flow.wire, flow.state));
            }
            for (wire, flow) in tables.ingress {
                lines.push(format!("node {number} gets {wire:?} as {:?}, state {}", flow.delivered, flow.state));
            }
        }
        lines.join("\n")
    }

    /// Everything that was started still runs.
    pub(crate) fn alive(&self) {
        for node in self.cluster.nodes() {
            assert!(node.ended().unwrap().is_none(), "node {}:\n{}", node.number(), node.log());
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts of seconds")]
fn is_fast(counts: &Counts, told: u64) -> bool {
    let told = told as f64;
    let (least, most) = (told * (1.0 - LOOKING), told * LOOKING);
    let fast = [Counter::EgressFast, Counter::IngressFast].map(|counter| counts.get(counter) as f64);
    fast.iter().all(|carried| *carried >= least) && counts.tunnel.0 as f64 <= most && counts.tunnel.1 as f64 <= most
}
