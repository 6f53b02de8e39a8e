//! Only peers may inject.

use std::{
    io::{ErrorKind, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener, TcpStream, UdpSocket},
    time::Duration,
};

use super::{
    lab::{Node, ip, isolated, sh},
    *,
};
use crate::model::Family;

const NODE_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 1];
const PEER_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 2];
const PEERS: [(&str, &str); 2] = [("192.0.2.2", "10.244.2.0/24"), ("2001:db8::2", "fd00:244:0:2::/64")];

/// The lab with VXLAN devices on the node; the world is a peer at its ::2 addresses and
/// anybody at the others.
fn overlay() -> Node {
    let node = Node::new();
    for device in ["flannel.1 type vxlan id 1 local 192.0.2.1", "flannel-v6.1 type vxlan id 1 local 2001:db8::1"] {
        let name = device.split(' ').next().unwrap();
        ip(&format!("link add {device} dev world0 dstport 8472 nolearning"));
        ip(&format!("link set {name} address 02:00:00:00:00:01 up"));
    }
    ip("addr add 10.244.1.0/32 dev flannel.1");
    ip("addr add fd00:244:0:1::/128 dev flannel-v6.1 nodad");
    sh("for dev in all flannel.1 world0; do echo 0 > /proc/sys/net/ipv4/conf/$dev/rp_filter; done");
    // Answers: what these tests judge is the way in, TCP wants both.
    for (device, base, gateway, outer) in [
        ("flannel.1", "10.244.2.0/24", "10.244.2.0", "192.0.2.2"),
        ("flannel-v6.1", "fd00:244:0:2::/64", "fd00:244:0:2::", "2001:db8::2"),
    ] {
        ip(&format!("neigh add {gateway} dev {device} lladdr 02:00:00:00:00:02 nud permanent"));
        sh(&format!("bridge fdb add 02:00:00:00:00:02 dev {device} dst {outer}"));
        ip(&format!("route add {base} via {gateway} dev {device} onlink"));
    }
    sh("ethtool -K world0 gro on; ethtool -K pod0 gro on");
    for address in ["192.0.2.3/24", "2001:db8::3/64 nodad"] {
        node.world.ip(&format!("addr replace {address} dev eth0"));
    }
    node
}

/// VXLAN header, Ethernet header, the packet.
pub(super) struct Frame {
    pub(super) flags: u8,
    pub(super) vni: u32,
    pub(super) to: [u8; 6],
    pub(super) from: [u8; 6],
    pub(super) ethertype: u16,
    pub(super) packet: Vec<u8>,
}

impl Frame {
    pub(super) fn of(source: &str, tag: u8) -> Self {
        let source: IpAddr = source.parse().unwrap();
        let (ethertype, packet) = match source {
            IpAddr::V4(source) => (0x0800, udp4(source, [10, 244, 1, 2].into(), tag)),
            IpAddr::V6(source) => (0x86dd, udp6(source, "fd00:244:0:1::2".parse().unwrap(), tag)),
        };
        Self { flags: 8, vni: 1, to: NODE_MAC, from: PEER_MAC, ethertype, packet }
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![self.flags, 0, 0, 0];
        bytes.extend_from_slice(&(self.vni << 8).to_be_bytes());
        bytes.extend_from_slice(&self.to);
        bytes.extend_from_slice(&self.from);
        bytes.extend_from_slice(&self.ethertype.to_be_bytes());
        bytes.extend_from_slice(&self.packet);
        bytes
    }
}

/// Port 7000, the tag as payload; IPv4 lets the inner checksum be absent.
pub(super) fn udp4(source: Ipv4Addr, destination: Ipv4Addr, tag: u8) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 29, 0, tag, 0x40, 0, 64, 17, 0, 0];
    packet.extend_from_slice(&source.octets());
    packet.extend_from_slice(&destination.octets());
    let sum = checksum(&packet);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend_from_slice(&[0x1b, 0x58, 0x1b, 0x58, 0, 9, 0, 0, tag]);
    packet
}

