//! A living node changes hands, there and back, under traffic.

#[path = "../takeover/masquerade.rs"]
mod masquerade;

use masquerade::Flows;
use xtask::lab::{Cluster, Family, Node, Ping, plain_vxlan, run, wait};

use crate::site::{Daemons, builder, command, leases, ours, start};

/// Node 1 is the one that changes hands.
struct Site {
    cluster: Cluster,
    daemons: Daemons,
    devices: Vec<String>,
    keys: String,
}

/// How a daemon ends.
#[derive(Clone, Copy)]
enum End {
    Stopped,
    Killed,
}

impl Site {
    fn start(prefix: &str, network: &str, families: &[Family]) -> Option<Self> {
        let daemons = Daemons::given()?;
        let launches = vec![daemons.flannel(), ours("ebpf"), daemons.flannel()];
        let cluster = builder(prefix, launches).families(families).network(network).prepare().unwrap();
        for number in [1, 2, 3] {
            start(&cluster, number);
        }
        cluster.assert_whole();
        let (devices, keys) = (devices(cluster.node(1)), keys(&cluster));
        Some(Self { cluster, daemons, devices, keys })
    }

    fn node(&self) -> &Node {
        self.cluster.node(1)
    }

    /// From and to every other node, in every family.
    fn pings(&self) -> Vec<Ping> {
        let pairs = [(1, 2), (2, 1), (1, 3), (3, 1)];
        let all = self.cluster.families().iter().flat_map(|family| pairs.map(|(from, to)| (from, to, *family)));
        all.map(|(from, to, family)| self.cluster.ping(from, to, family).unwrap()).collect()
    }

    fn end(&self, end: End) {
        match end {
            End::Stopped => {
                self.node().stop().unwrap();
            }
            End::Killed => self.node().kill().unwrap(),
        }
    }

    /// Ours in flannel's place: same command line, same subnet file.
    fn take_over(&self, datapath: &str) {
        self.node().start_with(&self.daemons.in_its_place(datapath)).unwrap();
        self.wait_converged();
    }

    fn wait_converged(&self) {
        self.node().wait_ready().unwrap();
        wait::until("convergence", wait::LONG, || (self.node().status().ok()?["state"] == "converged").then_some(()))
            .unwrap_or_else(|error| panic!("{error}: {}", self.node().log()));
    }

    /// docs/compatibility.md, "Taking over, and back".
    fn give_back(&self) {
        let before = self.node().log().matches("Running backend").count();
        self.node().start_with(&self.daemons.flannel()).unwrap();
        wait::until("flannel's daemon to run", wait::LONG, || {
            (self.node().log().matches("Running backend").count() > before).then_some(())
        })
        .unwrap();
    }

    fn cleanup(&self) -> String {
        let node = self.node();
        let mut cleanup = command(node, &["cleanup"]);
        cleanup.arg("--subnet-file").arg(node.subnet_file()).arg("--bpf-dir").arg(node.bpf_dir());
        cleanup.arg("--state-dir").arg(node.run_dir());
        run(&mut cleanup).unwrap()
    }

    /// Nothing was lost, nothing was made anew.
    fn same(&self, what: &str, pings: Vec<Ping>) {
        for ping in &pings {
            ping.more(300).unwrap();
        }
        for report in pings.into_iter().map(Ping::stop) {
            println!("{what}: {report}");
            report.assert_nothing_lost();
        }
        assert_eq!(devices(self.node()), self.devices, "{what}: the same devices");
        assert_eq!(keys(&self.cluster), self.keys, "{what}: the same leases");
        self.cluster.assert_whole();
    }
}

/// Index and address tell whether a device was made anew.
fn devices(node: &Node) -> Vec<String> {
    let shown = node.netns().run("ip -o link show type vxlan").unwrap();
    let identity = |line: &str| {
        let mac = line.split_once("link/ether ").unwrap().1.split(' ').next().unwrap().to_owned();
        format!("{} {mac}", line.split(": ").take(2).collect::<Vec<_>>().join(" "))
    };
    shown.lines().map(identity).collect()
}

fn keys(cluster: &Cluster) -> String {
    cluster.etcdctl(&["get", "--prefix", "--keys-only", "/coreos.com/network/subnets/"]).unwrap()
}

fn boot_routes(node: &Node) -> String {
    let routes = ["-4", "-6"].map(|family| node.netns().run(&format!("ip {family} route show proto boot")).unwrap());
    routes.concat().lines().filter(|line| line.contains("flannel")).collect::<Vec<_>>().join("\n")
}

fn there_and_back(prefix: &str, datapath: &str, families: &[Family], end: End) {
    let Some(site) = Site::start(prefix, &plain_vxlan(families), families) else { return };
    println!("{}", leases(&site.cluster));

    let (pings, flows) = (site.pings(), Flows::start(&site.cluster));
    site.end(end);
    site.take_over(datapath);
    for ping in &pings {
        ping.more(300).unwrap();
    }
    flows.assert_all_masqueraded();
    site.same("taken over", pings);
    println!("{}", leases(&site.cluster));
    assert_eq!(boot_routes(site.node()), "", "flannel's routes are ours now");
    let rules = run(site.node().netns().command("iptables-save").arg("-c")).unwrap();
    assert!(!rules.contains("FLANNEL-"), "{rules}");

    let (pings, flows) = (site.pings(), Flows::start(&site.cluster));
    site.end(end);
    site.give_back();
    let peers = site.cluster.families().len() * 2;
    wait::until("flannel's routes", wait::LONG, || (boot_routes(site.node()).lines().count() == peers).then_some(()))
        .unwrap_or_else(|error| panic!("{error}: {}", site.node().netns().run("ip route").unwrap()));
    wait::until("flannel's rules", wait::LONG, || {
        let rules = site.node().netns().run("iptables-save").ok()?;
        (rules.contains("-A FLANNEL-POSTRTG") && rules.contains("-A FLANNEL-FWD")).then_some(())
    })
    .unwrap();
    for ping in &pings {
        ping.more(300).unwrap();
    }
    println!("{}", site.cleanup());
    for ping in &pings {
        ping.more(300).unwrap();
    }
    flows.assert_all_masqueraded();
    site.same("given back", pings);
    let left = site.node().netns().run("nft list ruleset").unwrap();
    assert!(!left.contains("flannel-ctl"), "{left}");

    // A second time, from a node that was ours once.
    let pings = site.pings();
    site.end(end);
    site.take_over(datapath);
    site.same("taken over again", pings);
}

const BOTH: [Family; 2] = [Family::V4, Family::V6];

#[test]
fn to_ebpf_after_sigterm() {
    there_and_back("rtebs", "ebpf", &BOTH, End::Stopped);
}

#[test]
fn to_ebpf_after_a_kill() {
    there_and_back("rtebk", "ebpf", &[Family::V4], End::Killed);
}

#[test]
fn to_vxlan_after_sigterm() {
    there_and_back("rtvxs", "vxlan", &[Family::V4], End::Stopped);
}

#[test]
fn to_vxlan_after_a_kill() {
    there_and_back("rtvxk", "vxlan", &BOTH, End::Killed);
}
