use super::{
    super::{
        checksum,
        layout::{
            TCP, UDP,
            flags::{ACK, CWR, FIN, PSH, RST, SYN, URG},
        },
        segment::Cutter,
        testing::Packet,
    },
    *,
};
use crate::model::Family;

pub(super) const LIMITS: Limits = Limits { mtu: 1450, tso: true, uso: true };

/// What comes out: the virtio header and the whole packet.
pub(super) fn coalesce(packets: &[Vec<u8>]) -> Vec<(VirtioHeader, Vec<u8>)> {
    coalesce_with(&mut Coalescer::new(LIMITS), packets)
}

fn coalesce_with(coalescer: &mut Coalescer, packets: &[Vec<u8>]) -> Vec<(VirtioHeader, Vec<u8>)> {
    let batch: Vec<u8> = packets.iter().flat_map(|packet| [&[0xcc; 22], &packet[..]].concat()).collect();
    let mut at = 0;
    for packet in packets {
        at += 22;
        coalescer.push(&batch, at..at + packet.len()).unwrap();
        at += packet.len();
    }
    coalescer
        .finish(&batch)
        .map(|out| {
            let octets = [out.header, &out.pieces.clone().collect::<Vec<_>>().concat()].concat();
            assert_eq!(octets.len(), out.octets());
            (out.virtio, octets)
        })
        .collect()
}

/// The packets that those that came out stand for.
pub(super) fn cut(out: &[(VirtioHeader, Vec<u8>)]) -> Vec<Vec<u8>> {
    let mut packets = Vec::new();
    for (virtio, packet) in out {
        let mut cutter = Cutter::new();
        let segments = cutter.cut(virtio, packet, 0).unwrap();
        packets.extend(segments.iter().map(|(header, payload)| [header, payload].concat()));
    }
    packets
}

pub(super) fn payload(octets: usize) -> Vec<u8> {
    (0..=250).cycle().step_by(7).take(octets).collect()
}

#[test]
fn a_train_becomes_the_super_packet_it_was_cut_from() {
    for family in [Family::V4, Family::V6] {
        for protocol in [TCP, UDP] {
            let packet =
                Packet { family, protocol, flags: ACK | PSH | FIN, payload: payload(60_000), ..Packet::default() };
            let out = coalesce(&packet.train(1398));
            assert_eq!(out.len(), 1);
            assert!(out[0].1 == packet.partial(), "{family:?} {protocol}");
            let gso = out[0].0.gso.unwrap();
            assert_eq!(gso.size.get(), 1398);
            assert_eq!(usize::from(out[0].0.header_len), packet.header_len());
        }
    }
}

#[test]
fn a_packet_alone_passes_as_it_came() {
    let packet = Packet::default().octets();
    assert_eq!(coalesce(std::slice::from_ref(&packet)), [(VirtioHeader::default(), packet)]);
}

#[test]
fn padding_behind_a_packet_is_left_out() {
    let packet = Packet::default();
    let out = coalesce(&packet.train(100).iter().map(|p| [&p[..], &[0; 9]].concat()).collect::<Vec<_>>());
    assert_eq!(out, [(VirtioHeader::default(), packet.octets())]);
}

pub(super) type Change = fn(&mut Packet);

/// Every one of these stops a merge, whatever else is right.
pub(super) const DIFFERENCES: [(&str, Change); 22] = [
    ("source", |p| p.hosts[0] += 1),
    ("destination", |p| p.hosts[1] += 1),
    ("source port", |p| p.ports[0] += 1),
    ("destination port", |p| p.ports[1] += 1),
    ("dscp", |p| p.tos ^= 0x20),
    ("congestion experienced", |p| p.tos ^= 0x03),
    ("ttl", |p| p.ttl += 1),
    ("df", |p| p.df = !p.df),
    ("id skips", |p| p.id += 1),
    ("id of long ago", |p| p.id -= 2),
    ("sequence gap", |p| p.sequence += 1),
    ("sequence overlap", |p| p.sequence -= 1),
    ("acknowledgement", |p| p.acknowledgement += 1),
    ("window", |p| p.window += 1),
    ("timestamp", |p| p.options[7] += 1),
    ("fewer options", |p| drop(p.options.drain(..4))),
    ("cwr", |p| p.flags |= CWR),
    ("ece", |p| p.flags |= 0x40),
    ("urg", |p| p.flags |= URG),
    ("rst", |p| p.flags |= RST),
    ("syn", |p| p.flags |= SYN),
    ("no ack", |p| p.flags &= !ACK),
];

pub(super) fn applies(what: &str, packet: &Packet) -> bool {
    let tcp = !matches!(
        what,
        "sequence gap"
            | "sequence overlap"
            | "acknowledgement"
            | "window"
            | "timestamp"
            | "fewer options"
            | "cwr"
            | "ece"
            | "urg"
            | "rst"
            | "syn"
            | "no ack"
    );
    let v4 = !matches!(what, "df" | "id skips" | "id of long ago");
    (tcp || packet.protocol == TCP) && (v4 || packet.family == Family::V4)
}

