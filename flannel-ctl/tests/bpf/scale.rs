//! Many peers, many flows. Times are printed, not judged.

use std::{
    net::{IpAddr, Ipv4Addr},
    time::{Duration, Instant},
};

use flannel_common::{Address, Counter, EgressFlow, Peer, PodInterface, Tuple};
use flannel_ctl::kernel::fastpath::{
    Hook, Sizes,
    trial::{Context, Trial},
};

use crate::{
    frame::{Inner, UDP},
    site::{Net, Site, net},
    skipped,
};

const ROOM: Sizes = Sizes { flows: 1 << 18, peers: 1 << 16, pods: 16 };

/// The base address of peer `n`'s subnet.
fn subnet(n: u32) -> Address {
    IpAddr::from(Ipv4Addr::from_bits(0x0a80_0000 + (n << 8))).into()
}

/// What the pod sends as its `n`th flow.
fn sent(net: &Net, n: u32) -> Inner {
    let mut sent = net.sent(UDP);
    sent.destination = Ipv4Addr::from_bits(0x0a05_0200 + 1 + n / 60_000).into();
    sent.ports = (u16::try_from(1 + n % 60_000).unwrap(), 53);
    sent
}

/// A flow that the kernel path once let through: what stands there does for all.
fn template(site: &mut Site, net: &Net) -> EgressFlow {
    let first = net.sent(UDP);
    site.prove(net, &first, &first);
    site.trial.egress(first.tuple()).unwrap().unwrap()
}

fn put(site: &mut Site, tuple: Tuple, template: &EgressFlow) {
    site.trial.put_egress(tuple, EgressFlow { sent: tuple, wire: tuple, ..*template }).unwrap();
}

/// The median over these packets, one run of each: of one packet run again and again all would be in the caches.
fn typical(site: &Site, hook: Hook, packets: &[Vec<u8>]) -> Duration {
    let mut times: Vec<_> =
        packets.iter().map(|packet| site.trial.time(hook, packet, Context::default(), 1).unwrap()).collect();
    times.sort();
    times[times.len() / 2]
}

#[test]
fn packets_are_carried_whatever_the_number_of_flows_or_peers() {
    if skipped(&[]) {
        return;
    }
    let mut site = Site::with(ROOM);
    let net = net(true);
    let template = template(&mut site, &net);
    let mut known = 0;
    for flows in [1, 1_000, 10_000, 100_000] {
        let begun = Instant::now();
        for n in known..flows {
            put(&mut site, sent(&net, n).tuple(), &template);
        }
        eprintln!("{} flows put in {:?}", flows - known, begun.elapsed());
        known = flows;
        let packets: Vec<_> = (0..5000).map(|n| sent(&net, n * 7919 % flows).frame()).collect();
        let (time, counted) = site.counted(|site| typical(site, Hook::PodIngress, &packets));
        assert_eq!(counted, [(Counter::EgressFast, 5000)].into(), "{flows} flows");
        eprintln!("{flows} flows: {time:?} a packet that is encapsulated");
    }
    let peer = Peer { outer: net.remote.into(), flags: 0 };
    let mut known = 0;
    for peers in [1, 100, 10_000] {
        let begun = Instant::now();
        for n in known..peers {
            site.trial.put_peer(subnet(n), peer).unwrap();
        }
        eprintln!("{} peers put in {:?}", peers - known, begun.elapsed());
        known = peers;
        let packets: Vec<_> = (0..5000)
            .map(|n| {
                let mut arriving = net.sent(UDP).reversed();
                arriving.source = Ipv4Addr::from_bits(0x0a80_0007 + ((n * 7919 % peers) << 8)).into();
                net.inward().around(&arriving)
            })
            .collect();
        let (time, counted) = site.counted(|site| typical(site, Hook::UplinkIngress, &packets));
        assert_eq!(counted, [(Counter::IngressUnknown, 5000)].into(), "{peers} peers");
        eprintln!("{peers} peers: {time:?} a packet whose sender is looked up");
    }
}

