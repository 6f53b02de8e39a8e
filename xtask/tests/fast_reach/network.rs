//! What the network config may say of VXLAN.

use flannel_common::Counter;
use xtask::lab::{Capture, Cluster, Family};

use crate::site::{EBPF, exchange, exchange_little, skipped, start};

#[test]
fn another_vni_another_port_and_learning_are_fast_too() {
    if skipped() {
        return;
    }
    let config = r#"{"Network":"10.244.0.0/16","Backend":{"Type":"vxlan","VNI":4097,"Port":4789,"Learning":true}}"#;
    let cluster = start(Cluster::builder("reachvni").nodes(2).network(config), &[EBPF]);
    for counts in exchange(&cluster, Family::V4) {
        counts.assert_fast();
    }
    let capture = Capture::start(cluster.node(2).netns(), "eth0", "udp port 4789").unwrap();
    for counts in exchange_little(&cluster, Family::V4) {
        counts.assert_some_fast();
    }
    let packets = capture.stop().unwrap().with_vxlan_port(4789);
    assert_eq!(packets.complaints().unwrap(), Vec::<String>::new());
    let rows = packets.fields("vxlan", &["vxlan.vni", "vxlan.flags"]).unwrap();
    assert!(rows.len() > 100 && rows.iter().all(|row| row[..] == ["4097", "0x0800"]), "{:?}", rows.first());
}

#[test]
fn group_policy_stays_on_the_kernel_path_where_packets_carry_it() {
    if skipped() {
        return;
    }
    let config = r#"{"Network":"10.244.0.0/16","Backend":{"Type":"vxlan","GBP":true}}"#;
    let cluster = start(Cluster::builder("reachgbp").nodes(2).network(config), &[EBPF]);
    // A mark is what the kernel's device puts into the header as the group.
    for number in [1, 2] {
        let netns = cluster.node(number).netns();
        for rule in [
            "add table inet groups",
            "add chain inet groups forward { type filter hook forward priority 0 ; }",
            "add rule inet groups forward oifname flannel.1 meta mark set 7",
        ] {
            xtask::lab::run(netns.command("nft").args(rule.split(' '))).unwrap();
        }
    }
    for counts in exchange(&cluster, Family::V4) {
        counts.assert_slow_out();
        assert!(counts.get(Counter::IngressFlags) > 100, "what carries a group is left to the kernel");
    }
}
