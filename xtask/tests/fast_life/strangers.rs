//! What others do to the programs' hooks.

use std::fs;

use xtask::lab::{Family, Node, run, wait};

use crate::{
    cluster,
    pins::{links, pins},
    traffic::{Datagrams, Traffic},
    wait_fast,
};

/// Until every attachment is there and runs.
fn wait_mended(node: &Node, wanted: &[String]) {
    wait::until("the attachments to be back", wait::LONG, || {
        let now = links(node);
        let attached = |link: &String| {
            let path = node.bpf_dir().join(link).display().to_string();
            let shown = run(std::process::Command::new("bpftool").args(["link", "show", "pinned", &path])).ok()?;
            // One without an interface is an empty shell.
            (!shown.contains("ifindex (unknown)") && !shown.contains("ifindex 0")).then_some(())
        };
        (now.keys().eq(wanted) && wanted.iter().all(|link| attached(link).is_some())).then_some(())
    })
    .unwrap_or_else(|error| panic!("{error}: {:?}", links(node)));
}

pub(crate) fn detached_and_unpinned(prefix: &str) {
    let cluster = cluster(prefix);
    let node = cluster.node(1);
    let traffic = Traffic::start(&cluster);
    wait_fast(node);
    let before = links(node);
    let wanted: Vec<_> = before.keys().cloned().collect();
    for link in &wanted {
        let path = node.bpf_dir().join(link);
        run(std::process::Command::new("bpftool").args(["link", "detach", "pinned"]).arg(&path)).unwrap();
    }
    traffic.more(500);
    wait::until("all of them to be made anew", wait::LONG, || {
        let now = links(node);
        (now.keys().eq(&wanted) && wanted.iter().all(|link| now[link] != before[link])).then_some(())
    })
    .unwrap_or_else(|error| panic!("{error}: {:?}", links(node)));
    wait_mended(node, &wanted);
    wait_fast(node);
    for link in &wanted {
        fs::remove_file(node.bpf_dir().join(link)).unwrap();
    }
    traffic.more(500);
    wait_mended(node, &wanted);
    wait_fast(node);
    // All of it, as advice for going back to flannel has it.
    let maps = pins(node);
    fs::remove_dir_all(node.bpf_dir()).unwrap();
    wait::until("everything to be pinned again", wait::LONG, || {
        let now = pins(node);
        let kept = |(name, id): (&String, &u64)| name.starts_with("links/") || now[name] == *id;
        (now.keys().eq(maps.keys()) && maps.iter().all(kept)).then_some(())
    })
    .unwrap_or_else(|error| panic!("{error}: {:?}\n{}", pins(node), node.log()));
    wait_mended(node, &wanted);
    wait_fast(node);
    traffic.assert_nothing_lost();
}

/// Filters for what leaves, which packets of the fast path pass as well. Only that it goes on is asked for: the kernel
/// takes a device's queues away for a moment whenever such a queueing discipline is made or removed (`qdisc_graft`,
/// `net/sched/sch_api.c`), and a packet of that moment is lost.
pub(crate) fn filters_come_and_go(prefix: &str) {
    let cluster = cluster(prefix);
    let node = cluster.node(1);
    let to = cluster.node(2).pod();
    let datagrams = Datagrams::start(node.pod().netns(), to.netns(), to.address(Family::V4).unwrap());
    wait_fast(node);
    let before = links(node);
    for _ in 0..2 {
        for line in
            ["tc qdisc add dev eth0 clsact", "tc filter add dev eth0 egress protocol all u32 match u32 0 0 flowid 1:1"]
        {
            node.netns().run(line).unwrap();
        }
        wait_fast(node);
        node.restart().unwrap();
        wait_fast(node);
        let shown = node.netns().run("tc filter show dev eth0 egress").unwrap();
        assert!(shown.contains("u32"), "left alone: {shown}");
        node.netns().run("tc qdisc del dev eth0 clsact").unwrap();
        wait_fast(node);
    }
    assert_eq!(links(node), before);
    let (sent, received) = datagrams.stop();
    assert!((sent - received) * 20 < sent, "{received} of {sent}");
}