fn pair(family: Family, protocol: u8) -> (Packet, Packet) {
    let first = Packet { family, protocol, ..Packet::default() };
    let second = Packet { id: first.id + 1, sequence: first.sequence + 100, ..first.clone() };
    (first, second)
}

fn families_and_protocols() -> impl Iterator<Item = (Family, u8)> {
    [Family::V4, Family::V6].into_iter().flat_map(|family| [(family, TCP), (family, UDP)])
}

#[test]
fn one_difference_and_nothing_is_merged() {
    for (family, protocol) in families_and_protocols() {
        let (first, second) = pair(family, protocol);
        assert_eq!(coalesce(&[first.octets(), second.octets()]).len(), 1, "without a difference they are merged");
        for (what, change) in DIFFERENCES.iter().filter(|(what, _)| applies(what, &first)) {
            let mut second = second.clone();
            change(&mut second);
            let packets = [first.octets(), second.octets()];
            let out = coalesce(&packets);
            assert_eq!(out.len(), 2, "{what}");
            assert_eq!(cut(&out), packets, "{what}");
        }
    }
}

#[test]
fn nothing_comes_after_these_flags() {
    for flags in [FIN, SYN, RST, PSH, URG, CWR] {
        let (mut first, mut second) = pair(Family::V4, TCP);
        first.flags |= flags;
        assert_eq!(coalesce(&[first.octets(), second.octets()]).len(), 2);
        second.flags |= flags;
        assert_eq!(coalesce(&[first.octets(), second.octets()]).len(), 2);
    }
}

#[test]
fn only_the_last_may_be_shorter_and_none_longer() {
    for (family, protocol) in families_and_protocols() {
        let (first, second) = pair(family, protocol);
        let third = Packet { id: second.id + 1, sequence: second.sequence + 100, ..second.clone() };
        let with = |len: usize| Packet { payload: payload(len), ..second.clone() };
        assert_eq!(coalesce(&[first.octets(), with(101).octets()]).len(), 2);
        let short = with(60);
        let after = Packet { sequence: short.sequence + 60, ..third };
        assert_eq!(coalesce(&[first.octets(), short.octets()]).len(), 1);
        assert_eq!(coalesce(&[first.octets(), short.octets(), after.octets()]).len(), 2);
        assert_eq!(coalesce(&[first.octets(), with(0).octets()]).len(), 2);
        assert_eq!(coalesce(&[with(0).octets(), with(0).octets()]).len(), 2);
    }
}

#[test]
fn wrong_checksums_are_not_merged() {
    for (family, protocol) in families_and_protocols() {
        let (first, second) = pair(family, protocol);
        for wrong in 0..2 {
            for at in [first.field(), first.header_len() + 3] {
                let mut packets = [first.octets(), second.octets()];
                packets[wrong][at] ^= 4;
                let out = coalesce(&packets);
                assert_eq!(out.len(), 2);
                assert_eq!(out.iter().map(|(_, packet)| packet.clone()).collect::<Vec<_>>(), packets);
            }
        }
    }
    let (first, second) = pair(Family::V4, TCP);
    let mut packets = [first.octets(), second.octets()];
    packets[0][10] ^= 1;
    assert_eq!(coalesce(&packets).len(), 2, "IPv4's own");
}

#[test]
fn datagrams_without_a_checksum_are_not_merged() {
    let (first, second) = pair(Family::V4, UDP);
    let mut packets = [first.octets(), second.octets()];
    for packet in &mut packets {
        packet[26..28].fill(0);
    }
    assert_eq!(coalesce(&packets).len(), 2);
}

#[test]
fn fixed_identifications_are_merged_where_nothing_may_be_fragmented() {
    let (first, second) = pair(Family::V4, TCP);
    let fixed = Packet { id: first.id, ..second.clone() };
    let third = Packet { sequence: second.sequence + 100, ..fixed.clone() };
    assert_eq!(coalesce(&[first.octets(), fixed.octets(), third.octets()]).len(), 1);
    let counting = Packet { id: first.id + 2, ..third.clone() };
    assert_eq!(coalesce(&[first.octets(), fixed.octets(), counting.octets()]).len(), 2, "one or the other");
    // RFC 6864 leaves the identification of what may not be fragmented without a meaning, and a virtio header cannot say "fixed".
    let ids: Vec<u8> = cut(&coalesce(&[first.octets(), fixed.octets()])).iter().map(|packet| packet[5]).collect();
    assert_eq!(ids, [7, 8]);
    let packets = [&first, &fixed].map(|packet| Packet { df: false, ..packet.clone() }.octets());
    assert_eq!(coalesce(&packets).len(), 2);
}