fn udp6(source: Ipv6Addr, destination: Ipv6Addr, tag: u8) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0, 0, 9, 17, 64];
    packet.extend_from_slice(&source.octets());
    packet.extend_from_slice(&destination.octets());
    let udp = [0x1b, 0x58, 0x1b, 0x58, 0, 9, 0, 0, tag];
    let mut pseudo = packet[8..40].to_vec();
    pseudo.extend_from_slice(&[0, 0, 0, 9, 0, 0, 0, 17]);
    pseudo.extend_from_slice(&udp);
    let sum = checksum(&pseudo);
    packet.extend_from_slice(&udp);
    packet[46..48].copy_from_slice(&sum.to_be_bytes());
    packet
}

fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 =
        bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap()
}

/// Sends payloads from an address of the world's to the node's VXLAN port.
fn send(node: &Node, outer: &'static str, payload: Vec<u8>) {
    node.world.run(move || {
        let (from, to) = if outer.contains(':') {
            (format!("[{outer}]:0"), "[2001:db8::1]:8472")
        } else {
            (format!("{outer}:0"), "192.0.2.1:8472")
        };
        UdpSocket::bind(from).unwrap().send_to(&payload, to).unwrap();
    });
}

/// Tags that reach the pod; the last one sent must be a genuine one, so that waiting for it is
/// waiting for all.
fn listen(node: &Node) -> impl Fn(u8) -> Vec<u8> + use<> {
    let socket = node.pod.run(|| UdpSocket::bind("[::]:7000").unwrap());
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    move |last| {
        let mut tags = Vec::new();
        loop {
            let mut tag = [0];
            match socket.recv_from(&mut tag) {
                Ok(_) => tags.push(tag[0]),
                // With a timeout the kernel does not go on by itself.
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => panic!("{last} did not arrive, only {tags:?}: {error}"),
            }
            if tag[0] == last {
                return tags;
            }
        }
    }
}

pub(super) fn counter(filter: &mut HostFilter, reason: Refused) -> u64 {
    filter.counters().unwrap().into_iter().find(|(found, _)| *found == reason).map_or(0, |(_, packets)| packets)
}

/// What the guard must drop: sender, frame, counted as.
fn forgeries() -> Vec<(&'static str, &'static str, Vec<u8>, Option<Refused>)> {
    let stranger = Some(Refused::NotAPeer(Family::V4));
    let not_ip = Some(Refused::NotIp(Family::V4));
    let good = |tag| Frame::of("10.244.2.5", tag);
    vec![
        ("unknown VTEP", "192.0.2.3", good(1).bytes(), stranger),
        ("unknown inner MAC", "192.0.2.3", Frame { from: [2, 9, 9, 9, 9, 9], ..good(2) }.bytes(), stranger),
        ("a stranger as the internet", "192.0.2.3", Frame::of("8.8.8.8", 3).bytes(), stranger),
        ("a peer as the internet", "192.0.2.2", Frame::of("8.8.8.8", 4).bytes(), stranger),
        ("a peer as a local pod", "192.0.2.2", Frame::of("10.244.1.77", 5).bytes(), stranger),
        ("a peer as another node's pod", "192.0.2.2", Frame::of("10.244.3.5", 6).bytes(), stranger),
        ("a peer as the node", "192.0.2.2", Frame::of("192.0.2.1", 7).bytes(), stranger),
        ("a peer as loopback", "192.0.2.2", Frame::of("127.0.0.1", 8).bytes(), stranger),
        ("a peer as nobody", "192.0.2.2", Frame::of("0.0.0.0", 9).bytes(), stranger),
        ("broadcast inner MAC", "192.0.2.3", Frame { to: [0xff; 6], ..good(10) }.bytes(), stranger),
        ("multicast inner MAC", "192.0.2.3", Frame { to: [1, 0, 0x5e, 0, 0, 1], ..good(11) }.bytes(), stranger),
        ("GBP flag", "192.0.2.3", Frame { flags: 0x88, ..good(12) }.bytes(), stranger),
        ("IPv6 in IPv4", "192.0.2.2", Frame::of("fd00:244:0:2::5", 13).bytes(), not_ip),
        ("ARP", "192.0.2.2", Frame { ethertype: 0x0806, ..good(14) }.bytes(), not_ip),
        ("VLAN", "192.0.2.2", Frame { ethertype: 0x8100, ..good(15) }.bytes(), not_ip),
        ("only a VXLAN header", "192.0.2.2", good(16).bytes()[..8].to_vec(), not_ip),
        ("no inner addresses", "192.0.2.2", good(17).bytes()[..30].to_vec(), stranger),
        ("nothing at all", "192.0.2.2", Vec::new(), not_ip),
        // Not ours to judge, and the kernel has no device for them.
        ("another VNI", "192.0.2.2", Frame { vni: 2, ..good(18) }.bytes(), None),
        ("VNI 0", "192.0.2.2", Frame { vni: 0, ..good(19) }.bytes(), None),
        ("no VNI flag", "192.0.2.2", Frame { flags: 0, ..good(20) }.bytes(), None),
    ]
}

