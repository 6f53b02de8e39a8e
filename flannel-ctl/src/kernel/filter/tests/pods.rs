//! Where an engine of ours judges what comes in, pods still do not pass for their node.

use std::{net::UdpSocket, time::Duration};

use super::{
    guard::{Frame, counter, udp4},
    lab::{Node, isolated},
    *,
};
use crate::model::Family;

fn engine(port: u16, vni: Option<u32>, pods: &[&str]) -> FilterPolicy {
    let pods = pods.iter().map(|net| net.parse().unwrap()).collect();
    let guard = GuardPolicy { port, vni, count_only: false, v4_len: None, v6_len: None, pods };
    FilterPolicy { guard: Some(guard), ..policy() }
}

/// What arrives at the world's address of what the pod sends there; `last` does.
fn arrive(node: &Node, to: &'static str, payloads: Vec<Vec<u8>>, last: Vec<u8>) -> Vec<Vec<u8>> {
    let world = node.world.run(move || UdpSocket::bind(to).unwrap());
    world.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let end = last.clone();
    node.pod.run(move || {
        let any = if to.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" };
        let pod = UdpSocket::bind(any).unwrap();
        for payload in payloads.into_iter().chain([last]) {
            pod.send_to(&payload, to).unwrap();
        }
    });
    let mut arrived = Vec::new();
    loop {
        let mut buffer = [0; 2048];
        let length = world.recv(&mut buffer).unwrap();
        if buffer[..length] == end {
            return arrived;
        }
        arrived.push(buffer[..length].to_vec());
    }
}

#[test]
fn vxlan_of_our_network_does_not_leave_a_pod() {
    isolated(|| {
        let node = Node::new();
        let mut filter = HostFilter::open(Choice::Nft);
        let wanted = wanted(&engine(8472, Some(1), &["10.244.0.0/16", "fd00:244::/32"]), &[]);
        converge(&mut filter, &wanted);
        for (to, source, family) in
            [("192.0.2.2:8472", "10.244.1.9", Family::V4), ("[2001:db8::2]:8472", "fd00:244:0:1::9", Family::V6)]
        {
            let other = Frame { vni: 2, ..Frame::of(source, 2) }.bytes();
            let sent = vec![Frame::of(source, 1).bytes(), other.clone()];
            assert_eq!(arrive(&node, to, sent, b"end".to_vec()), [other], "another network is not ours to judge");
            assert_eq!(counter(&mut filter, Refused::FromAPod(family)), 1);
        }
        assert_eq!(converge(&mut filter, &wanted), 0);
    });
}

#[test]
fn flannels_udp_wire_does_not_leave_a_pod() {
    isolated(|| {
        let node = Node::new();
        let mut filter = HostFilter::open(Choice::Nft);
        converge(&mut filter, &wanted(&engine(8285, None, &["10.244.0.0/16"]), &[]));
        let raw = |source: &str| udp4(source.parse().unwrap(), [10, 244, 2, 2].into(), 1);
        // No peer takes what is not from the overlay, and a resolver may well have this port.
        let harmless = [raw("192.0.2.7"), b"a question".to_vec(), Vec::new()];
        let sent = [harmless.to_vec(), vec![raw("10.244.1.9")]].concat();
        assert_eq!(arrive(&node, "192.0.2.2:8285", sent, b"end".to_vec()), harmless);
        assert_eq!(counter(&mut filter, Refused::FromAPod(Family::V4)), 1);
    });
}
