//! The fast path goes, and everything else stays: the way back to flannel's daemon.

use std::process::Output;

use xtask::lab::{Cluster, Node};

use crate::{
    cluster, drop_invalid, launch,
    pins::{pins, wait_fast},
    start,
    traffic::Traffic,
};

fn cleanup(node: &Node, more: &[&str]) -> (bool, String) {
    let mut command = node.verb(&["cleanup"]).unwrap();
    let Output { status, stdout, stderr } = command.args(more).output().unwrap();
    let said = [stdout, stderr].map(|octets| String::from_utf8(octets).unwrap()).concat();
    println!("{more:?}: {status}\n{said}");
    (status.success(), said)
}

/// What the kernel path consists of.
fn kernel_path(cluster: &Cluster) -> [String; 4] {
    let node = cluster.node(1);
    let objects = ["ip -o -d link show type vxlan", "ip route show proto 102", "ip -6 route show proto 102"];
    let [devices, v4, v6] = objects.map(|command| node.netns().run(command).unwrap());
    [devices, v4, v6, node.netns().run("nft -s list ruleset").unwrap()]
}

fn liberal(node: &Node) -> String {
    node.netns().run("sysctl -n net.netfilter.nf_conntrack_tcp_be_liberal").unwrap().trim().to_owned()
}

/// Beside rules that drop what connection tracking calls invalid: what it has not seen goes on all the same.
pub(crate) fn alone(prefix: &str) {
    let cluster = cluster(prefix);
    let node = cluster.node(1);
    drop_invalid(node);
    let traffic = Traffic::start(&cluster);
    wait_fast(node);
    let before = pins(node);
    let (done, said) = cleanup(node, &["--fast-path-only"]);
    assert!(!done && said.contains("would put the fast path back") && said.contains("--datapath vxlan"), "{said}");
    assert_eq!(pins(node), before, "nothing was removed");

    node.stop().unwrap();
    let path = kernel_path(&cluster);
    let (done, said) = cleanup(node, &["--fast-path-only"]);
    assert!(done && said.contains("BPF pins") && said.contains("left nf_conntrack_tcp_be_liberal=1"), "{said}");
    assert!(pins(node).is_empty(), "{:?}", pins(node));
    let programs = node.netns().run("bpftool net").unwrap();
    assert!(!programs.contains("pod_ingress") && !programs.contains("uplink_"), "{programs}");
    traffic.more(1000);
    assert_eq!(kernel_path(&cluster), path, "everything else is as it was");
    assert!(node.subnet_file().exists());
    assert_eq!(liberal(node), "1");
    let (done, said) = cleanup(node, &["--fast-path-only"]);
    assert!(done && said.contains("nothing of ours was found"), "a second time finds nothing: {said}");

    start(node, &launch(&[]));
    wait_fast(node);
    node.stop().unwrap();
    let (done, _) = cleanup(node, &["--fast-path-only"]);
    assert!(done);
    traffic.more(300);
    traffic.assert_nothing_lost();
    // All of it: the setting is as it was before there was a daemon.
    let (done, said) = cleanup(node, &[]);
    assert!(done && said.contains("the setting nf_conntrack_tcp_be_liberal=1"), "{said}");
    assert_eq!(liberal(node), "0");
    assert!(!node.bpf_dir().exists());
}
