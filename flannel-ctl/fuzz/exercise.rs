//! What is tried with any octets, and what must hold. Shared by libFuzzer's targets and the tests, which replay the corpus.

use super::packet::{
    coalesce::{Coalescer, Limits},
    ecn, icmp,
    layout::{Layout, TCP},
    received::{self, Received},
    segment::Cutter,
    ttl,
    virtio::{self, VirtioHeader},
};

const ROOM: usize = 22;
const LIMITS: Limits = Limits { mtu: 1450, tso: true, uso: true };

/// A virtio header and a packet, as a TUN device gives them.
pub fn cut(input: &[u8]) {
    let Some((header, packet)) = input.split_at_checked(virtio::LEN) else { return };
    let Ok(virtio) = VirtioHeader::parse(header) else { return };
    let mut cutter = Cutter::new();
    let Ok(mut segments) = cutter.cut(&virtio, packet, ROOM) else { return };
    for (header, _) in segments.iter_mut() {
        header[..ROOM].fill(0xee);
    }
    let (len, octets, header_len) = (segments.len(), segments.octets(), segments.header_len());
    assert_eq!(segments.iter().count(), len);
    let whole = Layout::of(packet).expect("what is cut is a packet");
    let mut payloads = 0;
    for (at, (header, payload)) in segments.iter().enumerate() {
        assert_eq!(header.len(), header_len);
        assert_eq!(header[..ROOM], [0xee; ROOM]);
        assert!(header.len() + payload.len() == octets || at + 1 == len);
        payloads += payload.len();
        let segment = [&header[ROOM..], payload].concat();
        let layout = Layout::of(&segment).expect("a segment is a packet");
        assert_eq!(layout.total, segment.len());
        if virtio.gso.is_some() {
            assert_eq!((layout.protocol, layout.transport), (whole.protocol, whole.transport));
            // Of IPv4's own nothing is said: cutting makes it right.
            assert!(received::is_right(&layout, &segment) || layout.fragment);
        }
    }
    assert_eq!(header_len - ROOM + payloads, whole.total);
}

/// Packets of one batch, each behind its length.
pub fn coalesce(input: &[u8]) {
    let mut coalescer = Coalescer::new(LIMITS);
    let (mut came, mut known) = (Vec::new(), true);
    let mut at = 0;
    while let Some(&[high, low]) = input.get(at..).and_then(<[u8]>::first_chunk) {
        let begin = at + 2;
        let end = (begin + usize::from(u16::from_be_bytes([high, low]) & 0x0fff)).min(input.len());
        let packet = &input[begin..end];
        around(packet);
        if coalescer.push(input, begin..end).is_ok() {
            let layout = Layout::of(packet).expect("what is taken is a packet");
            let packet = &packet[..layout.total];
            let state = Received::of(&layout, packet, LIMITS.mtu);
            known &= matches!(state, Received::Whole | Received::Partial);
            came.push(apart(&state.virtio(&layout), packet));
        }
        at = end;
    }
    let mut left = Vec::new();
    for out in coalescer.finish(input) {
        let octets = [out.header, &out.pieces.clone().collect::<Vec<_>>().concat()].concat();
        assert_eq!(octets.len(), out.octets());
        assert!(octets.len() <= 65_535);
        assert_eq!(VirtioHeader::parse(&out.virtio.encode()), Ok(out.virtio));
        left.push(apart(&out.virtio, &octets));
    }
    if known {
        assert!(meaning(left) == meaning(came), "what came is not what left");
    }
}

/// What a packet stands for; itself, if it cannot be cut.
fn apart(virtio: &VirtioHeader, packet: &[u8]) -> Vec<Vec<u8>> {
    let mut cutter = Cutter::new();
    match cutter.cut(virtio, packet, 0) {
        Ok(segments) => segments.iter().map(|(header, payload)| [header, payload].concat()).collect(),
        Err(_) => vec![packet.to_vec()],
    }
}

/// Packets in an order of their own, without what means nothing: IPv4's identification where nothing may be fragmented.
fn meaning(packets: Vec<Vec<Vec<u8>>>) -> Vec<Vec<u8>> {
    let mut packets: Vec<Vec<u8>> = packets.into_iter().flatten().collect();
    for packet in &mut packets {
        let layout = Layout::of(packet).expect("packets were looked at before");
        if packet[0] >> 4 == 4 && packet[6] & 0x40 != 0 && layout.protocol == TCP || layout.protocol == 17 {
            let right = received::is_right(&layout, packet);
            if packet[0] >> 4 == 4 && right {
                packet[4..6].fill(0);
                packet[10..12].fill(0);
            }
        }
    }
    packets.sort();
    packets
}

/// The smaller things.
fn around(packet: &[u8]) {
    let mut changed = packet.to_vec();
    ttl::decrement(&mut changed);
    ecn::mark(&mut changed, 0b11);
    assert_eq!(changed.len(), packet.len());
    let mut message = [0; icmp::MAX];
    for problem in [icmp::Problem::TooBig { mtu: 1450 }, icmp::Problem::NoRoute, icmp::Problem::TimeExceeded] {
        for from in ["10.42.0.0", "fd00:2a::"] {
            let from = from.parse().expect("an address");
            if let Some(octets) = icmp::write(problem, packet, from, &mut message) {
                assert_eq!(Layout::of(&message[..octets]).map(|layout| layout.total), Ok(octets));
            }
        }
    }
    if let Ok(layout) = Layout::of(packet) {
        let packet = &packet[..layout.total];
        let state = Received::of(&layout, packet, LIMITS.mtu);
        apart(&state.virtio(&layout), packet);
    }
}