#[test]
fn of_all_forged_packets_only_the_genuine_ones_arrive() {
    isolated(|| {
        let node = overlay();
        let mut filter = HostFilter::open(Choice::Nft);
        let arrived = listen(&node);
        for (_, outer, payload, _) in forgeries() {
            send(&node, outer, payload);
        }
        send(&node, "192.0.2.2", Frame::of("10.244.2.5", 100).bytes());
        let mut unguarded = arrived(100);
        // The families overtake each other.
        if !unguarded.contains(&13) {
            unguarded.extend(arrived(13));
        }
        assert!(unguarded.len() >= 6, "the forgeries are worth something: {unguarded:?}");

        converge(&mut filter, &wanted(&guarded(false), &PEERS));
        for (what, outer, payload, reason) in forgeries() {
            let before: Vec<_> = Refused::ALL.map(|reason| counter(&mut filter, reason)).to_vec();
            send(&node, outer, payload);
            send(&node, "192.0.2.2", Frame::of("10.244.2.5", 100).bytes());
            assert_eq!(arrived(100), [100], "{what}");
            let after: Vec<_> = Refused::ALL.map(|reason| counter(&mut filter, reason)).to_vec();
            let counted: Vec<_> =
                Refused::ALL.into_iter().zip(before.iter().zip(after)).filter(|(_, (a, b))| *a != b).collect();
            assert_eq!(counted.iter().map(|(reason, _)| *reason).collect::<Vec<_>>(), Vec::from_iter(reason), "{what}");
        }
    });
}

#[test]
fn ipv6_tunnels_are_guarded_alike() {
    isolated(|| {
        let node = overlay();
        let mut filter = HostFilter::open(Choice::Nft);
        converge(&mut filter, &wanted(&guarded(false), &PEERS));
        let arrived = listen(&node);
        let stranger = Refused::NotAPeer(Family::V6);
        send(&node, "2001:db8::3", Frame::of("fd00:244:0:2::5", 1).bytes());
        send(&node, "2001:db8::2", Frame::of("fd00:244:0:3::5", 2).bytes());
        send(&node, "2001:db8::2", Frame::of("2001:db8::1", 3).bytes());
        send(&node, "2001:db8::2", Frame::of("10.244.2.5", 4).bytes());
        send(&node, "2001:db8::2", Frame::of("fd00:244:0:2::5", 100).bytes());
        assert_eq!(arrived(100), [100]);
        assert_eq!(counter(&mut filter, stranger), 3);
        assert_eq!(counter(&mut filter, Refused::NotIp(Family::V6)), 1);
        assert_eq!(counter(&mut filter, Refused::NotAPeer(Family::V4)), 0);
    });
}

