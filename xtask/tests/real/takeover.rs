//! A living node changes hands, there and back, under traffic.

#[path = "../takeover/masquerade.rs"]
mod masquerade;

use masquerade::Flows;
use xtask::lab::{Cluster, Family, Node, Ping, Process, plain_vxlan, run, transfer, wait};

use crate::site::{Daemons, builder, command, leases, ours, start};

/// Node 1 is the one that changes hands.
struct Site {
    cluster: Cluster,
    daemons: Daemons,
    devices: Vec<String>,
    keys: String,
    /// For ours.
    variables: Vec<(String, String)>,
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
        Some(Self { cluster, daemons, devices, keys, variables: Vec::new() })
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
        let mut launch = self.daemons.in_its_place(datapath);
        launch.env.extend(self.variables.clone());
        self.node().start_with(&launch).unwrap();
        self.wait_converged();
    }

    fn wait_converged(&self) {
        self.node().wait_ready().unwrap();
        self.node().wait_converged().unwrap();
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

    /// Its routes and rules are there.
    fn wait_flannels(&self) {
        let peers = self.cluster.families().len() * 2;
        wait::until("flannel's routes", wait::LONG, || {
            (boot_routes(self.node()).lines().count() == peers).then_some(())
        })
        .unwrap_or_else(|error| panic!("{error}: {}", self.node().netns().run("ip route").unwrap()));
        wait::until("flannel's rules", wait::LONG, || {
            let rules = self.node().netns().run("iptables-save").ok()?;
            (rules.contains("-A FLANNEL-POSTRTG") && rules.contains("-A FLANNEL-FWD")).then_some(())
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
    // Through the device, or by way of another node.
    let to_peers = |line: &&str| line.contains("flannel") || line.starts_with("10.244.");
    routes.concat().lines().filter(to_peers).collect::<Vec<_>>().join("\n")
}

/// The same chains as flannel's, by the same names.
#[test]
fn to_iptables_and_back() {
    let Some(mut site) = Site::start("rtipt", &plain_vxlan(&BOTH), &BOTH) else { return };
    site.variables.push(("FLANNELD_PACKET_FILTER".into(), "iptables".into()));
    for end in [End::Stopped, End::Killed] {
        let (pings, flows) = (site.pings(), Flows::start(&site.cluster));
        site.end(end);
        site.take_over("ebpf");
        for ping in &pings {
            ping.more(300).unwrap();
        }
        flows.assert_all_masqueraded();
        site.same("taken over", pings);
        let pings = site.pings();
        site.end(end);
        site.give_back();
        site.wait_flannels();
        let said = site.cleanup();
        println!("{said}");
        site.same("given back", pings);
        site.wait_flannels();
        assert!(site.node().subnet_file().exists(), "{said}");
    }
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

#[test]
fn host_gw() {
    let network = plain_vxlan(&[Family::V4]).replace("\"vxlan\"", "\"host-gw\"");
    routes_there_and_back("rthgw", &network, &[Family::V4]);
}

#[test]
fn direct_routing() {
    let network = plain_vxlan(&BOTH).replace("\"vxlan\"", "\"vxlan\", \"DirectRouting\": true");
    routes_there_and_back("rtdir", &network, &BOTH);
}

fn routes_there_and_back(prefix: &str, network: &str, families: &[Family]) {
    let Some(site) = Site::start(prefix, network, families) else { return };
    for end in [End::Stopped, End::Killed] {
        let pings = site.pings();
        site.end(end);
        site.take_over("auto");
        site.same("taken over", pings);
        let pings = site.pings();
        site.end(end);
        site.give_back();
        for ping in &pings {
            ping.more(300).unwrap();
        }
        println!("{}", site.node().netns().run("ip route").unwrap());
        println!("{}", site.cleanup());
        println!("{}", site.node().netns().run("ip route").unwrap());
        site.same("given back", pings);
    }
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

/// Ours is started while flannel's daemon still runs, which mends its own rules every 5 s, and ends later.
#[test]
fn beside_a_living_daemon() {
    let Some(site) = Site::start("rtliv", &plain_vxlan(&BOTH), &BOTH) else { return };
    let (pings, flows) = (site.pings(), Flows::start(&site.cluster));
    let mut launch = site.daemons.in_its_place("ebpf");
    launch.args.push("-healthz-port=0".into());
    let log = site.cluster.dir().join("ours.log");
    let ours = Process::spawn("ours", &mut site.node().daemon_command(&launch).unwrap(), &log).unwrap();
    wait::until("convergence", wait::LONG, || (site.node().status().ok()?["state"] == "converged").then_some(()))
        .unwrap_or_else(|error| panic!("{error}: {}", ours.log()));
    // Longer than flannel's daemon takes to look at its rules twice.
    pings[0].more(12_000).unwrap();
    site.node().kill().unwrap();
    pings[0].more(12_000).unwrap();
    println!("{}", ours.log());
    assert_eq!(site.node().status().unwrap()["state"], "converged");
    let rules = run(site.node().netns().command("iptables-save").arg("-c")).unwrap();
    assert!(!rules.contains("FLANNEL-"), "{rules}");
    flows.assert_all_masqueraded();
    site.same("beside a living daemon", pings);
    assert!(ours.stop().unwrap().success());
}

/// The device is of another kind, so some packets are lost; afterwards all is as it was.
#[test]
fn to_userspace_and_back() {
    let Some(site) = Site::start("rtus", &plain_vxlan(&BOTH), &BOTH) else { return };
    for end in [End::Stopped, End::Killed] {
        let pings = site.pings();
        site.end(end);
        site.take_over("userspace");
        report("taken over", pings);
        site.cluster.assert_whole();
        assert_eq!(keys(&site.cluster), site.keys, "the same leases");
        let pings = site.pings();
        site.end(end);
        site.give_back();
        wait::until("flannel's device", wait::LONG, || (devices(site.node()).len() == 2).then_some(())).unwrap();
        println!("{}", site.cleanup());
        report("given back", pings);
        site.cluster.assert_whole();
        let pods = [1, 2].map(|number| site.cluster.node(number).pod());
        for family in BOTH {
            transfer(pods[0].netns(), pods[1].netns(), pods[1].address(family).unwrap(), 8 << 20).unwrap();
            transfer(pods[1].netns(), pods[0].netns(), pods[0].address(family).unwrap(), 8 << 20).unwrap();
        }
    }
}

fn report(what: &str, pings: Vec<Ping>) {
    for ping in &pings {
        ping.more(300).unwrap();
    }
    for report in pings.into_iter().map(Ping::stop) {
        println!("{what}: {report}");
    }
}
