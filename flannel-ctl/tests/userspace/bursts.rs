//! The first packets of a flow, when a thread that was late has several of them in its hands.

use std::{io, net::SocketAddr, os::fd::AsFd as _, thread, time::Duration};

use flannel_ctl::model::Family;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::{Domain, Protocol, Socket, Type};
use xtask::lab::skip_unless;

use super::site::{Node, inner, nodes, vxlan};

const FLOWS: u16 = 50;
const BURST: u8 = 6;
/// The engine sleeps then.
const NAP: Duration = Duration::from_millis(2);
/// What is still under way then is lost.
const SILENCE: u16 = 1000;

/// Connection tracking sees the datagrams of one train one behind the other before it has taken down the first, and where it finds
/// no way out of that (for echo requests, unlike UDP) it drops all the others.
#[test]
fn a_burst_that_begins_a_flow_passes_a_peers_connection_tracking() {
    if skip_unless(&["ip", "bridge", "nft"]) {
        return;
    }
    let [mut first, second] = nodes("usb");
    first.start(&first.options(vxlan(1), Family::V4));
    second.start_kernel(Family::V4);
    second
        .netns
        .run("nft add table inet track; add chain inet track in { type filter hook input priority 0; }; add rule inet track in ct state new counter")
        .unwrap();
    for family in [Family::V4, Family::V6] {
        (0..FLOWS).for_each(|_| all_arrive(&first, &second, family));
        let answered: u16 = (0..FLOWS).map(|_| answered(&first, &second, family)).sum();
        let sent = FLOWS * u16::from(BURST);
        println!("{family}: {answered} of {sent} answered");
        // On a busy machine a few may come together on the way all the same.
        assert!(answered > sent / 10 * 9, "{family}: {answered} of {sent} answered");
    }
}

/// Of UDP it finds a way out.
fn all_arrive(from: &Node, to: &Node, family: Family) {
    let [here, there] = [from, to].map(|node| node.udp(inner(family, node.number)));
    thread::sleep(NAP);
    for number in 0..BURST {
        here.send_to(&[number], there.local_addr().unwrap()).unwrap();
    }
    for number in 0..BURST {
        let mut got = [BURST];
        there.recv(&mut got).unwrap_or_else(|error| panic!("{family}: {number} of {BURST}: {error}"));
        assert_eq!(got, [number]);
    }
}

/// How many of a new flow's first requests are.
fn answered(from: &Node, to: &Node, family: Family) -> u16 {
    let (domain, protocol, request) = match family {
        Family::V4 => (Domain::IPV4, Protocol::ICMPV4, 8),
        Family::V6 => (Domain::IPV6, Protocol::ICMPV6, 128),
    };
    // Closed to everybody, root too, until a range of groups is given (ip-sysctl.rst).
    from.netns.sysctl(&[("ipv4/ping_group_range", "0 2147483647")]).unwrap();
    let open = || Socket::new(domain, Type::DGRAM, Some(protocol));
    let socket = from.netns.enter(open).unwrap().unwrap();
    socket.connect(&SocketAddr::new(inner(family, to.number), 0).into()).unwrap();
    thread::sleep(NAP);
    for sequence in 0..BURST {
        socket.send(&[request, 0, 0, 0, 0, 0, 0, sequence]).unwrap();
    }
    let mut answered = 0;
    while answered < BURST.into() {
        let mut ready = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
        if poll(&mut ready, PollTimeout::from(SILENCE)).map_err(io::Error::from).unwrap() == 0 {
            break;
        }
        socket.recv(&mut [std::mem::MaybeUninit::uninit(); 64]).unwrap();
        answered += 1;
    }
    answered
}
