//! lane: e2e
//!
//! `plan`, `cleanup` and `check` through the built binary: what they say, and that they touch nothing else.
#![expect(clippy::unwrap_used, reason = "a test's helper functions are tests too")]

use std::{fs, process::Output, time::Duration};

use serde_json::Value;
use xtask::lab::{Cluster, Netns, Node, Stopwatch, flannel_ctl, remove_leftovers, run, skip_unless, wait};

const TOOLS: [&str; 3] = ["ip", "nft", "iptables"];

/// Everything in the kernel that we could have touched.
fn state(netns: &Netns) -> String {
    let dumps = [
        "ip -d link show",
        "ip address show",
        "ip route show table all",
        "ip -6 route show table all",
        "ip neigh show nud permanent",
        "ip nexthop show",
        "ip rule show",
        "bridge fdb show",
        "nft list ruleset",
        "iptables-save",
        "ip6tables-save",
        "sysctl net.netfilter.nf_conntrack_tcp_be_liberal",
    ];
    let dump = |line: &&str| format!("# {line}\n{}", netns.run(line).unwrap());
    let text: String = dumps.iter().map(dump).collect();
    // iptables-save prints the time.
    let timeless = text.lines().filter(|line| !line.starts_with("# Generated") && !line.starts_with("# Completed"));
    timeless.collect::<Vec<_>>().join("\n")
}

