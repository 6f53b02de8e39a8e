//! Nodes that peers dial at an address of another interface than the uplink.

use xtask::lab::{Cluster, Family, Launch, Node, skip_unless};

use super::{TOOLS, wait_converged};

/// What peers dial: of the loopback interface, as nodes have it whose routers announce it by several uplinks.
fn public(number: usize) -> [String; 2] {
    [format!("198.51.100.{number}"), format!("fd99::{number}")]
}

fn launch(number: usize, datapath: &str) -> Launch {
    let [v4, v6] = public(number);
    let args = [
        "--iface=eth0".to_owned(),
        format!("--public-ip={v4}"),
        format!("--public-ipv6={v6}"),
        format!("--datapath={datapath}"),
    ];
    Launch { args: args.to_vec(), ..Launch::default() }
}

/// As the routing protocol would.
fn announce(cluster: &Cluster, node: &Node) {
    let [v4, v6] = public(node.number());
    node.netns().ip(&format!("address add {v4}/32 dev lo\naddress add {v6}/128 dev lo\n")).unwrap();
    let [via_v4, via_v6] = [Family::V4, Family::V6].map(|family| node.address(family));
    for peer in cluster.nodes().iter().filter(|peer| peer.number() != node.number()) {
        peer.netns().ip(&format!("route add {v4} via {via_v4}\nroute add {v6} via {via_v6}\n")).unwrap();
    }
}

#[test]
fn tunnel_packets_leave_with_the_address_that_peers_dial() {
    if skip_unless(&TOOLS) {
        return;
    }
    let datapaths = ["vxlan", "ebpf", "userspace"];
    let launches = datapaths.iter().enumerate().map(|(index, datapath)| launch(index + 1, datapath));
    let cluster = Cluster::builder("fhpub").nodes(3).dual_stack().launches(launches.collect()).prepare().unwrap();
    cluster.nodes().iter().for_each(|node| announce(&cluster, node));
    cluster.bring_up().unwrap();
    cluster.assert_whole();
    for (node, datapath) in cluster.nodes().iter().zip(datapaths) {
        let status = wait_converged(node);
        assert_eq!(status["datapath"]["kind"], datapath, "{status:#}");
        assert_eq!(status["lease"]["public_ip"], public(node.number())[0], "{status:#}");
    }
}
