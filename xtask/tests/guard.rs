//! lane: e2e
//!
//! Only peers may inject, and each only from its own subnet.
#![expect(clippy::unwrap_used, reason = "a test's helper functions are tests too")]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};

use xtask::lab::{Cluster, Family, Launch, Netns, Node, skip_unless, wait};

const PORT: u16 = 7000;

fn cluster(prefix: &str, mode: &str) -> Cluster {
    let launch = Launch { args: vec![format!("--peer-guard={mode}")], ..Launch::default() };
    let cluster = Cluster::builder(prefix).nodes(3).dual_stack().launches(vec![launch]).start().unwrap();
    cluster.assert_whole();
    cluster
}

/// VXLAN and Ethernet headers, and a UDP packet to the pod with `tag` as payload.
fn frame(node: &Node, source: IpAddr, tag: u8) -> Vec<u8> {
    let family = if source.is_ipv4() { Family::V4 } else { Family::V6 };
    let device = if source.is_ipv4() { "flannel.1" } else { "flannel-v6.1" };
    let shown = node.netns().run(&format!("ip -o link show dev {device}")).unwrap();
    let mac = shown.split_once("link/ether ").unwrap().1.split(' ').next().unwrap().to_owned();
    let mut bytes = vec![8, 0, 0, 0, 0, 0, 1, 0];
    bytes.extend(mac.split(':').map(|octet| u8::from_str_radix(octet, 16).unwrap()));
    bytes.extend([2, 0, 0, 0, 0, 9]);
    match (source, node.pod().address(family).unwrap()) {
        (IpAddr::V4(source), IpAddr::V4(pod)) => {
            bytes.extend([8, 0]);
            bytes.extend(udp4(source, pod, tag));
        }
        (IpAddr::V6(source), IpAddr::V6(pod)) => {
            bytes.extend([0x86, 0xdd]);
            bytes.extend(udp6(source, pod, tag));
        }
        _ => unreachable!(),
    }
    bytes
}

fn udp4(source: Ipv4Addr, destination: Ipv4Addr, tag: u8) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 29, 0, tag, 0x40, 0, 64, 17, 0, 0];
    packet.extend(source.octets());
    packet.extend(destination.octets());
    let sum = checksum(&packet);
    packet[10..12].copy_from_slice(&sum);
    packet.extend(udp_header([0, 0]));
    packet.push(tag);
    packet
}

fn udp6(source: Ipv6Addr, destination: Ipv6Addr, tag: u8) -> Vec<u8> {
    let addresses = [source.octets(), destination.octets()].concat();
    let mut sum_of = addresses.clone();
    sum_of.extend([0, 0, 0, 9, 0, 0, 0, 17]);
    sum_of.extend(udp_header([0, 0]));
    sum_of.push(tag);
    let mut packet = vec![0x60, 0, 0, 0, 0, 9, 17, 64];
    packet.extend(addresses);
    packet.extend(udp_header(checksum(&sum_of)));
    packet.push(tag);
    packet
}

fn udp_header(checksum: [u8; 2]) -> [u8; 8] {
    let [high, low] = PORT.to_be_bytes();
    [high, low, high, low, 0, 9, checksum[0], checksum[1]]
}

/// RFC 1071.
fn checksum(bytes: &[u8]) -> [u8; 2] {
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!u16::try_from(sum).unwrap()).to_be_bytes()
}

fn send(from: &Netns, node: &Node, family: Family, bytes: &[u8]) {
    let socket = from.enter(|| UdpSocket::bind((any(family), 0))).unwrap().unwrap();
    socket.send_to(bytes, (node.address(family), 8472)).unwrap();
}

/// Sends, as (namespace, inner source, tag): a stranger's packet, a peer's with another peer's source, one with a
/// source from outside, and at last a peer's own. Which tags arrive.
fn arrivals(cluster: &Cluster, family: Family) -> Vec<u8> {
    let node = cluster.node(1);
    let pod = |number: usize| cluster.node(number).pod().address(family).unwrap();
    let outside: IpAddr =
        if family == Family::V4 { [8, 8, 8, 8].into() } else { "2001:4860:4860::8888".parse().unwrap() };
    let stranger = cluster.underlay().netns();
    let peer = cluster.node(2).netns();
    let listener = listener(node, family, PORT);
    for (from, source, tag) in [
        (stranger, pod(2), 1),
        (stranger, outside, 2),
        (peer, pod(3), 3),
        (peer, outside, 4),
        (peer, pod(1), 5),
        (peer, pod(2), 6),
    ] {
        send(from, node, family, &frame(node, source, tag));
    }
    let mut arrived = Vec::new();
    // The last one is a peer's own: nothing comes after it.
    while arrived.last() != Some(&6) {
        let mut tag = [0];
        listener.recv(&mut tag).unwrap_or_else(|error| panic!("{error}; so far {arrived:?}"));
        arrived.extend(tag);
    }
    arrived
}