#[test]
fn counting_only_delivers_and_counts() {
    isolated(|| {
        let node = overlay();
        let mut filter = HostFilter::open(Choice::Nft);
        converge(&mut filter, &wanted(&guarded(true), &PEERS));
        let arrived = listen(&node);
        send(&node, "192.0.2.3", Frame::of("10.244.2.5", 1).bytes());
        send(&node, "192.0.2.2", Frame::of("8.8.8.8", 2).bytes());
        send(&node, "192.0.2.2", Frame::of("10.244.2.5", 100).bytes());
        assert_eq!(arrived(100), [1, 2, 100]);
        assert_eq!(counter(&mut filter, Refused::NotAPeer(Family::V4)), 2);
    });
}

#[test]
fn a_peer_that_left_is_a_stranger() {
    isolated(|| {
        let node = overlay();
        let mut filter = HostFilter::open(Choice::Nft);
        converge(&mut filter, &wanted(&guarded(false), &[PEERS[0], ("192.0.2.3", "10.244.3.0/24")]));
        let arrived = listen(&node);
        send(&node, "192.0.2.2", Frame::of("10.244.2.5", 1).bytes());
        send(&node, "192.0.2.3", Frame::of("10.244.3.5", 2).bytes());
        assert_eq!(arrived(2), [1, 2]);
        converge(&mut filter, &wanted(&guarded(false), &[("192.0.2.3", "10.244.3.0/24")]));
        send(&node, "192.0.2.2", Frame::of("10.244.2.5", 3).bytes());
        send(&node, "192.0.2.3", Frame::of("10.244.3.5", 4).bytes());
        assert_eq!(arrived(4), [4]);
    });
}

#[test]
fn odd_prefix_lengths_are_cut_where_they_end() {
    isolated(|| {
        let node = overlay();
        let mut policy = guarded(false);
        policy.guard.as_mut().unwrap().v4_len = Some(27);
        converge(&mut HostFilter::open(Choice::Nft), &wanted(&policy, &[("192.0.2.2", "10.244.2.32/27")]));
        let arrived = listen(&node);
        for (tag, source) in [(1, "10.244.2.31"), (2, "10.244.2.32"), (3, "10.244.2.64"), (100, "10.244.2.63")] {
            send(&node, "192.0.2.2", Frame::of(source, tag).bytes());
        }
        assert_eq!(arrived(100), [2, 100]);
    });
}

#[test]
fn super_packets_of_a_peer_pass_merged_or_not() {
    isolated(|| {
        let node = overlay();
        let mut filter = HostFilter::open(Choice::Nft);
        converge(&mut filter, &wanted(&guarded(false), &PEERS));
        for command in [
            "link add flannel.1 type vxlan id 1 local 192.0.2.2 dev eth0 dstport 8472 nolearning",
            "link set flannel.1 address 02:00:00:00:00:02 up",
            "addr add 10.244.2.0/32 dev flannel.1",
            "neigh add 10.244.1.0 dev flannel.1 lladdr 02:00:00:00:00:01 nud permanent",
            "route add 10.244.1.0/24 via 10.244.1.0 dev flannel.1 onlink",
        ] {
            node.world.ip(command);
        }
        node.world.run(|| sh("bridge fdb add 02:00:00:00:00:01 dev flannel.1 dst 192.0.2.1"));
        // Once: a command that another test starts at this moment holds a copy until it runs, and with it the port.
        let listener = node.pod.run(|| TcpListener::bind("10.244.1.2:7001").unwrap());
        // First as segmentation-offload super-packets straight from the sender, then as single
        // packets that the receiving side's GRO merges.
        for offload in ["on", "off"] {
            let tuning = format!("ethtool -K eth0 tso {offload} gso {offload} tx-udp_tnl-segmentation {offload}");
            node.world.run(move || sh(&tuning));
            let sender = node.world.spawn(|| {
                let mut stream = TcpStream::connect("10.244.1.2:7001").unwrap();
                stream.write_all(&vec![7; 8 << 20]).unwrap();
            });
            let mut received = Vec::new();
            listener.accept().unwrap().0.read_to_end(&mut received).unwrap();
            sender.join().unwrap();
            assert_eq!(received.len(), 8 << 20, "offload {offload}");
        }
        assert!(filter.counters().unwrap().iter().all(|(_, packets)| *packets == 0), "{:?}", filter.counters());
    });
}
