//! Peers that are reached without the tunnel.

use xtask::lab::{Cluster, Family};

use crate::site::{EBPF, exchange, skipped, start};

/// Nodes 1 and 2 of a network with direct routes. While they are neighbours, everything goes by them; a gateway in
/// between puts the tunnel in their place, and the fast path beside it.
#[test]
fn flows_change_between_direct_routes_and_the_fast_path_with_the_network_in_between() {
    if skipped() {
        return;
    }
    let config = r#"{"Network":"10.244.0.0/16","Backend":{"Type":"vxlan","DirectRouting":true}}"#;
    let cluster = start(Cluster::builder("reachdir").nodes(2).network(config), &[EBPF]);
    let direct = |cluster: &Cluster| {
        for counts in exchange(cluster, Family::V4) {
            assert_eq!((counts.fast(), counts.tunnel), ((0, 0), (0, 0)), "neighbours");
        }
    };
    direct(&cluster);

    // Host routes of the underlay by way of the gateway: no neighbours any more.
    let other = |number: usize| cluster.node(3 - number).address(Family::V4);
    cluster.underlay().netns().sysctl(&[("ipv4/ip_forward", "1"), ("ipv4/conf/all/send_redirects", "0")]).unwrap();
    for number in [1, 2] {
        let netns = cluster.node(number).netns();
        netns.sysctl(&[("ipv4/conf/all/accept_redirects", "0"), ("ipv4/conf/eth0/accept_redirects", "0")]).unwrap();
        netns.ip(&format!("route add {} via {}\n", other(number), xtask::lab::GATEWAY_V4)).unwrap();
    }
    let by = |device: &str| {
        xtask::lab::wait::until(&format!("routes by {device}"), xtask::lab::wait::LONG, || {
            let shown = |number: usize| cluster.node(number).netns().run("ip route show proto 102").unwrap();
            [1, 2].into_iter().all(|number| shown(number).contains(&format!("dev {device}"))).then_some(())
        })
        .unwrap();
    };
    by("flannel.1");
    cluster.assert_whole();
    for counts in exchange(&cluster, Family::V4) {
        counts.assert_fast();
    }

    for number in [1, 2] {
        cluster.node(number).netns().ip(&format!("route del {}\n", other(number))).unwrap();
    }
    by("eth0");
    cluster.assert_whole();
    direct(&cluster);
}

#[test]
fn host_gw_needs_no_programs_and_says_so() {
    if skipped() {
        return;
    }
    let config = r#"{"Network":"10.244.0.0/16","Backend":{"Type":"host-gw"}}"#;
    let cluster = start(Cluster::builder("reachgw").nodes(2).network(config), &[EBPF]);
    let status = cluster.node(1).status().unwrap();
    assert_eq!(status["datapath"]["kind"], "host-gw", "{status:#}");
    assert!(!cluster.node(1).bpf_dir().join("links").exists(), "nothing is attached");
    exchange(&cluster, Family::V4);
}
