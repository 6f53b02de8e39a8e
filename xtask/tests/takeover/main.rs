//! lane: e2e
//!
//! In the place of flannel, beside flannel, and back; and every backend that the kernel does by itself.
#![expect(clippy::unwrap_used, reason = "a test's helper functions are tests too")]

mod masquerade;

use std::{fs, os::unix::fs::symlink, time::Duration};

use masquerade::Flows;
use xtask::lab::{
    Cluster, Dump, Family, Flannel, FlannelRules, Launch, Ping, Process, flannel_ctl, plain_vxlan, run, skip_unless,
    wait,
};

const TOOLS: [&str; 6] = ["ip", "bridge", "nft", "etcdctl", "ethtool", "iptables-nft"];

/// A device's own attributes: its index and address tell whether it was made anew.
fn device(cluster: &Cluster, name: &str) -> String {
    cluster.node(1).netns().run(&format!("ip -o link show dev {name}")).unwrap()
}

fn take_over(prefix: &str, rules: FlannelRules) {
    let cluster = Cluster::builder(prefix).nodes(2).dual_stack().prepare().unwrap();
    let flannels = [1, 2].map(|number| Flannel::lay_out(&cluster, number).unwrap());
    for (flannel, other) in flannels.iter().zip([2, 1]) {
        flannel.meet(cluster.node(other)).unwrap();
        flannel.make_rules(rules).unwrap();
    }
    for node in cluster.nodes() {
        node.wire_pod().unwrap();
        node.netns().settle("cni0").unwrap();
        node.pod().netns().settle("eth0").unwrap();
    }
    cluster.assert_whole();
    let node = cluster.node(1);
    let devices = ["flannel.1", "flannel-v6.1"].map(|name| device(&cluster, name));
    let leases = cluster.etcdctl(&["get", "--prefix", "--keys-only", "/coreos.com/network/subnets/"]).unwrap();
    let pings =
        || [(1, 2, Family::V4), (2, 1, Family::V6)].map(|(from, to, family)| cluster.ping(from, to, family).unwrap());

    let running = pings();
    let flows = Flows::start(&cluster);
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("flanneld");
    symlink(flannel_ctl().unwrap(), &program).unwrap();
    let mut command = node.netns().command(&program);
    command.arg(format!("-etcd-endpoints={}", cluster.store().endpoint()));
    command.args(["-iface=eth0", "-ip-masq", "-healthz-ip=127.0.0.1", "-healthz-port=10256"]);
    command.arg(format!("-subnet-file={}", node.subnet_file().display()));
    command.arg(format!("-bpf-dir={}", node.bpf_dir().display()));
    let daemon = Process::spawn("flanneld", &mut command, &node.log_file()).unwrap();
    wait::until("flanneld to be ready", wait::LONG, || {
        let ready = node.http("/readyz").ok()?.starts_with("HTTP/1.1 200");
        (ready && node.status().ok()?["state"] == "converged").then_some(())
    })
    .unwrap_or_else(|error| panic!("{error}: {}", node.log()));
    for ping in &running {
        ping.more(200).unwrap();
    }
    flows.assert_all_masqueraded();
    for report in running.map(Ping::stop) {
        println!("taken over: {report}");
        report.assert_nothing_lost();
    }
    assert_eq!(["flannel.1", "flannel-v6.1"].map(|name| device(&cluster, name)), devices, "the same devices");
    let now = cluster.etcdctl(&["get", "--prefix", "--keys-only", "/coreos.com/network/subnets/"]).unwrap();
    assert_eq!(now, leases, "the same keys");
    let lease = cluster.etcdctl(&["get", &format!("/coreos.com/network/subnets/{}", flannels[0].key())]).unwrap();
    assert!(lease.contains("VtepMAC"), "{lease}");
    let dump = Dump::of(node.netns()).unwrap();
    assert_eq!(dump.only("route ").len(), 2, "{dump}");
    let boot = node.netns().run("ip -4 route show proto boot").unwrap()
        + &node.netns().run("ip -6 route show proto boot").unwrap();
    assert!(!boot.contains("flannel"), "flannel's routes are ours now: {boot}");
    let ruleset = node.netns().run("nft list ruleset").unwrap();
    for chain in ["FLANNEL-POSTRTG", "FLANNEL-FWD", "table ip flannel-ipv4", "flanneld masq"] {
        assert!(!ruleset.contains(chain), "{chain} is still there:\n{ruleset}");
    }

    // And back: what flannel does at its start and for each peer.
    let running = pings();
    let flows = Flows::start(&cluster);
    assert!(daemon.stop().unwrap().success());
    let shown = node.netns().run("ip -d -o link show dev flannel.1").unwrap();
    for same in [" id 1 ", " dev eth0 ", "local 192.168.0.2 ", "dstport 8472 "] {
        assert!(shown.contains(same), "flannel would make it anew, for want of {same:?}: {shown}");
    }
    assert!(!shown.contains("gbp") && !shown.contains("l2miss"), "{shown}");
    flannels[0].make_rules(rules).unwrap();
    flannels[0].meet(cluster.node(2)).unwrap();
    for ping in &running {
        ping.more(200).unwrap();
    }
    // What we have left would know the peers of this moment for ever.
    let removed = clean_up_beside_flannel(&cluster);
    for ping in &running {
        ping.more(200).unwrap();
    }
    for left in ["device flannel.1: flannel's routes lead through it", "subnet.env"] {
        assert!(removed.lines().any(|line| line.starts_with("left ") && line.contains(left)), "{left}: {removed}");
    }
    flows.assert_all_masqueraded();
    for report in running.map(Ping::stop) {
        println!("given back: {report}");
        report.assert_nothing_lost();
    }
    assert_eq!(["flannel.1", "flannel-v6.1"].map(|name| device(&cluster, name)), devices, "the same devices");
}

