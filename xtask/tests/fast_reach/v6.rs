//! IPv6 inside and outside.

use flannel_common::Counter;
use xtask::lab::{Capture, Cluster, Family, Flannel};

use crate::site::{EBPF, VXLAN, exchange, exchange_little, skipped, start};

fn dual(prefix: &str) -> xtask::lab::Builder {
    Cluster::builder(prefix).nodes(2).dual_stack()
}

fn announced(cluster: &Cluster) -> usize {
    let leases = cluster.etcdctl(&["get", "--prefix", "--print-value-only", "/coreos.com/network/subnets/"]).unwrap();
    leases.matches(r#""ZeroChecksum":true"#).count()
}

#[test]
fn both_families_are_fast_both_ways_and_the_wire_is_clean() {
    if skipped() {
        return;
    }
    let cluster = start(dual("reachsix"), &[EBPF]);
    assert_eq!(announced(&cluster), 2);
    for family in [Family::V6, Family::V4] {
        for counts in exchange(&cluster, family) {
            counts.assert_fast();
        }
    }
    let capture = Capture::start(cluster.node(2).netns(), "eth0", "udp port 8472").unwrap();
    for counts in exchange_little(&cluster, Family::V6) {
        counts.assert_some_fast();
    }
    let packets = capture.stop().unwrap();
    assert_eq!(packets.complaints().unwrap(), Vec::<String>::new());
    let rows = packets.fields("vxlan && ipv6 && tcp", &["ipv6.hlim", "ipv6.flow", "udp.checksum"]).unwrap();
    let zero = rows.iter().filter(|row| row[2] == "0x0000").count();
    assert!(zero > 20, "packets of the fast path have no outer checksum: {zero} of {}", rows.len());
}

#[test]
fn a_node_with_the_kernels_device_alone_takes_what_the_fast_path_sends() {
    if skipped() {
        return;
    }
    let cluster = start(dual("reachmix"), &[EBPF, VXLAN]);
    let [ours, plain] = exchange(&cluster, Family::V6);
    assert_eq!(plain.fast(), (0, 0));
    assert!(ours.fast().0 > 100, "out by the fast path");
}

#[test]
fn a_device_that_wants_checksums_gets_them() {
    if skipped() {
        return;
    }
    let builder = dual("reachflan").launches(vec![xtask::lab::Launch {
        args: EBPF.iter().map(ToString::to_string).collect(),
        ..xtask::lab::Launch::default()
    }]);
    let cluster = builder.prepare().unwrap();
    // Adopted from flannel: the kernel cannot change the device, and we do not remake it.
    Flannel::lay_out(&cluster, 2).unwrap();
    cluster.bring_up().unwrap();
    cluster.assert_whole();
    assert_eq!(announced(&cluster), 1);
    let [ours, adopted] = exchange(&cluster, Family::V6);
    ours.assert_slow_out();
    assert!(ours.get(Counter::LearnChecksum) > 0);
    assert!(adopted.fast().0 > 100, "ours takes what it sends");
    // Made anew, the device takes them, the lease says so, and the fast path follows.
    cluster.node(2).netns().ip("link del flannel-v6.1\n").unwrap();
    xtask::lab::wait::until("the lease to say so", xtask::lab::wait::LONG, || (announced(&cluster) == 2).then_some(()))
        .unwrap();
    cluster.assert_whole();
    for counts in exchange(&cluster, Family::V6) {
        counts.assert_fast();
    }
}
