//! What the engine does to packets that pass.

use std::{net::UdpSocket, os::fd::AsRawFd as _};

use flannel_ctl::{
    model::Family,
    userspace::{Counter, Wire},
};
use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt,
    sockopt::{IpRecvTos, Ipv4RecvErr, Ipv4RecvTtl, Ipv4Tos, Ipv4Ttl},
};
use xtask::lab::skip_unless;

use super::site::{Node, echo, inner, nodes, transfer, vxlan};

/// Time to live and type of service of the next datagram.
fn receive(socket: &UdpSocket) -> (i32, u8) {
    let mut space = nix::cmsg_space!(i32, u8);
    let mut buffer = [0; 100];
    let mut pieces = [std::io::IoSliceMut::new(&mut buffer)];
    let message =
        recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut pieces, Some(&mut space), MsgFlags::empty()).unwrap();
    let (mut ttl, mut tos) = (-1, 0);
    for control in message.cmsgs().unwrap() {
        match control {
            ControlMessageOwned::Ipv4Ttl(value) => ttl = value,
            ControlMessageOwned::Ipv4Tos(value) => tos = value,
            other => panic!("{other:?}"),
        }
    }
    (ttl, tos)
}

/// Sends a datagram with these; what arrives.
fn carried(from: &Node, to: &Node, ttl: i32, tos: i32) -> (i32, u8) {
    let (here, there) = (from.udp(inner(Family::V4, from.number)), to.udp(inner(Family::V4, to.number)));
    setsockopt(&here, Ipv4Ttl, &ttl).unwrap();
    setsockopt(&here, Ipv4Tos, &tos).unwrap();
    setsockopt(&there, Ipv4RecvTtl, &true).unwrap();
    setsockopt(&there, IpRecvTos, &true).unwrap();
    here.send_to(b"!", there.local_addr().unwrap()).unwrap();
    receive(&there)
}

#[test]
fn vxlan_leaves_time_to_live_and_service_alone_and_carries_congestion_over() {
    if skip_unless(&["ip", "nft"]) {
        return;
    }
    let [mut first, mut second] = nodes("usx");
    first.start(&first.options(vxlan(1), Family::V4));
    second.start(&second.options(vxlan(2), Family::V4));
    assert_eq!(carried(&first, &second, 3, 0xb8), (3, 0xb8));
    assert_eq!(carried(&first, &second, 64, 0x02), (64, 0x02));
    // Somebody on the wire is congested.
    for rule in [
        "add table ip wire".to_owned(),
        "add chain ip wire in { type filter hook prerouting priority -300 ; }".to_owned(),
        "add rule ip wire in udp dport 8472 ip ecn ect0 ip ecn set ce".to_owned(),
    ] {
        xtask::lab::run(second.netns.command("nft").args(rule.split(' '))).unwrap();
    }
    assert_eq!(carried(&first, &second, 64, 0xb8 | 0x02), (64, 0xb8 | 0x03));
}

/// As the kernel's VXLAN device; a UDP socket draws one for each of its own flows unasked.
#[test]
fn outer_packets_over_ipv6_have_no_flow_label() {
    if skip_unless(&["ip", "nft"]) {
        return;
    }
    let [mut first, mut second] = nodes("usfl");
    first.start(&first.options(vxlan(1), Family::V6));
    second.start(&second.options(vxlan(2), Family::V6));
    for rule in [
        "add table ip6 wire",
        "add chain ip6 wire in { type filter hook prerouting priority -300 ; }",
        "add rule ip6 wire in udp dport 8472 ip6 flowlabel != 0 drop",
    ] {
        xtask::lab::run(second.netns.command("nft").args(rule.split(' '))).unwrap();
    }
    for family in Family::ALL {
        echo(&first, &second, family, 100);
    }
}

#[test]
fn flannels_own_wire_takes_one_from_the_time_to_live_on_either_side() {
    if skip_unless(&["ip"]) {
        return;
    }
    let [mut first, mut second] = nodes("usl");
    let wire = Wire::Raw { port: 8285 };
    first.start(&first.options(wire, Family::V4));
    second.start(&second.options(wire, Family::V4));
    assert_eq!(carried(&first, &second, 64, 0), (62, 0));
    assert_eq!(carried(&first, &second, 3, 0), (1, 0));
    let here = first.udp(inner(Family::V4, 1));
    let there = second.udp(inner(Family::V4, 2));
    setsockopt(&here, Ipv4Ttl, &1).unwrap();
    setsockopt(&here, Ipv4RecvErr, &true).unwrap();
    here.connect(there.local_addr().unwrap()).unwrap();
    here.send(b"!").unwrap();
    let ended = here.recv(&mut [0; 1]).unwrap_err();
    assert_eq!(ended.raw_os_error(), Some(nix::libc::EHOSTUNREACH), "time exceeded, as the kernel tells it: {ended}");
    assert_eq!(first.count(Counter::SentTimeExceeded), 1);
}

#[test]
fn a_wire_that_takes_less_is_told_of() {
    if skip_unless(&["ip"]) {
        return;
    }
    for (prefix, outer) in [("usz4", Family::V4), ("usz6", Family::V6)] {
        let [mut first, mut second] = nodes(prefix);
        first.start(&first.options(vxlan(1), outer));
        second.start(&second.options(vxlan(2), outer));
        for node in [&first, &second] {
            node.netns.ip("link set wire0 mtu 1400\n").unwrap();
        }
        for family in Family::ALL {
            let before = first.count(Counter::IcmpSent);
            transfer(&first, &second, family, 4 << 20);
            assert!(
                first.count(Counter::IcmpSent) > before,
                "{family}: {:?}",
                first.engine.as_ref().unwrap().statistics()
            );
            assert!(first.count(Counter::SentTooBig) > 0);
            // Single packets that may be fragmented are.
            echo(&first, &second, family, 1380);
        }
    }
}
