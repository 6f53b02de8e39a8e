//! What a node of flannel's sends, and what ours sends, in every field.

use std::{collections::BTreeSet, net::IpAddr};

use xtask::lab::{Capture, Cluster, Family, Node, Packets, plain_vxlan, transfer};

use crate::site::{Daemons, builder, ours, start};

const BOTH: [Family; 2] = [Family::V4, Family::V6];

fn pings(from: &Node, to: &Node, family: Family) {
    let address = to.pod().address(family).unwrap();
    // Best effort, expedited forwarding, the marks of ECN, few hops, large.
    for more in ["-Q 0x00", "-Q 0xb8", "-Q 0x01", "-Q 0x02", "-Q 0x03", "-t 17", "-s 1300", "-M do", "-M dont"] {
        from.pod().netns().run(&format!("ping -c 3 -i 0.01 -W 5 {more} {address}")).unwrap();
    }
}

/// Outer and inner, without addresses, identification and source port.
fn shapes(packets: &Packets, filter: &str, from: IpAddr) -> BTreeSet<Vec<String>> {
    let (source, fields) = match from {
        IpAddr::V4(_) => ("ip.src", ["ip.ttl", "ip.dsfield", "ip.flags", "ip.frag_offset"]),
        IpAddr::V6(_) => ("ipv6.src", ["ipv6.hlim", "ipv6.tclass", "ipv6.nxt", "ipv6.flow"]),
    };
    let common = ["vxlan.flags", "vxlan.vni", "vxlan.gbp", "udp.dstport", "frame.len", "eth.type", "udp.checksum"];
    let rows = packets.fields(&format!("vxlan && {source} == {from} && {filter}"), &[&fields[..], &common].concat());
    let rows = rows.unwrap();
    assert!(!rows.is_empty(), "{filter} of {from}");
    rows.into_iter()
        .map(|mut row| {
            let checksum = row.pop().unwrap();
            row.push(if checksum.starts_with("0x0000") { "no checksum" } else { "a checksum" }.to_owned());
            if from.is_ipv6() {
                // The inner flow label is drawn by the pod; whether the outer one is zero is the tunnel's affair.
                let labels: Vec<String> = row[3].split(',').map(|label| (label != "0x000000").to_string()).collect();
                row[3] = labels.join(",");
            }
            row
        })
        .collect()
}

/// As its lease has it.
fn mac(cluster: &Cluster, node: &Node, data: &str) -> String {
    let values = cluster.etcdctl(&["get", "--prefix", "--print-value-only", "/coreos.com/network/subnets/"]).unwrap();
    let mut values = values.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let public = node.address(Family::V4).to_string();
    let lease = values.find(|value| value["PublicIP"] == public.as_str()).unwrap();
    lease[data]["VtepMAC"].as_str().unwrap().to_owned()
}

fn compare(prefix: &str, datapath: &str) {
    let Some(daemons) = Daemons::given() else { return };
    let launches = vec![daemons.flannel(), ours(datapath), daemons.flannel()];
    let cluster = builder(prefix, launches).families(&BOTH).network(plain_vxlan(&BOTH)).prepare().unwrap();
    for number in [1, 2, 3] {
        start(&cluster, number);
    }
    cluster.assert_whole();
    let (flannels, ours, receiver) = (cluster.node(1), cluster.node(2), cluster.node(3));
    let capture = Capture::start(receiver.netns(), "eth0", "udp port 8472").unwrap();
    for family in BOTH {
        for from in [flannels, ours] {
            pings(from, receiver, family);
            let address = receiver.pod().address(family).unwrap();
            transfer(from.pod().netns(), receiver.pod().netns(), address, 1 << 20).unwrap();
        }
    }
    let packets = capture.stop().unwrap();
    assert_eq!(packets.complaints().unwrap(), Vec::<String>::new());
    for (family, echo, data) in
        [(Family::V4, "icmp.type == 8", "BackendData"), (Family::V6, "icmpv6.type == 128", "BackendV6Data")]
    {
        let (theirs, own) = (flannels.address(family), ours.address(family));
        assert_eq!(shapes(&packets, echo, own), shapes(&packets, echo, theirs), "{family}");
        println!("{family}: {:?}", shapes(&packets, echo, own));
        let handshake = "tcp.flags.syn == 1";
        assert_eq!(shapes(&packets, handshake, own), shapes(&packets, handshake, theirs), "{family}");
        let source = if family == Family::V4 { "ip.src" } else { "ipv6.src" };
        for node in [flannels, ours] {
            let macs = [mac(&cluster, node, data), mac(&cluster, receiver, data)];
            let filter = format!("vxlan && {source} == {}", node.address(family));
            for row in packets.fields(&filter, &["eth.src", "eth.dst"]).unwrap() {
                let inner: Vec<_> = row.iter().map(|macs| macs.split(',').nth(1).unwrap()).collect();
                assert_eq!(inner, macs, "{family}");
            }
            let ports = packets.fields(&format!("{filter} && {echo}"), &["udp.srcport"]).unwrap();
            assert!(ports.iter().all(|port| (32768..=60999).contains(&port[0].parse::<u16>().unwrap())), "{ports:?}");
            assert_eq!(ports.iter().collect::<BTreeSet<_>>().len(), 1, "one port for one pair of pods: {ports:?}");
        }
    }
}

#[test]
fn ebpf() {
    compare("rxebpf", "ebpf");
}

#[test]
fn vxlan() {
    compare("rxvx", "vxlan");
}

#[test]
fn userspace() {
    compare("rxuser", "userspace");
}
