//! A cluster of ten thousand nodes, each as large as real ones are.

use std::fs;

use xtask::lab::{Family, Memory, Stopwatch, skip_unless, wait};

use crate::site::{Site, TOOLS};

const NODES: usize = 10_000;
/// Images and labels of a node in use.
const BYTES: usize = 8_000;
/// A whole page of nodes has to fit beside the leases, and no more than that.
const MOST: u64 = 100 << 10;

#[test]
fn ten_thousand_nodes_are_read_without_being_kept() {
    if skip_unless(&TOOLS) {
        return;
    }
    let site = Site::prepare("fklarge", 1, &[Family::V4]);
    let network = r#"{"Network":"10.64.0.0/10","Backend":{"Type":"vxlan"}}"#;
    fs::write(site.cluster.dir().join("net-conf.json"), network).unwrap();
    for i in 0..NODES {
        let (high, low) = (64 + i / 250, i % 250);
        let (name, cidr) = (format!("peer-{i:05}"), format!("10.{high}.{low}.0/24"));
        let ip = format!("172.16.{}.{}", i / 250, 1 + low);
        let mac = format!("46:82:fb:f7:{:02x}:{:02x}", i / 250, low);
        site.api.add_large_peer(&name, &cidr, &ip, &mac, BYTES);
    }
    site.api.set_cidrs(&site.name(1), &["10.127.1.0/24"]);
    let node = site.cluster.node(1);
    let watch = Stopwatch::start();
    node.start().unwrap();
    site.wait_peers(1, u64::try_from(NODES).unwrap());
    site.cluster.node(1).wait_converged().unwrap();
    println!("{NODES} nodes after {watch}");
    let memory = || Memory::of(node.pid().unwrap()).unwrap();
    println!("at rest {:?}", memory());
    assert!(memory().peak_kb < MOST);
    // Heartbeats of everybody are no news.
    for i in 0..NODES {
        site.api.touch(&format!("peer-{i:05}"));
    }
    site.api.remove_node("peer-00000");
    let gone = u64::try_from(NODES).unwrap() - 1;
    site.wait_peers(1, gone);
    wait::until("the kernel to follow", wait::LONG, || {
        (!node.netns().run("ip route show 10.64.0.0/24").ok()?.contains("10.64")).then_some(())
    })
    .unwrap();
    println!("after a heartbeat of each {:?}", memory());
}
