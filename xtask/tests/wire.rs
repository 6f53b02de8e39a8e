//! lane: e2e
//!
//! What goes over the wire is what flannel's device would send.
#![expect(clippy::unwrap_used, reason = "a test's helper functions are tests too")]

use std::{
    collections::BTreeSet,
    net::{IpAddr, UdpSocket},
};

use xtask::lab::{Capture, Family, Flannel, Node, Packets, Ping, skip_unless};

/// Of the kernel's default `ip_local_port_range`, from which VXLAN takes source ports.
const PORTS: std::ops::RangeInclusive<u16> = 32768..=60999;

/// Pings of many kinds, and many small flows.
fn traffic(from: &Node, to: &Node) {
    for family in [Family::V4, Family::V6] {
        let address = to.pod().address(family).unwrap();
        // Best effort, expedited forwarding, the three marks of ECN; and a large one.
        for more in ["-Q 0x00", "-Q 0xb8", "-Q 0x01", "-Q 0x02", "-Q 0x03", "-t 17", "-s 1300"] {
            from.pod().netns().run(&format!("ping -c 3 -i 0.01 -W 2 {more} {address}")).unwrap();
        }
        let any: IpAddr = if address.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
        from.pod()
            .netns()
            .enter(|| {
                for port in 20_000..20_100 {
                    UdpSocket::bind((any, port)).unwrap().send_to(b"flow", (address, 9)).unwrap();
                }
            })
            .unwrap();
    }
}

/// What the outer packets of one node look like, without what differs between nodes by nature.
fn shapes(packets: &Packets, from: IpAddr) -> BTreeSet<Vec<String>> {
    let (source, echo, fields) = match from {
        IpAddr::V4(_) => ("ip.src", "icmp.type == 8", ["ip.ttl", "ip.dsfield", "ip.flags.df"]),
        IpAddr::V6(_) => ("ipv6.src", "icmpv6.type == 128", ["ipv6.hlim", "ipv6.tclass", "ipv6.nxt"]),
    };
    let common = ["vxlan.flags", "vxlan.vni", "udp.dstport", "frame.len", "udp.checksum"];
    let filter = format!("vxlan && {source} == {from} && {echo}");
    let rows = packets.fields(&filter, &[&fields[..], &common].concat()).unwrap();
    assert!(rows.len() >= 20, "{} pings of {from}", rows.len());
    rows.into_iter()
        .map(|mut row| {
            let checksum = row.pop().unwrap();
            row.push(if checksum.starts_with("0x0000") { "no checksum" } else { "a checksum" }.to_owned());
            row
        })
        .collect()
}

/// Source ports of the tunnel, over all flows from one node.
fn ports(packets: &Packets, from: IpAddr) -> BTreeSet<u16> {
    let source = if from.is_ipv4() { "ip.src" } else { "ipv6.src" };
    let rows = packets.fields(&format!("vxlan && {source} == {from} && udp.dstport == 9"), &["udp.srcport"]).unwrap();
    assert!(rows.len() >= 100, "{} flows of {from}", rows.len());
    rows.iter().map(|row| row[0].split(',').next().unwrap().parse().unwrap()).collect()
}

fn mac(node: &Node, device: &str) -> String {
    let shown = node.netns().run(&format!("ip -o link show dev {device}")).unwrap();
    shown.split_once("link/ether ").unwrap().1.split(' ').next().unwrap().to_owned()
}

#[test]
fn tshark_finds_nothing_wrong_and_every_field_is_as_flannels_device_has_it() {
    if skip_unless(&["ip", "bridge", "nft", "etcdctl", "ping", "tcpdump", "tshark"]) {
        return;
    }
    let cluster = Flannel::beside_ours("ffwire").unwrap();
    let (ours, receiver, flannels) = (cluster.node(1), cluster.node(2), cluster.node(3));
    let capture = Capture::start(receiver.netns(), "eth0", "udp port 8472").unwrap();
    let pings = [(1, 2, Family::V4), (2, 1, Family::V6), (3, 2, Family::V4), (2, 3, Family::V6)]
        .map(|(from, to, family)| cluster.ping(from, to, family).unwrap());
    traffic(ours, receiver);
    traffic(flannels, receiver);
    for report in pings.map(Ping::stop) {
        report.assert_nothing_lost();
    }
    let packets = capture.stop().unwrap();
    assert_eq!(packets.complaints().unwrap(), Vec::<String>::new());
    for (family, device) in [(Family::V4, "flannel.1"), (Family::V6, "flannel-v6.1")] {
        let (of_ours, of_flannels) =
            (shapes(&packets, ours.address(family)), shapes(&packets, flannels.address(family)));
        println!("{family}: {of_ours:?}");
        assert_eq!(of_ours, of_flannels, "{family}");
        for node in [ours, flannels] {
            let ports = ports(&packets, node.address(family));
            assert!(ports.iter().all(|port| PORTS.contains(port)), "{ports:?}");
            assert!(ports.len() > 60, "100 flows use {} ports", ports.len());
        }
        let source = if family == Family::V4 { "ip.src" } else { "ipv6.src" };
        let inner = format!("vxlan && {source} == {}", ours.address(family));
        let macs = [mac(ours, device), mac(receiver, device)];
        for row in packets.fields(&inner, &["eth.src", "eth.dst"]).unwrap() {
            let inner: Vec<_> = row.iter().map(|macs| macs.split(',').nth(1).unwrap()).collect();
            assert_eq!(inner, macs);
        }
    }
}
