//! The kernel as the judge: what it makes of a super-packet is compared, octet by octet, with what we make of it.
//!
//! A packet goes into one TUN device and is forwarded to another, which takes no super-packets.

use std::{
    fs::{self, File},
    io::{self, Read as _, Write as _},
    os::fd::AsFd as _,
    time::{Duration, Instant},
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{
    Offloads,
    packet::{
        coalesce::{Coalescer, Limits},
        layout::{
            TCP, UDP,
            flags::{ACK, CWR, FIN, PSH, URG},
        },
        segment::Cutter,
        testing::Packet,
        ttl,
        virtio::{self, VirtioHeader},
    },
    tun::Tun,
};
use crate::{
    kernel::netlink::namespace::{ip, isolated},
    model::Family,
};

const PATIENCE: Duration = Duration::from_secs(20);

struct Lab {
    into: File,
    out: File,
    uso: bool,
}

fn lab() -> Lab {
    fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
    fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1").unwrap();
    let into = Tun::open("into0", 1, Offloads::ALL).unwrap();
    let uso = into.offloads.uso;
    let out = Tun::open("out0", 1, Offloads::NONE).unwrap();
    for device in ["into0", "out0"] {
        fs::write(format!("/proc/sys/net/ipv4/conf/{device}/rp_filter"), "0").unwrap();
        ip(&format!("link set {device} up"));
    }
    ip("route add 10.42.0.0/24 dev into0");
    ip("route add 10.42.1.0/24 dev out0");
    ip("route add fd00:2a::1 dev into0");
    ip("route add fd00:2a::2 dev out0");
    let first = |tun: Tun| tun.queues.into_iter().next().unwrap();
    Lab { into: first(into), out: first(out), uso }
}

impl Lab {
    /// What comes out until as much came as was to come; the first packet that is another ends it.
    fn passes(&mut self, virtio: &VirtioHeader, packet: &[u8], expected: &[Vec<u8>], case: &str) {
        self.into.write_all(&[&virtio.encode()[..], packet].concat()).unwrap();
        for (at, expected) in expected.iter().enumerate() {
            let came = self.read(expected[0] >> 4, &format!("{case}: packet {at}"));
            assert!(came == *expected, "{case}: packet {at}\n came {came:02x?}\n  not {expected:02x?}");
        }
    }

    /// The next packet that is not the kernel's own (router solicitations and the like).
    fn read(&mut self, version: u8, case: &str) -> Vec<u8> {
        let until = Instant::now() + PATIENCE;
        let mut buffer = vec![0; 70_000];
        loop {
            match self.out.read(&mut buffer) {
                Ok(octets) => {
                    let header = VirtioHeader::parse(&buffer[..octets]).unwrap();
                    let packet = &buffer[virtio::LEN..octets];
                    let ours = match version {
                        4 => packet[0] >> 4 == 4 && packet[12..15] == [10, 42, 0],
                        _ => packet[0] >> 4 == 6 && packet[8..12] == [0xfd, 0, 0, 42],
                    };
                    if ours {
                        assert_eq!((header.gso, header.checksum), (None, None), "{case}");
                        return packet.to_vec();
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    assert!(Instant::now() < until, "{case} never came");
                    let mut files = [PollFd::new(self.out.as_fd(), PollFlags::POLLIN)];
                    poll(&mut files, PollTimeout::from(1000_u16)).unwrap();
                }
                Err(error) => panic!("{case}: {error}"),
            }
        }
    }
}

/// Packets as different as the protocols allow, always the same ones.
fn packets(uso: bool) -> Vec<(Packet, u16)> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state >> 33).unwrap()
    };
    let mut packets = Vec::new();
    for at in 0..200 {
        let family = if at & 1 == 0 { Family::V4 } else { Family::V6 };
        let protocol = if at & 2 == 0 || !uso { TCP } else { UDP };
        let size = 88 + random() % 1200;
        let most = if protocol == UDP { size * 60 } else { 65_000 };
        let len = size + 1 + random() % (most.min(65_000) - size - 1);
        let len = if at % 5 == 0 { len / size * size } else { len };
        let bits = |value: usize| u8::try_from(value & 0xff).unwrap();
        let ip_options = match (family, at % 7) {
            (Family::V4, 0) => vec![1, 1, 1, 0],
            (Family::V6, 0) => vec![protocol, 0, 1, 4, 0, 0, 0, 0],
            _ => Vec::new(),
        };
        let packet = Packet {
            family,
            protocol,
            tos: bits(random()),
            ttl: 2 + bits(random()) % 200,
            id: u16::try_from(random() & 0xffff).unwrap(),
            df: at % 3 != 0,
            ip_options,
            sequence: u32::MAX - u32::try_from(random() % 100_000).unwrap(),
            flags: ACK | bits(random()) & (FIN | PSH | CWR | 0x60),
            options: vec![1; (random() % 11) * 4],
            payload: (0..len).map(|_| bits(random())).collect(),
            ..Packet::default()
        };
        packets.push((packet, u16::try_from(size).unwrap()));
    }
    packets
}

