//! Every backend and every datapath of ours in one network with flannel's nodes.

use xtask::lab::{Cluster, Family, Launch, Ping, plain_vxlan};

use crate::site::{Daemons, builder, bulk_everywhere, leases, ours, start};

/// Nodes are started in the order given; each comes into a network that works, and leaves one.
fn walk(prefix: &str, families: &[Family], network: &str, launches: Vec<Launch>, order: &[usize]) {
    let cluster = builder(prefix, launches).families(families).network(network).prepare().unwrap();
    for number in order {
        start(&cluster, *number);
    }
    cluster.assert_whole();
    println!("{}", leases(&cluster));
    bulk_everywhere(&cluster);
    restarts(&cluster, families);
}

/// Each daemon ends and comes back under traffic of all others to its pod. Only who carries the packets itself loses any.
fn restarts(cluster: &Cluster, families: &[Family]) {
    for node in cluster.nodes() {
        let carries = node.log().contains("datapath=\"userspace\"");
        let others = cluster.nodes().iter().map(xtask::lab::Node::number).filter(|other| *other != node.number());
        let pairs = others.flat_map(|other| families.iter().map(move |family| (other, *family)));
        let pings: Vec<Ping> =
            pairs.map(|(other, family)| cluster.ping(other, node.number(), family).unwrap()).collect();
        for ping in &pings {
            ping.more(50).unwrap();
        }
        node.restart().unwrap();
        for ping in &pings {
            ping.more(300).unwrap();
        }
        for report in pings.into_iter().map(Ping::stop) {
            println!("node {} restarted: {report}", node.number());
            if !carries {
                report.assert_nothing_lost();
            }
        }
    }
    cluster.assert_whole();
}

fn all(daemons: &Daemons) -> Vec<Launch> {
    vec![daemons.flannel(), ours("ebpf"), ours("vxlan"), ours("userspace"), daemons.flannel()]
}

#[test]
fn vxlan_flannel_first() {
    let Some(daemons) = Daemons::given() else { return };
    walk("rfv4a", &[Family::V4], &plain_vxlan(&[Family::V4]), all(&daemons), &[1, 5, 2, 3, 4]);
}

#[test]
fn vxlan_flannel_last() {
    let Some(daemons) = Daemons::given() else { return };
    walk("rfv4b", &[Family::V4], &plain_vxlan(&[Family::V4]), all(&daemons), &[4, 3, 2, 5, 1]);
}

#[test]
fn dual_stack_flannel_first() {
    let Some(daemons) = Daemons::given() else { return };
    let both = [Family::V4, Family::V6];
    walk("rfdua", &both, &plain_vxlan(&both), all(&daemons), &[1, 5, 2, 3, 4]);
}

#[test]
fn dual_stack_flannel_last() {
    let Some(daemons) = Daemons::given() else { return };
    let both = [Family::V4, Family::V6];
    walk("rfdub", &both, &plain_vxlan(&both), all(&daemons), &[4, 3, 2, 5, 1]);
}

#[test]
fn direct_routing() {
    let Some(daemons) = Daemons::given() else { return };
    let both = [Family::V4, Family::V6];
    let network = plain_vxlan(&both).replace("\"vxlan\"", "\"vxlan\", \"DirectRouting\": true");
    walk("rfdir", &both, &network, all(&daemons), &[1, 2, 3, 4, 5]);
}

#[test]
fn host_gw() {
    let Some(daemons) = Daemons::given() else { return };
    let launches = vec![daemons.flannel(), Launch::default(), daemons.flannel(), Launch::default()];
    let network = plain_vxlan(&[Family::V4]).replace("\"vxlan\"", "\"host-gw\"");
    walk("rfhgw", &[Family::V4], &network, launches, &[1, 2, 4, 3]);
}

#[test]
fn odd_case_and_unknown_keys() {
    let Some(daemons) = Daemons::given() else { return };
    let network = r#"{"network": "10.240.0.0/12", "SUBNETLEN": 22, "subnetmin": "10.241.0.0", "SubnetMAX": "10.242.0.0",
        "Nonsense": [1], "backend": {"type": "vxlan", "vni": 77, "PORT": 4789, "gbp": false, "more": {}}}"#;
    walk("rfodd", &[Family::V4], network, all(&daemons), &[2, 1, 3, 4, 5]);
}
