//! What goes in comes out, whatever the kernel's help.

use flannel_ctl::{
    model::Family,
    userspace::{Counter, Offloads, Wire},
};
use xtask::lab::skip_unless;

use super::site::{echo, nodes, transfer, vxlan};

const OCTETS: usize = 8 << 20;

#[test]
fn two_engines_carry_both_families_over_both() {
    if skip_unless(&["ip"]) {
        return;
    }
    for (prefix, wire) in [("usm4", Family::V4), ("usm6", Family::V6)] {
        let [mut first, mut second] = nodes(prefix);
        first.start(&first.options(vxlan(1), wire));
        second.start(&second.options(vxlan(2), wire));
        for family in Family::ALL {
            transfer(&first, &second, family, OCTETS);
            transfer(&second, &first, family, OCTETS);
            echo(&first, &second, family, 100);
            // In fragments, on the inner side.
            echo(&first, &second, family, 5000);
        }
        let statistics = first.engine.as_ref().unwrap().statistics();
        assert!(statistics.offloads.udp_gso && statistics.offloads.tso, "{statistics:?}");
        let (packets, calls) = (statistics.get(Counter::SentPackets), statistics.get(Counter::SentCalls));
        assert!(packets > calls, "a super-packet is one call: {statistics:?}");
        assert_eq!(statistics.get(Counter::SentMalformed) + statistics.get(Counter::ReceivedMalformed), 0);
        assert_eq!(statistics.get(Counter::SentRefused) + statistics.get(Counter::ReceivedRefused), 0);
    }
}

#[test]
fn an_engine_and_the_kernels_device_understand_each_other() {
    if skip_unless(&["ip", "bridge"]) {
        return;
    }
    for (prefix, wire) in [("usk4", Family::V4), ("usk6", Family::V6)] {
        let [mut first, second] = nodes(prefix);
        first.start(&first.options(vxlan(1), wire));
        second.start_kernel(wire);
        for family in Family::ALL {
            transfer(&first, &second, family, OCTETS);
            transfer(&second, &first, family, OCTETS);
            echo(&first, &second, family, 100);
            echo(&second, &first, family, 1400);
        }
    }
}

/// RFC 6935 lets tunnels over IPv6 do without the outer sum.
#[test]
fn datagrams_without_a_checksum_are_taken_over_ipv6() {
    if skip_unless(&["ip", "bridge"]) {
        return;
    }
    let [mut first, second] = nodes("us6z");
    first.start(&first.options(vxlan(1), Family::V6));
    second.start_kernel_with(Family::V6, "udp6zerocsumtx");
    for family in Family::ALL {
        transfer(&second, &first, family, OCTETS);
        transfer(&first, &second, family, OCTETS);
        echo(&second, &first, family, 100);
    }
}

#[test]
fn each_help_of_the_kernel_can_be_missing() {
    if skip_unless(&["ip"]) {
        return;
    }
    let all = Offloads::ALL;
    let [mut first, mut second] = nodes("uso");
    second.start(&second.options(vxlan(2), Family::V4));
    for offloads in [
        Offloads::NONE,
        Offloads { tso: false, ..all },
        Offloads { uso: false, ..all },
        Offloads { udp_gso: false, ..all },
        Offloads { udp_gro: false, ..all },
        Offloads { batches: false, ..all },
        Offloads { multi_queue: false, ..all },
    ] {
        let options = first.options(vxlan(1), Family::V4);
        first.start(&flannel_ctl::userspace::Options { offloads, queues: Some(2), ..options });
        assert_eq!(first.engine.as_ref().unwrap().statistics().offloads, offloads);
        transfer(&first, &second, Family::V4, OCTETS / 4);
        transfer(&second, &first, Family::V6, OCTETS / 4);
        echo(&first, &second, Family::V4, 100);
        first.engine.take().unwrap().stop();
        first.netns.ip("link delete flannel.1\n").unwrap();
    }
}

#[test]
fn flannels_own_wire_carries_ipv4() {
    if skip_unless(&["ip"]) {
        return;
    }
    let [mut first, mut second] = nodes("usr");
    let wire = Wire::Raw { port: 8285 };
    first.start(&first.options(wire, Family::V4));
    second.start(&second.options(wire, Family::V4));
    transfer(&first, &second, Family::V4, OCTETS);
    transfer(&second, &first, Family::V4, OCTETS);
    echo(&first, &second, Family::V4, 1000);
}