#[test]
fn ten_thousand_peers_go_in_at_once() {
    if skipped(&[]) {
        return;
    }
    let mut site = Site::with(ROOM);
    let bases: Vec<_> = (0..10_000).map(subnet).collect();
    let peers: Vec<_> = (0..10_000).map(|n| Peer { outer: subnet(n), flags: n % 2 }).collect();
    let begun = Instant::now();
    site.trial.put_peers(&bases, &peers).unwrap();
    eprintln!("10,000 peers at once: {:?}", begun.elapsed());
    for n in [0, 4_711, 9_999] {
        assert_eq!(site.trial.peer(bases[n]).unwrap(), Some(peers[n]));
    }
    // The last ones find no room: those before them are in all the same, and the answer is theirs alone.
    let mut small = Site::with(Sizes { peers: 64, ..ROOM });
    let error = small.trial.put_peers(&bases[..100], &peers[..100]).unwrap_err();
    assert!(error.to_string().contains("PEERS"), "{error}");
    assert_eq!(small.trial.peer(bases[10]).unwrap(), Some(peers[10]));
}

const FLOWS: u32 = 8192;
const USED: u32 = 256;

/// As many new flows as memory has room for, sixteen times over, push out what nobody uses. What is in use stays.
#[test]
fn flows_in_use_outlive_a_flood_of_others() {
    if skipped(&[]) {
        return;
    }
    let mut site = Site::with(Sizes { flows: FLOWS, ..ROOM });
    let net = net(true);
    let template = template(&mut site, &net);
    let used: Vec<_> = (0..USED).map(|n| sent(&net, n)).collect();
    for inner in &used {
        put(&mut site, inner.tuple(), &template);
    }
    let (mut fast, mut sent_packets, mut next) = (0, 0, USED);
    // A packet of each while the flood brings so many.
    for every in [256, 1024] {
        for _ in 0..FLOWS * 16 / every {
            for _ in 0..every {
                next += 1;
                put(&mut site, sent(&net, next).tuple(), &template);
            }
            let ((), counted) = site.counted(|site| {
                for inner in &used {
                    site.run(Hook::PodIngress, &inner.frame());
                }
            });
            let now = counted.get(&Counter::EgressFast).copied().unwrap_or(0);
            fast += now;
            sent_packets += u64::from(USED);
            // Whatever was pushed out is learned again with its next packet.
            for inner in &used {
                if site.trial.egress(inner.tuple()).unwrap().is_none() {
                    put(&mut site, inner.tuple(), &template);
                }
            }
        }
        eprintln!("one packet per flow each {every} new flows: {fast} of {sent_packets} were fast");
    }
    assert!(fast * 100 > sent_packets * 90, "{fast} of {sent_packets}");
}

#[test]
fn a_peer_or_a_pod_too_many_is_refused_by_the_name_of_the_option_and_disturbs_nobody() {
    if skipped(&[]) {
        return;
    }
    let mut trial = Trial::load(Sizes { flows: 16, peers: 2, pods: 2 }).unwrap();
    let peer = Peer { outer: net(true).remote.into(), flags: 0 };
    let base = |number: u8| Address::from(IpAddr::from([10, 5, number, 0]));
    let bases: Vec<_> = (0..4).map(base).collect();
    let error = trial.put_peers(&bases, &[peer; 4]).unwrap_err().to_string();
    assert!(error.contains("PEERS") && error.contains("raise --max-peers"), "{error}");
    assert_eq!([0, 1, 2, 3].map(|number| trial.peer(base(number)).unwrap().is_some()), [true, true, false, false]);
    // Who is there already can be changed, and one that leaves makes room.
    trial.put_peer(base(0), Peer { flags: 1, ..peer }).unwrap();
    trial.remove_peer(base(1)).unwrap();
    trial.put_peer(base(2), peer).unwrap();

    for interface in [1, 2, 1] {
        trial.put_pod(interface, PodInterface::new(1450)).unwrap();
    }
    let error = trial.put_pod(3, PodInterface::new(1450)).unwrap_err().to_string();
    assert!(error.contains("PODS") && error.contains("raise --max-pods"), "{error}");
}
