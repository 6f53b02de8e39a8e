//! The daemon comes, goes and is killed; its store is away when it comes back.

use std::{fs, time::Duration};

use xtask::lab::{Cluster, Family, Ping, skip_unless, wait};

use crate::{TOOLS, site::cluster};

fn gap(cluster: &Cluster, what: &str, restart: impl FnOnce()) -> Duration {
    let pings = [(1, 2, Family::V4), (2, 1, Family::V6)].map(|(a, b, family)| cluster.ping(a, b, family).unwrap());
    pings.iter().for_each(|ping| ping.more(50).unwrap());
    restart();
    pings.iter().for_each(|ping| ping.more(50).unwrap_or_else(|error| panic!("{what}: {error}")));
    let reports = pings.map(Ping::stop);
    let gap = reports.iter().map(|report| report.longest_gap).max().unwrap();
    println!("{what}: {} and {} lost, longest gap {gap:?}", reports[0].lost(), reports[1].lost());
    gap
}

#[test]
fn a_daemon_that_comes_back_carries_packets_before_its_store_answers() {
    if skip_unless(&TOOLS) {
        return;
    }
    let cluster = cluster("uslif", &["userspace", "vxlan"]);
    let node = cluster.node(1);
    let index = || node.netns().run("ip -o link show flannel.1").unwrap().split(':').next().unwrap().to_owned();
    let before = index();
    for (what, killed) in [("SIGTERM and start", false), ("SIGKILL and start", true)] {
        gap(&cluster, what, || {
            if killed {
                node.kill().unwrap();
            } else {
                node.stop().unwrap();
            }
            node.start().unwrap();
            node.wait_ready().unwrap();
        });
        assert_eq!(index(), before, "the device stays");
        node.wait_converged().unwrap();
    }
    // Without its store a daemon knows nothing but what the last one left.
    cluster.store().stop().unwrap();
    node.kill().unwrap();
    node.start().unwrap();
    for family in [Family::V4, Family::V6] {
        let to = cluster.node(2).pod().address(family).unwrap();
        Ping::until_answered(node.pod().netns(), to).unwrap_or_else(|error| panic!("{error}\n{}", node.log()));
    }
    assert_ne!(node.status().unwrap()["state"], "converged");
    cluster.start_store().unwrap();
    node.wait_ready().unwrap();
    node.wait_converged().unwrap();
    assert!(cluster.wait_mesh(wait::LONG).unwrap().whole());

    // A damaged memory is none.
    node.stop().unwrap();
    fs::write(node.run_dir().join("forwarding.json"), b"{\"engines\":[{\"device\":\"lo\"").unwrap();
    node.start().unwrap();
    node.wait_ready().unwrap();
    assert!(cluster.wait_mesh(wait::LONG).unwrap().whole());
}
