//! lane: e2e
//!
//! The fast path while its daemon comes, goes, is killed and replaced: no packet notices, and nothing piles up.
#![expect(clippy::unwrap_used, reason = "a test's helper functions are tests too")]

mod deserted;
mod pins;
mod pods;
mod removed;
mod strangers;
#[path = "../life/stream.rs"]
mod stream;
mod traffic;

use std::{fs, process::Command};

use pins::{EGRESS_FAST, count, links, maps, pins as pinned, program, room, wait_fast};
use traffic::Traffic;
use xtask::lab::{Cluster, Launch, Node, Process, flannel_ctl, skip_unless, wait};

const TOOLS: [&str; 6] = ["ip", "tc", "nft", "ethtool", "iperf3", "bpftool"];

fn launch(more: &[&str]) -> Launch {
    let args = ["--datapath", "ebpf"].iter().chain(more).map(ToString::to_string).collect();
    Launch { args, ..Launch::default() }
}

/// Two nodes, both on the fast path.
fn cluster(prefix: &str) -> Cluster {
    let cluster = Cluster::builder(prefix).nodes(2).dual_stack().launches(vec![launch(&[])]).start().unwrap();
    cluster.assert_whole();
    for node in cluster.nodes() {
        node.wait_converged().unwrap();
        wait_links(node, 6);
    }
    cluster
}

/// Uplink twice, two VXLAN devices, and each pod twice.
fn wait_links(node: &Node, wanted: usize) {
    wait::until(&format!("{wanted} attachments"), wait::LONG, || (links(node).len() == wanted).then_some(()))
        .unwrap_or_else(|error| panic!("{error}: {:?}", links(node)));
}

fn start(node: &Node, launch: &Launch) {
    node.start_with(launch).unwrap();
    node.wait_ready().unwrap();
    node.wait_converged().unwrap();
}

/// `bpftool net`: what is attached in the node's namespace, whoever attached it.
fn attached(node: &Node) -> usize {
    let text = node.netns().run("bpftool -j net").unwrap();
    let shown: serde_json::Value = serde_json::from_str(&text).unwrap();
    shown[0]["tc"].as_array().unwrap().len()
}

#[test]
fn stopped_killed_and_upgraded_it_loses_nothing_and_piles_up_nothing() {
    if skip_unless(&TOOLS) {
        return;
    }
    let cluster = cluster("pxlife");
    let node = cluster.node(1);
    let traffic = Traffic::start(&cluster);
    wait_fast(node);
    let before = pinned(node);
    let old = program(node, links(node).keys().next().unwrap());
    node.stop().unwrap();
    traffic.more(200);
    // Nobody at home, and it goes on.
    wait_fast(node);
    for _ in 0..8 {
        node.start().unwrap();
        traffic.more(60);
        node.kill().unwrap();
    }
    assert_eq!(pinned(node), before, "links are replaced in place, maps are kept");
    // The upgrade: the same command line with another program.
    let directory = tempfile::tempdir().unwrap();
    let copy = directory.path().join("flannel-ctl-next");
    fs::copy(flannel_ctl().unwrap(), &copy).unwrap();
    let command = node.daemon_command(&launch(&[])).unwrap();
    let mut next = Command::new(command.get_program());
    next.args(command.get_args().map(|word| if word == flannel_ctl().unwrap() { copy.as_os_str() } else { word }));
    let next = Process::spawn("the next version", &mut next, &node.log_file()).unwrap();
    node.wait_converged().unwrap();
    wait_fast(node);
    assert_eq!(pinned(node), before);
    for link in links(node).keys() {
        assert_ne!(program(node, link), old, "{link} still runs an old program");
    }
    assert_eq!(attached(node), 0, "no queueing discipline was needed");
    traffic.assert_nothing_lost();
    drop(next);
}

/// Programs of another layout run on maps that the next version does not know: to the daemon, pins below another number.
#[test]
fn another_layout_and_another_size_of_maps_lose_nothing_and_leave_no_old_maps() {
    if skip_unless(&TOOLS) {
        return;
    }
    let cluster = cluster("pxsize");
    let node = cluster.node(1);
    let traffic = Traffic::start(&cluster);
    wait_fast(node);
    let attachments = links(node);
    let current = maps(node);
    let other = current.with_file_name("maps-v999999");
    node.stop().unwrap();
    fs::rename(&current, &other).unwrap();
    traffic.more(100);
    start(node, &launch(&[]));
    assert_eq!(maps(node), current, "the other layout's maps are gone");
    assert_eq!(links(node), attachments, "links are replaced in place");
    wait_fast(node);

    let before = pinned(node);
    for flows in [1024, 4096] {
        node.stop().unwrap();
        start(node, &launch(&["--max-flows", &flows.to_string()]));
        assert_eq!(room(node, "EGRESS"), flows);
        assert_eq!(room(node, "INGRESS"), flows);
        wait_fast(node);
    }
    let now = pinned(node);
    assert_eq!(now.keys().collect::<Vec<_>>(), before.keys().collect::<Vec<_>>());
    for (name, id) in &now {
        let kept = before[name] == *id;
        assert_eq!(kept, !name.ends_with("GRESS"), "{name}: {} then {id}", before[name]);
    }
    traffic.assert_nothing_lost();
}

/// A rule of others that drops what connection tracking calls invalid, as kube-proxy has it.
fn drop_invalid(node: &Node) {
    for rule in [
        "nft add table inet theirs",
        "nft add chain inet theirs c { type filter hook forward priority 0 ; }",
        "nft add rule inet theirs c ct state invalid counter drop",
    ] {
        node.netns().run(rule).unwrap();
    }
}

/// Beside rules that drop what connection tracking calls invalid, as kube-proxy has them.
#[test]
fn switched_to_the_kernel_path_and_back_it_loses_nothing() {
    if skip_unless(&TOOLS) {
        return;
    }
    let cluster = cluster("pxswitch");
    let node = cluster.node(1);
    drop_invalid(node);
    let traffic = Traffic::start(&cluster);
    wait_fast(node);
    let attachments = links(node);
    for _ in 0..2 {
        node.stop().unwrap();
        start(node, &Launch { args: ["--datapath", "vxlan"].map(String::from).to_vec(), ..Launch::default() });
        assert!(pinned(node).is_empty(), "{:?}", pinned(node));
        assert_eq!(node.status().unwrap()["datapath"]["kind"], "vxlan");
        traffic.more(500);
        node.stop().unwrap();
        start(node, &launch(&[]));
        wait_links(node, attachments.len());
        wait_fast(node);
    }
    traffic.assert_nothing_lost();
    assert!(count(node, EGRESS_FAST) > 0);
}

#[test]
fn programs_that_somebody_detaches_or_unpins_are_back_and_nothing_is_lost() {
    if skip_unless(&TOOLS) {
        return;
    }
    strangers::detached_and_unpinned("pxstray");
}

#[test]
fn without_a_daemon_for_long_the_kernel_path_takes_over_and_nothing_is_lost() {
    if skip_unless(&TOOLS) {
        return;
    }
    deserted::over_and_back("pxlone");
}

#[test]
fn the_fast_path_alone_can_be_removed_and_nothing_is_lost() {
    if skip_unless(&TOOLS) {
        return;
    }
    removed::alone("pxalone");
}

#[test]
fn pods_of_all_makes_are_found_and_forgotten() {
    if skip_unless(&TOOLS) {
        return;
    }
    pods::of_all_makes("pxpods");
}

#[test]
fn filters_of_others_on_the_uplink_are_left_alone() {
    if skip_unless(&TOOLS) {
        return;
    }
    strangers::filters_come_and_go("pxfilter");
}