fn wait_counted(node: &Node, expected: u64) {
    let mut counted = 0;
    wait::until("the refused packets to show in the status", wait::LONG, || {
        counted = node.status().ok()?["counters"]["guard_drops"].as_u64()?;
        (counted == expected).then_some(())
    })
    .unwrap_or_else(|error| panic!("{error}: {counted} instead of {expected}"));
}

#[test]
fn packets_of_strangers_and_from_others_subnets_are_dropped_and_counted() {
    if skip_unless(&["ip", "nft", "etcdctl"]) {
        return;
    }
    let cluster = cluster("ffgrd", "drop");
    let ping = cluster.ping(2, 1, Family::V4).unwrap();
    for family in [Family::V4, Family::V6] {
        assert_eq!(arrivals(&cluster, family), [6], "{family}");
    }
    ping.more(20).unwrap();
    ping.stop().assert_nothing_lost();
    wait_counted(cluster.node(1), 10);
}

#[test]
fn in_counting_mode_they_are_counted_only() {
    if skip_unless(&["ip", "nft", "etcdctl"]) {
        return;
    }
    let cluster = cluster("ffcnt", "count");
    for family in [Family::V4, Family::V6] {
        let arrived = arrivals(&cluster, family);
        assert!(arrived.contains(&1) && arrived.contains(&3), "{family}: {arrived:?}");
    }
    wait_counted(cluster.node(1), 10);
}

/// Masqueraded, they come from the node, which may inject all that is from its subnet.
#[test]
fn tunnel_packets_that_a_pod_makes_itself_do_not_pass_for_its_nodes() {
    a_pod_does_not_pass_for_its_node("ffpod", "auto");
}

#[test]
fn nor_do_they_where_a_node_carries_packets_in_user_space() {
    a_pod_does_not_pass_for_its_node("ffpou", "userspace");
}

/// Its node carries packets with `datapath`.
fn a_pod_does_not_pass_for_its_node(prefix: &str, datapath: &str) {
    if skip_unless(&["ip", "nft", "etcdctl"]) {
        return;
    }
    let launch = |mode: &str| Launch {
        args: vec![format!("--peer-guard={mode}"), format!("--datapath={datapath}"), "--ip-masq".to_owned()],
        ..Launch::default()
    };
    let builder = Cluster::builder(prefix).nodes(2).dual_stack();
    let victim = Launch { args: vec!["--ip-masq".to_owned()], ..Launch::default() };
    let cluster = builder.launches(vec![victim, launch("off")]).start().unwrap();
    cluster.assert_whole();
    let (victim, node) = (cluster.node(1), cluster.node(2));
    let inject = |family, tag| {
        let packet = frame(victim, node.pod().address(family).unwrap(), tag);
        send(node.pod().netns(), victim, family, &packet);
    };
    let listeners = [Family::V4, Family::V6].map(|family| (family, listener(victim, family, PORT)));
    let tag = |listener: &UdpSocket| {
        let mut tag = [0];
        listener.recv(&mut tag).unwrap();
        tag[0]
    };
    for (family, listener) in &listeners {
        inject(*family, 1);
        assert_eq!(tag(listener), 1, "{family}: where nobody guards");
    }
    node.stop().unwrap();
    node.start_with(&launch("drop")).unwrap();
    node.wait_ready().unwrap();
    for (family, listener) in &listeners {
        inject(*family, 2);
        // What the node itself sends comes after it.
        send(node.netns(), victim, *family, &frame(victim, node.pod().address(*family).unwrap(), 3));
        assert_eq!(tag(listener), 3, "{family}");
    }
    wait_counted(node, 2);
    // A tunnel between pods, of the same port and network identifier, is their own affair.
    for family in [Family::V4, Family::V6] {
        let nested = listener(victim, family, 8472);
        let packet = frame(victim, node.pod().address(family).unwrap(), 4);
        let from = node.pod().netns().enter(|| UdpSocket::bind((any(family), 0))).unwrap().unwrap();
        from.send_to(&packet, (victim.pod().address(family).unwrap(), 8472)).unwrap();
        let mut arrived = [0; 128];
        let length = nested.recv(&mut arrived).unwrap();
        assert_eq!(arrived[..length], packet);
    }
    cluster.assert_whole();
}

fn any(family: Family) -> IpAddr {
    if family == Family::V4 { [0; 4].into() } else { [0; 16].into() }
}

/// In a node's pod.
fn listener(node: &Node, family: Family, port: u16) -> UdpSocket {
    let address = node.pod().address(family).unwrap();
    let listener = node.pod().netns().enter(|| UdpSocket::bind((address, port))).unwrap().unwrap();
    listener.set_read_timeout(Some(wait::LONG)).unwrap();
    listener
}
