//! Pod to pod, nothing in between.

use std::{collections::BTreeSet, net::UdpSocket};

use flannel_common::Counter;
use nix::sys::socket::{setsockopt, sockopt};
use xtask::lab::{Capture, Family, transfer, wait};

use crate::{
    answering::Answering,
    site::{Site, skipped},
    talk::{Talk, udp_to},
    v6,
};

#[test]
fn conversations_between_pods_are_carried_both_ways_and_arrive_unchanged() {
    if skipped(&[]) {
        return;
    }
    let site = Site::start("fpcarry", 2, &[]);
    for (client, server) in [(1, 2), (2, 1)] {
        let answering = site.answering(server, Family::V4, 7000);
        for talk in [Talk::tcp, Talk::udp] {
            let talk = talk(site.pod(client), answering.address());
            site.until_fast(&talk, &[1, 2]);
            talk.whole();
        }
    }
    let answering = site.answering(2, Family::V4, 7000);
    marks_are_those_of_the_kernel(&site, &answering);
    v6::is_carried(&site);
    what_is_too_big_is_told_of_by_the_kernel(&site, &answering);
    v6::what_is_too_big_is_told_of(&site);
    site.alive();
}

/// DSCP and congestion marks end to end, while somebody looks on in the pod and on the wire.
fn marks_are_those_of_the_kernel(site: &Site, answering: &Answering) {
    let talk = Talk::udp(site.pod(1), answering.address());
    site.until_fast(&talk, &[1, 2]);
    talk.whole();
    let in_pod = Capture::start(site.pod(2), "eth0", "udp dst port 7000").unwrap();
    let on_wire = Capture::start(site.netns(2), "eth0", "udp dst port 8472 and src 192.168.0.2").unwrap();
    let socket = udp_to(site.pod(1), answering.address());
    sends_every_mark(site, &socket, |tos| setsockopt(&socket, sockopt::Ipv4Tos, &tos).unwrap());
    let rows = in_pod.stop().unwrap().fields("udp.dstport == 7000", &["ip.dsfield", "udp.payload"]).unwrap();
    assert!(rows.len() >= 300, "{}", rows.len());
    for row in &rows {
        let text = String::from_utf8(row[1].as_bytes().chunks(2).map(hex).collect()).unwrap();
        assert_eq!(row[0], format!("0x{}", text.split(' ').nth(1).unwrap()), "{text}");
    }
    let rows = on_wire.stop().unwrap().fields("vxlan && udp.dstport == 7000", &["ip.dsfield"]).unwrap();
    let pairs: BTreeSet<_> = rows.iter().map(|row| row[0].as_str()).collect();
    let expected = ["0x00,0xb8", "0x01,0xb9", "0x02,0xba", "0x02,0xbb", "0x00,0x00", "0x02,0x03"];
    assert_eq!(pairs, expected.into(), "outer and inner");
}

/// All marks on one flow, each datagram with its own in its text. The first with another DSCP is the stack's to decide over.
pub(crate) fn sends_every_mark(site: &Site, socket: &UdpSocket, set: impl Fn(i32)) {
    let counts = site.during(1, || {
        for round in 0..50 {
            for mark in [0xb8, 0xb9, 0xba, 0xbb, 0x00, 0x03] {
                set(mark);
                told(socket, &format!("mark {mark:02x} {round}"));
            }
        }
    });
    assert!(counts.get(Counter::EgressFast) > 150 && counts.get(Counter::EgressDscp) > 90, "{}", counts.shown());
}

pub(crate) fn hex(digits: &[u8]) -> u8 {
    u8::from_str_radix(std::str::from_utf8(digits).unwrap(), 16).unwrap()
}

/// One datagram, repeated until its echo comes.
pub(crate) fn told(socket: &UdpSocket, text: &str) {
    let mut answer = [0; 100];
    wait::until(text, wait::SHORT, || {
        socket.send(text.as_bytes()).unwrap();
        let read = socket.recv(&mut answer).ok()?;
        (&answer[..read] == text.as_bytes()).then_some(())
    })
    .unwrap();
}

fn what_is_too_big_is_told_of_by_the_kernel(site: &Site, answering: &Answering) {
    for number in [1, 2] {
        site.netns(number).ip("link set veth0 mtu 9000\nlink set cni0 mtu 9000\n").unwrap();
        site.pod(number).ip("link set eth0 mtu 9000\n").unwrap();
    }
    let talk = Talk::udp(site.pod(1), answering.address());
    site.until_fast(&talk, &[1, 2]);
    let socket = udp_to(site.pod(1), answering.address());
    told(&socket, "small");
    let counts = site.during(1, || {
        wait::until("the sender to be told", wait::LONG, || {
            let refused = socket.send(&[b'x'; 3000]);
            (refused.err()?.raw_os_error() == Some(nix::libc::EMSGSIZE)).then_some(())
        })
        .unwrap();
    });
    let route = site.pod(1).run(&format!("ip route get {}", answering.address().ip())).unwrap();
    assert!(route.contains("mtu 1450"), "{route}; {}", counts.shown());
    assert!(!answering.strange().iter().any(|text| text.starts_with("xxx")), "nothing of it has come");
    talk.more(100);
    talk.whole();
    // TCP believes in 9000 at both ends, until it is told.
    transfer(site.pod(2), site.pod(1), site.pod_ip(1, Family::V4), 32 << 20).unwrap();
}