#[test]
fn ip_options_extension_headers_and_fragments_are_left_alone() {
    for (family, ip_options) in [(Family::V4, vec![1, 1, 1, 0]), (Family::V6, vec![TCP, 0, 1, 4, 0, 0, 0, 0])] {
        let (first, second) = pair(family, TCP);
        let with = |packet: Packet| Packet { ip_options: ip_options.clone(), ..packet }.octets();
        assert_eq!(coalesce(&[with(first), with(second)]).len(), 2);
    }
}

#[test]
fn a_fragment_is_not_passed_by_its_flow() {
    let (first, second) = pair(Family::V4, UDP);
    let mut fragment = Packet { id: 99, df: false, ..first.clone() }.octets();
    fragment[6..8].copy_from_slice(&[0x20, 0]);
    let sum = checksum::replace([fragment[10], fragment[11]], [0, 0], [0x20, 0]);
    fragment[10..12].copy_from_slice(&sum);
    let packets = [first.octets(), fragment, second.octets()];
    let out = coalesce(&packets);
    assert_eq!(out.into_iter().map(|(_, packet)| packet).collect::<Vec<_>>(), packets);
}

#[test]
fn what_cannot_be_merged_is_not_passed_by_its_flow() {
    let (first, third) = pair(Family::V4, TCP);
    let pure = Packet { payload: Vec::new(), sequence: first.sequence + 100, ..first.clone() };
    let packets = [first.octets(), pure.octets(), third.octets()];
    assert_eq!(cut(&coalesce(&packets)), packets);
}

#[test]
fn a_super_packet_ends_at_64_kib_and_at_the_most_pieces() {
    let packet = Packet { payload: payload(65_483), ..Packet::default() };
    let after =
        Packet { payload: payload(65_483), sequence: packet.sequence + 65_483, id: packet.id + 47, ..packet.clone() };
    let out = coalesce(&[packet.train(1398), after.train(1398)].concat());
    assert!(out.iter().all(|(_, packet)| packet.len() <= 65_535));
    assert_eq!(cut(&out), [packet.train(1398), after.train(1398)].concat());
    let packet = Packet { payload: payload(1000), ..Packet::default() };
    assert_eq!(coalesce(&packet.train(1)).len(), 1000_usize.div_ceil(MAX_PIECES));
    let packet = Packet { protocol: UDP, ..packet };
    assert_eq!(coalesce(&packet.train(1)).len(), 1000_usize.div_ceil(64));
}

#[test]
fn a_device_that_takes_no_super_packets_gets_none() {
    for (protocol, limits) in [(TCP, Limits { tso: false, ..LIMITS }), (UDP, Limits { uso: false, ..LIMITS })] {
        let (first, second) = pair(Family::V6, protocol);
        assert_eq!(coalesce_with(&mut Coalescer::new(limits), &[first.octets(), second.octets()]).len(), 2);
    }
}

#[test]
fn a_partial_checksum_is_handed_on_as_such_and_not_merged() {
    for (family, protocol) in families_and_protocols() {
        let (first, second) = pair(family, protocol);
        let out = coalesce(&[first.partial(), second.partial()]);
        assert_eq!(out.len(), 2);
        assert_eq!(cut(&out), [first.octets(), second.octets()]);
    }
}

#[test]
fn a_super_packet_of_tcp_that_came_whole_is_cut_to_the_mtu() {
    for family in [Family::V4, Family::V6] {
        let packet = Packet { family, payload: payload(50_000), ..Packet::default() };
        let out = coalesce(&[packet.partial()]);
        assert!(cut(&out) == packet.train(1450 - packet.header_len()));
        assert!(out[0].1 == packet.partial());
    }
}

#[test]
fn a_super_packet_of_udp_is_refused() {
    let octets = Packet { payload: payload(9_000), ..Packet::udp(&[]) }.partial();
    assert_eq!(Coalescer::new(LIMITS).push(&octets, 0..octets.len()), Err(PushError::Unknown));
}

#[test]
fn a_batch_knows_nothing_of_the_one_before() {
    let mut coalescer = Coalescer::new(LIMITS);
    let (first, second) = pair(Family::V4, TCP);
    assert_eq!(coalesce_with(&mut coalescer, &[first.octets()]).len(), 1);
    assert_eq!(coalesce_with(&mut coalescer, &[second.octets()]), [(VirtioHeader::default(), second.octets())]);
}

#[test]
fn what_is_no_ip_packet_is_refused() {
    let mut coalescer = Coalescer::new(LIMITS);
    let packet = Packet::default().octets();
    assert_eq!(coalescer.push(&packet, 0..packet.len() - 1), Err(LayoutError::Truncated.into()));
    assert_eq!(coalescer.push(&packet, 1..20), Err(LayoutError::NotIp.into()));
    assert_eq!(coalescer.push(&packet, 5..1000), Err(LayoutError::Truncated.into()));
    assert_eq!(coalescer.finish(&packet).len(), 0);
}
