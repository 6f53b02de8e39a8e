//! What the sender's stack hands down in one piece and somebody cuts later, between every pair of ends: the fast path and
//! the kernel's VXLAN device.

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    time::Duration,
};

use flannel_common::Counter;
use nix::sys::socket::{setsockopt, sockopt};
use xtask::lab::{Capture, Cluster, Family, Netns, transfer};

use crate::{
    checksums,
    site::{Site, skipped},
    talk::udp_to,
};

const SEGMENT: usize = 1200;
const SEGMENTS: usize = 40;
const PATIENCE: Duration = Duration::from_secs(30);
/// Nodes 1 and 2 have the fast path, node 3 has not.
const PAIRS: [(usize, usize); 4] = [(1, 2), (2, 1), (1, 3), (3, 1)];

#[test]
fn what_is_cut_on_the_way_arrives_as_it_was_sent_whoever_encapsulates_and_decapsulates() {
    if skipped(&["ethtool"]) {
        return;
    }
    let (fast, plain): (&[&str], &[&str]) = (&["--datapath", "ebpf"], &["--datapath", "vxlan"]);
    let site = Site::of(Cluster::builder("fpcut").nodes(3).dual_stack(), &[fast, fast, plain]);
    let carried = |(from, to), family| {
        let address = site.pod_ip(to, family);
        let work = || {
            transfer(site.pod(from), site.pod(to), address, 24 << 20).unwrap();
            for segment in [None, Some(SEGMENT)] {
                datagrams(site.pod(from), site.pod(to), address, segment);
            }
        };
        // The fast end of the two, and the sender if both are.
        let watched = if from == 3 { to } else { from };
        let counts = site.during(watched, work);
        println!("{from} to {to}, {family}: {}", counts.shown());
        if from != 3 {
            assert!(counts.get(Counter::EgressFast) > 1000, "{from} to {to}, {family}: {}", counts.shown());
        }
        assert_eq!(counts.get(Counter::Lost), 0);
    };
    for family in [Family::V4, Family::V6] {
        PAIRS.into_iter().for_each(|pair| carried(pair, family));
    }
    // The same over a wire that takes nothing larger than itself, as most interfaces do with tunnels; and where the receiver
    // puts nothing together again, or what it can.
    for gro in ["off", "on"] {
        for number in [1, 2, 3] {
            let which = "tso off gso off tx-udp_tnl-segmentation off tx-udp-segmentation off gro";
            offloads(site.netns(number), "eth0", &format!("{which} {gro}"));
        }
        for family in [Family::V4, Family::V6] {
            PAIRS.into_iter().for_each(|pair| carried(pair, family));
        }
    }
    checksums_are_filled_in(&site);
    checksums::wrong_ones_stay_wrong(&site);
    site.alive();
}

fn offloads(netns: &Netns, interface: &str, which: &str) {
    netns.run(&format!("ethtool -K {interface} {which}")).unwrap();
}

/// Numbered datagrams by the batch, compared octet by octet; each batch is answered before the next is sent, so that none is
/// lost to a full buffer. With a segment size, a batch is one call and one packet down to whoever cuts it.
fn datagrams(from: &Netns, to: &Netns, at: IpAddr, segment: Option<usize>) {
    const BATCHES: u32 = 40;
    let server = to.enter(|| UdpSocket::bind(SocketAddr::new(at, 0))).unwrap().unwrap();
    setsockopt(&server, sockopt::RcvBufForce, &(16 << 20)).unwrap();
    server.set_read_timeout(Some(PATIENCE)).unwrap();
    let client = udp_to(from, server.local_addr().unwrap());
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    if let Some(segment) = segment {
        setsockopt(&client, sockopt::UdpGsoSegment, &i32::try_from(segment).unwrap()).unwrap();
    }
    let mut buffer = vec![0; 65_536];
    for batch in 0..BATCHES {
        let mut expected: Vec<Vec<u8>> = (0..SEGMENTS).map(|number| pattern(batch, number)).collect();
        match segment {
            Some(_) => assert_eq!(client.send(&expected.concat()).unwrap(), SEGMENT * SEGMENTS),
            None => expected.iter().for_each(|datagram| assert_eq!(client.send(datagram).unwrap(), SEGMENT)),
        }
        let mut peer = None;
        while !expected.is_empty() {
            let (read, sender) = server
                .recv_from(&mut buffer)
                .unwrap_or_else(|error| panic!("{error}: {} of batch {batch} have not come", expected.len()));
            let found = expected.iter().position(|datagram| datagram[..] == buffer[..read]);
            expected.swap_remove(found.unwrap_or_else(|| panic!("{read} octets of batch {batch} that nobody sent")));
            peer = Some(sender);
        }
        server.send_to(b"next", peer.unwrap()).unwrap();
        assert_eq!(client.recv(&mut buffer).unwrap(), 4);
    }
}

fn pattern(batch: u32, number: usize) -> Vec<u8> {
    let seed = usize::try_from(batch).unwrap() * SEGMENTS + number;
    (0..SEGMENT).map(|at| u8::try_from((at * 167 + seed * 31 + at / 256) % 251).unwrap()).collect()
}

/// An uplink that computes nothing: whatever the sender's stack left open is right on the wire, inside and outside.
fn checksums_are_filled_in(site: &Site) {
    for number in [1, 2, 3] {
        offloads(site.netns(number), "eth0", "tx off");
    }
    let capture = Capture::start(site.cluster.underlay().netns(), "n1", "udp port 8472").unwrap();
    let counts = site.during(1, || {
        for family in [Family::V4, Family::V6] {
            let address = site.pod_ip(2, family);
            transfer(site.pod(1), site.pod(2), address, 2 << 20).unwrap();
            datagrams(site.pod(1), site.pod(2), address, Some(SEGMENT));
        }
    });
    assert!(counts.get(Counter::EgressFast) > 100, "{}", counts.shown());
    let packets = capture.stop().unwrap();
    let fields = ["ip.src", "ip.checksum.status", "udp.checksum.status", "tcp.checksum.status"];
    let rows = packets.with_checksums_judged().fields("vxlan", &fields).unwrap();
    let bad: Vec<_> = rows.iter().filter(|row| row[1..].iter().any(|status| judged(status, "0"))).collect();
    assert!(bad.is_empty(), "{} of {} have wrong checksums, such as {:?}", bad.len(), rows.len(), bad[0]);
    let good = |column: usize| rows.iter().filter(|row| judged(&row[column], "1")).count();
    assert!(good(2) > 1000 && good(3) > 1000, "inner UDP {}, inner TCP {}", good(2), good(3));
}

/// A column has the outer header's and the inner one's, if both have one.
fn judged(statuses: &str, status: &str) -> bool {
    statuses.split(',').any(|one| one == status)
}
