//! Checksums that are wrong stay wrong: nobody on the way says that he has looked, and whom it is for throws it away.

use std::{
    fs,
    net::{IpAddr, SocketAddr, SocketAddrV4},
    os::fd::{AsRawFd as _, OwnedFd},
};

use flannel_common::Counter;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, sendto, socket};
use xtask::lab::{Family, Netns, wait};

use crate::{carry::told, site::Site, talk::udp_to};

const GARBLED: u64 = 20;

/// From the pod of node 1 to the pod of node 2, in a flow that is fast.
pub(crate) fn wrong_ones_stay_wrong(site: &Site) {
    let answering = site.answering(2, Family::V4, 7100);
    let known = udp_to(site.pod(1), answering.address());
    (0..20).for_each(|number| told(&known, &format!("known {number}")));
    let (from, to) = (known.local_addr().unwrap(), answering.address());
    let raw = site
        .pod(1)
        .enter(|| socket(AddressFamily::Inet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Raw))
        .unwrap()
        .unwrap();
    let (before, at_receiver) = (checksum_errors(site.pod(2)), site.counts(2).get(Counter::IngressFast));
    let counts = site.during(1, || {
        (0..GARBLED).for_each(|number| send(&raw, from, to, &format!("garbled {number}"), 0x0101));
        send(&raw, from, to, "right", 0);
        wait::until("what is right", wait::LONG, || answering.strange().contains("right").then_some(())).unwrap();
    });
    let heard = answering.strange();
    assert!(!heard.iter().any(|text| text.starts_with("garbled")), "{heard:?}");
    assert_eq!(checksum_errors(site.pod(2)) - before, GARBLED);
    let carried = site.counts(2).get(Counter::IngressFast) - at_receiver;
    assert!(counts.get(Counter::EgressFast) > GARBLED / 2 && carried > GARBLED / 2, "{}", counts.shown());
}

/// One datagram, its checksum off by so much.
fn send(raw: &OwnedFd, from: SocketAddr, to: SocketAddr, text: &str, wrong: u16) {
    let (IpAddr::V4(source), IpAddr::V4(destination)) = (from.ip(), to.ip()) else { unreachable!("asked for IPv4") };
    let word = |number: usize| u16::try_from(number).unwrap().to_be_bytes();
    let length = word(8 + text.len());
    let ports = [from.port().to_be_bytes(), to.port().to_be_bytes()].concat();
    let udp = |checksum: [u8; 2]| [&ports[..], &length, &checksum, text.as_bytes()].concat();
    let pseudo = [&source.octets()[..], &destination.octets(), &[0, 17], &length].concat();
    let checksum = !sum(&[pseudo, udp([0, 0])].concat()) ^ wrong;
    let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 17, 0, 0];
    packet[2..4].copy_from_slice(&word(28 + text.len()));
    packet.extend(source.octets());
    packet.extend(destination.octets());
    packet.extend(udp(checksum.to_be_bytes()));
    let to = SockaddrIn::from(SocketAddrV4::new(destination, 0));
    assert_eq!(sendto(raw.as_raw_fd(), &packet, &to, MsgFlags::empty()), Ok(packet.len()));
}

/// RFC 1071
fn sum(octets: &[u8]) -> u16 {
    let words = octets.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    let sum: u32 = words.sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap()
}

/// UDP datagrams that a namespace threw away for their checksum.
fn checksum_errors(netns: &Netns) -> u64 {
    let table = netns.enter(|| fs::read_to_string("/proc/thread-self/net/snmp")).unwrap().unwrap();
    let mut udp = table.lines().filter_map(|line| line.strip_prefix("Udp: "));
    let (names, values) = (udp.next().unwrap(), udp.next().unwrap());
    let mut pairs = names.split(' ').zip(values.split(' '));
    pairs.find(|(name, _)| *name == "InCsumErrors").unwrap().1.parse().unwrap()
}
