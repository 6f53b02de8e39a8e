//! What the tunnel leaves by.

use std::fs;

use xtask::lab::{Cluster, Family, GATEWAY_V4, GATEWAY_V6, Launch, Netns, Node, wait};

use crate::site::{EBPF, exchange, skipped, start};

/// Two nodes that use `up0` with 172.20.0.N, made by `make` from the node's number.
fn by_up0(prefix: &str, make: impl Fn(usize, &Netns)) -> Cluster {
    let args = [EBPF, &["--iface=up0"]].concat().into_iter().map(str::to_owned).collect();
    let builder = Cluster::builder(prefix).nodes(2).launches(vec![Launch { args, ..Launch::default() }]);
    let cluster = builder.prepare().unwrap();
    for number in [1, 2] {
        let netns = cluster.node(number).netns();
        // Only up0 says where its address is: eth0 is on the same wire, and would take the packets.
        netns.sysctl(&[("ipv4/conf/all/arp_ignore", "1")]).unwrap();
        make(number, netns);
        netns.ip(&format!("address add 172.20.0.{number}/24 dev up0\nlink set up0 up\n")).unwrap();
    }
    cluster.bring_up().unwrap();
    cluster.assert_whole();
    cluster
}

fn index_of(node: &Node, interface: &str) -> String {
    let shown = node.netns().run(&format!("ip -o link show dev {interface}")).unwrap();
    shown.split(':').next().unwrap().to_owned()
}

/// Interfaces that our programs of the uplink are attached to, by index.
fn attached_uplinks(node: &Node) -> Vec<String> {
    attached(node, "uplink_")
}

/// Those that lead to pods.
fn pods(node: &Node) -> Vec<String> {
    attached(node, "pod_")
}

fn attached(node: &Node, programs: &str) -> Vec<String> {
    let links = fs::read_dir(node.bpf_dir().join("links")).unwrap();
    let names = links.map(|link| link.unwrap().file_name().into_string().unwrap());
    let mut indexes: Vec<_> =
        names.filter_map(|name| Some(name.strip_prefix(programs)?.rsplit_once('-')?.1.to_owned())).collect();
    indexes.sort();
    indexes.dedup();
    indexes
}

#[test]
fn a_bridge_is_an_uplink_like_any_other() {
    if skipped() {
        return;
    }
    let cluster = by_up0("reachupl", |number, netns| {
        netns
            .ip(&format!(
                "link add up0 type bridge mcast_snooping 0 forward_delay 0\nlink set up0 up\n\
                 address flush dev eth0\nlink set eth0 master up0\n\
                 address add 192.168.0.{}/16 dev up0\naddress add fd77::{number}/64 dev up0 nodad\n",
                number + 1
            ))
            .unwrap();
    });
    for node in cluster.nodes() {
        assert_eq!(attached_uplinks(node), [index_of(node, "up0")], "{:#}", node.status().unwrap());
    }
    for (node, counts) in cluster.nodes().iter().zip(exchange(&cluster, Family::V4)) {
        counts.assert_fast();
        let pods = pods(node);
        assert_eq!(pods, [index_of(node, "veth0")], "the wire below the bridge leads to no pod");
    }
}

/// A container's network of its own kind: the node's traffic goes by the interface below it too, where nothing is attached.
#[test]
fn a_macvlan_is_an_uplink_like_any_other() {
    if skipped() {
        return;
    }
    let cluster = by_up0("reachmac", |number, netns| {
        // A node each of the ways in which macvlan treats what comes in.
        let mode = ["bridge", "private"][number - 1];
        netns.ip(&format!("link add up0 link eth0 type macvlan mode {mode}\nlink set up0 up\n")).unwrap();
    });
    for (node, counts) in cluster.nodes().iter().zip(exchange(&cluster, Family::V4)) {
        assert_eq!(attached_uplinks(node), [index_of(node, "up0")], "{:#}", node.status().unwrap());
        counts.assert_fast();
    }
}

#[test]
fn an_uplink_without_ethernet_leaves_everything_to_the_kernel_path_and_says_so() {
    if skipped() {
        return;
    }
    let cluster = by_up0("reachtun", |number, netns| {
        // Of the interfaces without Ethernet header this one needs no process at its other end.
        let other = 3 - number;
        netns.ip("link add up0 mtu 1400 type vxlan external gpe dstport 4790\nlink set up0 up\n").unwrap();
        let peer = if other == 1 { "192.168.0.2" } else { "192.168.0.3" };
        netns.ip(&format!("route add 172.20.0.{other}/32 encap ip id 5 dst {peer} dev up0\n")).unwrap();
    });
    let status = cluster.node(1).status().unwrap();
    let why = status["datapath"]["why"].as_str().unwrap();
    assert!(why.contains("no Ethernet header"), "{status:#}");
    assert_eq!(attached_uplinks(cluster.node(1)), Vec::<String>::new());
    for counts in exchange(&cluster, Family::V4) {
        counts.assert_slow_out();
    }
}

#[test]
fn programs_follow_the_uplink_and_leave_the_old_one() {
    if skipped() {
        return;
    }
    let cluster = start(
        Cluster::builder("reachmove").nodes(2).dual_stack(),
        &[&[EBPF, &["--iface-can-reach=192.168.255.254"]].concat()],
    );
    let node = cluster.node(1);
    assert_eq!(attached_uplinks(node), [index_of(node, "eth0")]);
    exchange(&cluster, Family::V4)[0].assert_fast();
    let (v4, v6) = (node.address(Family::V4), node.address(Family::V6));
    node.netns()
        .ip(&format!(
            "link add up0 type bridge mcast_snooping 0 forward_delay 0\nlink set up0 up\n\
             address flush dev eth0\nlink set eth0 master up0\n\
             address add {v4}/16 dev up0\naddress add {v6}/64 dev up0 nodad\n\
             route replace default via {GATEWAY_V4}\nroute replace default via {GATEWAY_V6} dev up0\n"
        ))
        .unwrap();
    let now = index_of(node, "up0");
    wait::until("the programs to follow", wait::LONG, || (attached_uplinks(node) == [now.as_str()]).then_some(()))
        .unwrap_or_else(|error| panic!("{error}; attached to {:?}\n{}", attached_uplinks(node), node.log()));
    cluster.assert_whole();
    for family in [Family::V4, Family::V6] {
        for counts in exchange(&cluster, family) {
            counts.assert_fast();
        }
    }
    assert_eq!(pods(node), [index_of(node, "veth0")], "the wire below the bridge leads to no pod");
}