/// As a router sends it on.
fn forwarded(mut packet: Vec<u8>) -> Vec<u8> {
    assert!(ttl::decrement(&mut packet));
    packet
}

#[test]
fn super_packets_are_cut_as_the_kernel_cuts_them() {
    isolated(|| {
        let mut lab = lab();
        let mut cutter = Cutter::new();
        for (packet, size) in packets(lab.uso) {
            let virtio = packet.virtio(size);
            let case = format!("{:?} {} of {} in {size}", packet.family, packet.protocol, packet.payload.len());
            let routed = forwarded(packet.partial());
            let segments = cutter.cut(&virtio, &routed, 0).unwrap();
            let expected: Vec<Vec<u8>> = segments.iter().map(|(header, payload)| [header, payload].concat()).collect();
            lab.passes(&virtio, &packet.partial(), &expected, &case);
        }
    });
}

#[test]
fn what_was_put_together_the_kernel_takes_and_cuts_again() {
    isolated(|| {
        let mut lab = lab();
        let mut coalescer = Coalescer::new(Limits { mtu: 1450, tso: true, uso: lab.uso });
        for (packet, size) in packets(lab.uso) {
            if !packet.ip_options.is_empty() {
                continue;
            }
            let packet = Packet { flags: packet.flags & !(CWR | URG), ..packet };
            let train = packet.train(size.into());
            let batch = train.concat();
            let mut at = 0;
            for packet in &train {
                coalescer.push(&batch, at..at + packet.len()).unwrap();
                at += packet.len();
            }
            let case = format!("{:?} {} of {} by {size}", packet.family, packet.protocol, packet.payload.len());
            let mut rest = train.into_iter().map(forwarded);
            let supers: Vec<_> = coalescer.finish(&batch).collect();
            assert!(supers.len() <= rest.len().div_ceil(if packet.protocol == UDP { 60 } else { 120 }), "{case}");
            for out in supers {
                let octets = [out.header, &out.pieces.clone().collect::<Vec<_>>().concat()].concat();
                let count = out.pieces.count();
                let expected: Vec<Vec<u8>> = rest.by_ref().take(count).collect();
                lab.passes(&out.virtio, &octets, &expected, &case);
            }
        }
    });
}

#[test]
fn a_checksum_left_to_be_completed_is_completed_as_the_kernel_does() {
    isolated(|| {
        let mut lab = lab();
        for family in Family::ALL {
            for protocol in [TCP, UDP] {
                for len in [0, 1, 2, 77, 1000] {
                    let packet = Packet { family, protocol, payload: vec![0xa7; len], ..Packet::default() };
                    let virtio = packet.virtio(0);
                    let case = format!("{family:?} {protocol} of {len}");
                    lab.passes(&virtio, &packet.partial(), &[forwarded(packet.octets())], &case);
                }
            }
        }
    });
}