/// A verb with the options of the node's daemon; JSON where it has that.
fn verb(cluster: &Cluster, node: &Node, verb: &[&str]) -> Output {
    let mut command = node.verb(verb).unwrap();
    command.args(["--etcd-endpoints", &cluster.store().endpoint()]);
    if verb[0] != "cleanup" {
        command.args(["--iface", "eth0", "--ip-masq", "--output", "json", "--node-name", node.netns().name()]);
    }
    command.output().unwrap()
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn list(output: &Output) -> Vec<Value> {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", text(output)))
}

/// `change object` of every change of the plan.
fn planned(cluster: &Cluster, node: &Node) -> Vec<String> {
    let output = verb(cluster, node, &["plan"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    println!("{}", text(&output));
    let items = list(&output);
    let words =
        items.iter().map(|item| [&item["change"], &item["object"]].map(|word| word.as_str().unwrap().to_owned()));
    words.map(|words| words.join(" ")).collect()
}

fn wait_converged(node: &Node, peers: u64) {
    node.wait_status("the node to be converged", wait::LONG, |status| {
        status["state"] == "converged" && status["peers"]["programmed"] == peers
    })
    .unwrap();
}

#[test]
fn a_plan_lists_everything_and_changes_nothing() {
    if skip_unless(&TOOLS) || skip_unless(&["etcdctl"]) {
        return;
    }
    let cluster = Cluster::builder("fverb-p").nodes(2).dual_stack().prepare().unwrap();
    let (one, two) = (cluster.node(1), cluster.node(2));
    one.start().unwrap();
    one.wait_ready().unwrap();

    // Before the first start.
    let etcdctl = |args: &[&str]| {
        let mut command = cluster.underlay().netns().command("etcdctl");
        run(command.args(["--endpoints", &cluster.store().endpoint()]).args(args)).unwrap()
    };
    let leases = || etcdctl(&["get", "--prefix", "/coreos.com/network/"]);
    let before = (state(two.netns()), leases());
    let plan = planned(&cluster, two);
    assert_eq!((state(two.netns()), leases()), before);
    assert!(!two.run_dir().exists() && !two.state_dir().exists());
    for wanted in [
        "add node identity",
        "add VTEP address file /",
        "add lease",
        "add subnet file",
        "add IPv4 tunnel device",
        "add IPv6 tunnel device",
        "add accept_ra",
        "add address",
        "add packet filter rules",
        "add guard entry 192.168.0.2 carries 10.244.",
        "add neighbour 10.244.",
        "add neighbour fd10:244:",
        "add IPv4 FDB entry",
        "add IPv6 FDB entry",
        "add nexthop 10.244.",
        "add route 10.244.",
        "add route fd10:244:",
        "add fast path",
    ] {
        assert!(plan.iter().any(|line| line.starts_with(wanted)), "no {wanted}: {plan:#?}");
    }
    assert!(plan.iter().all(|line| line.starts_with("add ")), "{plan:#?}");

    // Converged, with and without the daemon.
    two.start().unwrap();
    two.wait_ready().unwrap();
    wait_converged(two, 1);
    assert_eq!(planned(&cluster, two), Vec::<String>::new());
    assert!(!text(&verb(&cluster, two, &["plan"])).contains("other options"));
    // Options of another run than the daemon's.
    let output = verb(&cluster, two, &["plan", "--peer-guard", "off", "--ip-masq-exclude", "198.51.100.0/24"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    let told = String::from_utf8_lossy(&output.stderr);
    let pid = two.pid().unwrap();
    let wanted = format!(
        "(pid {pid}) runs with other options (--ip-masq-exclude not given, here 198.51.100.0/24; --peer-guard drop, here off)"
    );
    assert!(told.lines().count() == 1 && told.contains(&wanted), "{told}");
    two.stop().unwrap();
    assert_eq!(planned(&cluster, two), Vec::<String>::new());
    let output = verb(&cluster, two, &["plan", "--datapath", "vxlan"]);
    assert!(text(&output).contains("detach the BPF programs of an earlier run"), "{}", text(&output));

    // One thing is broken, and somebody writes nonsense.
    let route = two.netns().run("ip -4 route show proto 102").unwrap();
    let destination = route.split(' ').next().unwrap().to_owned();
    two.netns().ip(&format!("route del {destination}\n")).unwrap();
    let before = state(two.netns());
    assert_eq!(planned(&cluster, two), [format!("add route {destination}")]);
    let nonsense =
        r#"{"PublicIP":"192.168.0.77","BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"46:82:fb:f7:52:6d"}}"#;
    etcdctl(&["put", "/coreos.com/network/subnets/10.99.0.0-24", nonsense]);
    assert_eq!(planned(&cluster, two), [format!("add route {destination}"), "refuse lease 10.99.0.0-24".to_owned()]);
    assert_eq!(state(two.netns()), before);

    // Nobody to ask.
    cluster.store().stop().unwrap();
    let asked = Stopwatch::start();
    let output = verb(&cluster, two, &["plan"]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    asked.assert_within(Duration::from_secs(7));
    assert!(text(&output).contains(&cluster.store().endpoint()), "{}", text(&output));
}

#[test]
fn cleanup_leaves_the_node_as_it_was_before_the_daemon() {
    if skip_unless(&TOOLS) {
        return;
    }
    let cluster = Cluster::builder("fverb-c").nodes(2).dual_stack().prepare().unwrap();
    let (one, two) = (cluster.node(1), cluster.node(2));
    one.netns()
        .ip("link add vxlan9 type vxlan id 9 dstport 8472 local 192.168.0.2\nlink set vxlan9 up\n\
             route add 10.60.0.0/16 via 192.168.0.9 dev eth0 proto static\n\
             nexthop add id 77 via 192.168.0.9 dev eth0 protocol 4\n\
             neigh add 192.168.0.9 lladdr 02:00:00:00:00:09 dev eth0 nud permanent\n")
        .unwrap();
    for line in [
        "nft add table inet theirs",
        "nft add chain inet theirs c { type filter hook forward priority 5 ; }",
        "iptables -A FORWARD -s 10.9.0.0/16 -j ACCEPT",
        "iptables -P FORWARD DROP",
        "iptables -t nat -A POSTROUTING -s 10.9.0.0/16 -j MASQUERADE",
    ] {
        one.netns().run(line).unwrap();
    }
    one.netns().settle("eth0").unwrap();
    let before = state(one.netns());
    for node in [one, two] {
        node.start().unwrap();
    }
    for node in [one, two] {
        node.wait_ready().unwrap();
        wait_converged(node, 1);
    }
    let running = state(one.netns());
    assert!(running.contains("flannel.1") && running.contains("FLANNEL-FWD"), "{running}");
    assert!(running.contains("tcp_be_liberal = 1"), "{running}");

    // Refused while it runs.
    let output = verb(&cluster, one, &["cleanup"]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(text(&output).contains(&format!("pid {}", one.pid().unwrap())), "{}", text(&output));
    assert_eq!(state(one.netns()), running);

    one.stop().unwrap();
    let identity = fs::read(one.state_dir().join("node-id")).unwrap();
    let output = verb(&cluster, one, &["cleanup"]);
    let said = text(&output);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert_eq!(state(one.netns()), before, "{said}");
    for wanted in [
        "flannel.1",
        "flannel-v6.1",
        "2 routes",
        "1 nexthop",
        "nftables table",
        "FLANNEL-FWD",
        "subnet.env",
        "lock",
        "4 BPF pins in ",
        "7 BPF pins in ",
        "nf_conntrack_tcp_be_liberal=1",
    ] {
        assert!(said.lines().any(|line| line.starts_with("removed ") && line.contains(wanted)), "{wanted}: {said}");
    }
    assert!(!one.run_dir().exists() && !one.bpf_dir().exists());
    assert_eq!(fs::read(one.state_dir().join("node-id")).unwrap(), identity);

    // Nothing is left to do, but to give the subnet back and to forget.
    let output = verb(&cluster, one, &["cleanup"]);
    assert_eq!(output.status.code(), Some(0));
    assert!(text(&output).starts_with("nothing of ours was found"), "{}", text(&output));
    let output = verb(&cluster, one, &["cleanup", "--release", "--forget-node"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert!(text(&output).contains("removed lease 10.244."), "{}", text(&output));
    assert!(!one.state_dir().exists());
    wait_converged(two, 0);
}

#[test]
fn cleanup_does_not_touch_a_flannel_that_never_was_ours() {
    if skip_unless(&TOOLS) {
        return;
    }
    remove_leftovers("fverb-f").unwrap();
    let netns = Netns::create("fverb-f1").unwrap();
    netns
        .ip("link add eth0 type veth peer name far0\nlink set far0 up\naddress add 192.0.2.1/24 dev eth0\nlink set eth0 up\n\
             link add flannel.1 type vxlan id 1 dstport 8472 local 192.0.2.1 dev eth0 nolearning\n\
             address add 10.5.1.0/32 dev flannel.1\nlink set flannel.1 up\n\
             route add 10.5.2.0/24 via 10.5.2.0 dev flannel.1 onlink\n\
             link add flannel.2 type vxlan id 2 dstport 8472 local 192.0.2.1 dev eth0 nolearning\n")
        .unwrap();
    netns.settle("eth0").unwrap();
    netns.run("iptables -N FLANNEL-FWD").unwrap();
    netns.run("iptables -A FORWARD -j FLANNEL-FWD").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let run_dir = dir.path().join("run");
    fs::create_dir(&run_dir).unwrap();
    fs::write(run_dir.join("subnet.env"), "FLANNEL_SUBNET=10.5.1.1/24\n").unwrap();
    let cleanup = |more: &[&str]| {
        let mut command = netns.command(flannel_ctl().unwrap());
        command.arg("cleanup").args(more).arg("--run-dir").arg(&run_dir);
        command.arg("--state-dir").arg(dir.path().join("state")).output().unwrap()
    };
    let before = state(&netns);
    let output = cleanup(&[]);
    let said = text(&output);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert_eq!(state(&netns), before);
    assert!(run_dir.join("subnet.env").exists() && !run_dir.join("lock").exists());
    for left in ["device flannel.1: flannel's routes", "device flannel.2: nothing shows", "FLANNEL-*", "subnet.env"] {
        assert!(said.lines().any(|line| line.starts_with("left ") && line.contains(left)), "{left}: {said}");
    }

    let output = cleanup(&["--device", "eth0"]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert_eq!(state(&netns), before);
    let output = cleanup(&["--device", "flannel.2"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    let after = state(&netns);
    assert!(!after.contains("flannel.2") && after.contains("flannel.1") && after.contains("FLANNEL-FWD"), "{after}");
    let output = cleanup(&["--all"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    let after = state(&netns);
    assert!(!after.contains("flannel.1") && !after.contains("FLANNEL") && !run_dir.exists(), "{after}");
}

/// The result and detail of the findings of that name.
fn found(findings: &[Value], name: &str) -> Vec<(String, String)> {
    let word = |value: &Value| value.as_str().unwrap().to_owned();
    let named = findings.iter().filter(|finding| finding["name"] == name);
    named.map(|finding| (word(&finding["result"]), word(&finding["detail"]))).collect()
}

#[test]
fn check_finds_what_stands_in_the_way() {
    if skip_unless(&TOOLS) {
        return;
    }
    let cluster = Cluster::builder("fverb-k").nodes(1).prepare().unwrap();
    let node = cluster.node(1);
    let expect = |more: &[&str], code: i32, wanted: &[(&str, &str, &str)]| {
        let output = verb(&cluster, node, &[&["check"], more].concat());
        let findings = list(&output);
        assert_eq!(output.status.code(), Some(code), "{findings:#?}");
        for (name, result, detail) in wanted {
            let found = found(&findings, name);
            let seen = found.iter().any(|(r, d)| r == result && d.contains(detail));
            assert!(seen, "{name} {result} {detail}: {findings:#?}");
        }
    };

    let before = state(node.netns());
    expect(
        &[],
        0,
        &[
            ("rights", "ok", "CAP_NET_ADMIN"),
            ("source", "ok", "answers"),
            ("network config", "ok", "10.244.0.0/16"),
            ("VXLAN device", "ok", "can be made"),
            ("packet filter", "ok", "our rules load"),
            ("uplink", "ok", "eth0, 192.168.0.2, MTU 1500"),
            ("MTU", "ok", "1450"),
            ("UDP port", "ok", "free"),
            ("forwarding", "ok", "on"),
            ("datapath", "ok", "ebpf"),
        ],
    );
    assert_eq!(state(node.netns()), before);
    assert!(!node.run_dir().exists() && !node.state_dir().exists());
    expect(&["--datapath", "vxlan"], 0, &[("datapath", "ok", "vxlan")]);
    let userspace = [("TUN device", "ok", "can be made"), ("datapath", "ok", "userspace (asked for")];
    expect(&["--datapath", "userspace"], 0, &userspace);

    node.netns().sysctl(&[("ipv4/ip_forward", "0"), ("ipv4/conf/eth0/rp_filter", "1")]).unwrap();
    let sysctls = [("forwarding", "warn", "IPv4 forwarding is off"), ("reverse path filter", "warn", "eth0")];
    expect(&[], 0, &sysctls);
    node.netns().sysctl(&[("ipv4/ip_forward", "1"), ("ipv4/conf/eth0/rp_filter", "0")]).unwrap();

    node.netns().ip("link add other type vxlan id 1 dstport 8472\nlink set other up\n").unwrap();
    expect(&[], 1, &[("UDP port", "fail", "other has VNI 1 on port 8472")]);
    node.netns().ip("link del other\n").unwrap();
    let socket = node.netns().enter(|| std::net::UdpSocket::bind("0.0.0.0:8472").unwrap()).unwrap();
    expect(&[], 1, &[("UDP port", "fail", &format!("(pid {})", std::process::id()))]);
    drop(socket);

    node.netns().run("iptables -P FORWARD DROP").unwrap();
    expect(&[], 0, &[("iptables", "ok", "FLANNEL-FWD")]);
    expect(&["--iptables-forward-rules=false"], 1, &[("iptables", "fail", "forwarding rules are off")]);
    node.netns().run("nft add table inet strict").unwrap();
    node.netns().run("nft add chain inet strict f { type filter hook forward priority 0 ; policy drop ; }").unwrap();
    expect(&[], 1, &[("nftables", "fail", "table strict, chain f")]);
    node.netns().run("nft flush ruleset").unwrap();

    cluster.store().stop().unwrap();
    expect(&[], 1, &[("source", "fail", &cluster.store().endpoint())]);
    node.netns().ip("link del eth0\n").unwrap();
    expect(&[], 1, &[("uplink", "fail", "--iface=eth0: no interface has this name")]);
}