/// `flannel-ctl cleanup` on node 1. What it said.
fn clean_up_beside_flannel(cluster: &Cluster) -> String {
    let node = cluster.node(1);
    let mut command = node.netns().command(flannel_ctl().unwrap());
    let directory = node.subnet_file().parent().unwrap().to_owned();
    command.arg("cleanup").arg("--run-dir").arg(&directory).arg("--state-dir").arg(&directory);
    command.arg("--subnet-file").arg(node.subnet_file()).arg("--bpf-dir").arg(node.bpf_dir());
    let said = run(&mut command).unwrap();
    println!("{said}");
    assert!(!node.netns().run("nft list ruleset").unwrap().contains("table inet flannel-ctl"));
    assert_eq!(node.netns().run("ip nexthop show").unwrap(), "");
    assert!(!node.bpf_dir().exists());
    said
}

#[test]
fn a_node_of_flannel_with_iptables_is_taken_over_and_given_back_without_a_lost_packet() {
    if skip_unless(&TOOLS) {
        return;
    }
    take_over("fftki", FlannelRules::Iptables);
}

#[test]
fn a_node_of_flannel_with_nftables_is_taken_over_and_given_back_without_a_lost_packet() {
    if skip_unless(&TOOLS) {
        return;
    }
    take_over("fftkn", FlannelRules::Nftables);
}

#[test]
fn a_node_of_flannel_is_an_equal_peer() {
    if skip_unless(&TOOLS) {
        return;
    }
    let cluster = Flannel::beside_ours("ffmix").unwrap();
    let peers = cluster.node(1).status().unwrap()["peers"].clone();
    assert_eq!((&peers["programmed"], &peers["refused"]), (&2.into(), &0.into()), "{peers}");
}

#[test]
fn the_keys_of_the_vxlan_backend_reach_the_device() {
    if skip_unless(&TOOLS) {
        return;
    }
    let network = r#"{"Network": "10.244.0.0/16", "Backend": {"Type": "vxlan", "VNI": 42, "Port": 4789, "GBP": true,
        "Learning": true, "MTU": 1400}}"#;
    let cluster = Cluster::builder("ffkeys").nodes(2).network(network).start().unwrap();
    cluster.assert_whole();
    let node = cluster.node(1);
    let shown = node.netns().run("ip -d -o link show dev flannel.42").unwrap();
    for part in [" mtu 1350 ", " id 42 ", "dstport 4789 ", " gbp ", " learning "] {
        assert!(
            shown.contains(part) || (part == " learning " && !shown.contains("nolearning")),
            "no {part:?}: {shown}"
        );
    }
    assert_eq!(node.subnet_env().unwrap().get("MTU"), Some("1350"));
}

#[test]
fn a_cluster_of_ipv6_alone_works() {
    if skip_unless(&TOOLS) {
        return;
    }
    let cluster = Cluster::builder("ffsix").nodes(2).families(&[Family::V6]).start().unwrap();
    cluster.assert_whole();
    let env = fs::read_to_string(cluster.node(1).subnet_file()).unwrap();
    assert!(env.starts_with("FLANNEL_IPV6_NETWORK=fd10:244::/48\n") && env.contains("\nFLANNEL_MTU=1430\n"), "{env}");
    assert!(Dump::of(cluster.node(1).netns()).unwrap().only("device flannel.1").is_empty());
}

#[test]
fn host_gw_makes_plain_routes_and_mends_them() {
    if skip_unless(&TOOLS) {
        return;
    }
    let network = plain_vxlan(&[Family::V4, Family::V6]).replace("\"vxlan\"", "\"host-gw\"");
    let cluster = Cluster::builder("ffhgw").nodes(3).dual_stack().network(network).start().unwrap();
    cluster.assert_whole();
    let node = cluster.node(1);
    let before = Dump::of(node.netns()).unwrap();
    assert_eq!(before.only("route 10.244.").filter(|line| line.contains("dev eth0")).len(), 2, "{before}");
    assert!(before.only("device ").is_empty(), "{before}");
    assert_eq!(node.subnet_env().unwrap().get("MTU"), Some("1500"));
    for family in ["-4", "-6"] {
        let ping = cluster.ping(1, 2, if family == "-4" { Family::V4 } else { Family::V6 }).unwrap();
        node.netns().run(&format!("ip {family} route flush proto 102")).unwrap();
        same_again(&cluster, &before);
        println!("host-gw routes {family} flushed: {}", ping.stop());
    }
}

/// flannel's daemon keeps plain routes that are as it would make them, and looks every 10 s whether they are.
#[test]
fn beside_a_living_flanneld_cleanup_leaves_what_it_goes_by() {
    if skip_unless(&TOOLS) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let flanneld = dir.path().join("flanneld");
    fs::copy("/bin/sleep", &flanneld).unwrap();
    let network = plain_vxlan(&[Family::V4]).replace("\"vxlan\"", "\"host-gw\"");
    let cluster = Cluster::builder("ffliv").nodes(2).network(network).start().unwrap();
    cluster.assert_whole();
    let node = cluster.node(1);
    let pings = [cluster.ping(1, 2, Family::V4).unwrap(), cluster.ping(2, 1, Family::V4).unwrap()];
    node.stop().unwrap();
    // Whatever it does: its name is what is looked for, in the node's network namespace.
    let mut command = node.netns().command(&flanneld);
    let living = Process::spawn("flanneld", command.arg("600"), &dir.path().join("log")).unwrap();
    let comm = format!("/proc/{}/comm", living.pid());
    wait::until("it to have its name", wait::SHORT, || {
        fs::read_to_string(&comm).is_ok_and(|comm| comm == "flanneld\n").then_some(())
    })
    .unwrap();
    let cleanup = || run(&mut node.verb(&["cleanup"]).unwrap()).unwrap();
    let said = cleanup();
    println!("{said}");
    for ping in pings {
        ping.more(200).unwrap();
        ping.stop().assert_nothing_lost();
    }
    assert!(said.contains("left 1 of our routes, by way of other nodes"), "{said}");
    assert!(node.subnet_file().exists(), "{said}");
    assert!(!node.netns().run("nft list ruleset").unwrap().contains("table inet flannel-ctl"));
    living.kill().unwrap();
    cleanup();
    assert!(!node.netns().run("ip route").unwrap().contains("proto 102"), "now they are nobody's");
}

#[test]
fn direct_routes_follow_the_routes_of_the_uplink() {
    if skip_unless(&TOOLS) {
        return;
    }
    let network = plain_vxlan(&[Family::V4]).replace("\"vxlan\"", "\"vxlan\", \"DirectRouting\": true");
    let cluster = Cluster::builder("ffdir").nodes(3).network(network).start().unwrap();
    cluster.assert_whole();
    let node = cluster.node(1);
    let direct = Dump::of(node.netns()).unwrap();
    assert_eq!(direct.only("route ").filter(|line| line.contains("dev eth0")).len(), 2, "{direct}");
    let peer = node.address(Family::V4).to_string().replace("0.2", "0.3");
    node.netns().ip(&format!("route add {peer}/32 via 192.168.255.254")).unwrap();
    let mut now = Dump::default();
    wait::until("the peer behind a router to be reached by tunnel", wait::SHORT, || {
        now = Dump::of(node.netns()).ok()?;
        let routes = now.only("route ");
        let tunnelled = routes.filter(|line| line.contains("flannel.1") || line.contains("nhid")).len();
        (tunnelled == 1 && routes.len() == 2).then_some(())
    })
    .unwrap_or_else(|error| panic!("{error}\n{now}"));
    let ping = cluster.ping(1, 3, Family::V4).unwrap();
    ping.more(50).unwrap();
    node.netns().ip(&format!("route del {peer}/32")).unwrap();
    same_again(&cluster, &direct);
    ping.stop().assert_nothing_lost();
}

#[test]
fn checksum_offload_stays_off_over_the_loss_of_the_device() {
    if skip_unless(&TOOLS) {
        return;
    }
    let launch = Launch { args: vec!["--tx-checksum=off".into()], ..Launch::default() };
    let cluster = Cluster::builder("ffcsum").nodes(2).dual_stack().launches(vec![launch]).start().unwrap();
    cluster.assert_whole();
    let node = cluster.node(1);
    let before = Dump::of(node.netns()).unwrap();
    assert_eq!(before.only("offload ").filter(|line| line.contains(": off")).len(), 2, "{before}");
    node.netns().ip("link del flannel.1\nlink del flannel-v6.1").unwrap();
    same_again(&cluster, &before);
    node.netns().run("ethtool -K flannel.1 tx-checksum-ip-generic on").unwrap();
    wait::until("the offload to be off again", Duration::from_secs(15), || {
        (Dump::of(node.netns()).ok()? == before).then_some(())
    })
    .unwrap();
}

fn same_again(cluster: &Cluster, before: &Dump) {
    let mut now = Dump::default();
    wait::until("the state of before", Duration::from_secs(5), || {
        now = Dump::of(cluster.node(1).netns()).ok()?;
        (now == *before).then_some(())
    })
    .unwrap_or_else(|error| panic!("{error}\n{}", before.difference(&now)));
}
