use proptest::prelude::*;

use super::{
    super::{layout::flags::ACK, testing::Packet},
    *,
};

const ROOM: usize = 22;

fn cut(virtio: &VirtioHeader, packet: &[u8]) -> Result<Vec<Vec<u8>>, CutError> {
    let mut cutter = Cutter::new();
    let mut segments = cutter.cut(virtio, packet, ROOM)?;
    for (header, _) in segments.iter_mut() {
        header[..ROOM].fill(0xee);
    }
    let (len, octets) = (segments.len(), segments.octets());
    let packets: Vec<Vec<u8>> = segments.iter().map(|(header, payload)| [header, payload].concat()).collect();
    assert_eq!(packets.len(), len);
    assert!(packets[..len - 1].iter().all(|packet| packet.len() == octets), "one size for all but the last");
    assert!(packets[len - 1].len() <= octets);
    Ok(packets
        .iter()
        .map(|packet| {
            assert_eq!(packet[..ROOM], [0xee; ROOM]);
            packet[ROOM..].to_vec()
        })
        .collect())
}

#[test]
fn flags_of_the_end_come_last_and_cwr_first() {
    let packet = Packet { flags: ACK | PSH | FIN | CWR, payload: vec![1; 250], ..Packet::default() };
    let flags: Vec<u8> = cut(&packet.virtio(100), &packet.partial()).unwrap().iter().map(|p| p[33]).collect();
    assert_eq!(flags, [ACK | CWR, ACK, ACK | PSH | FIN]);
}

#[test]
fn identifications_and_sequence_numbers_wrap() {
    let packet = Packet { id: 0xffff, sequence: u32::MAX - 50, payload: vec![1; 250], ..Packet::default() };
    assert_eq!(cut(&packet.virtio(100), &packet.partial()).unwrap(), packet.train(100));
}

#[test]
fn options_of_ip_and_extension_headers_are_copied() {
    for (family, ip_options) in
        [(Family::V4, vec![7, 7, 4, 0, 0, 0, 0, 0]), (Family::V6, vec![TCP, 0, 1, 4, 0, 0, 0, 0])]
    {
        let packet = Packet { family, ip_options, payload: vec![9; 300], ..Packet::default() };
        assert_eq!(cut(&packet.virtio(128), &packet.partial()).unwrap(), packet.train(128));
    }
}

#[test]
fn the_largest_packet_with_the_smallest_segments() {
    let packet = Packet { options: Vec::new(), payload: vec![3; 65_535 - 40], ..Packet::default() };
    assert_eq!(cut(&packet.virtio(48), &packet.partial()).unwrap().len(), 1365);
}

#[test]
fn a_short_packet_has_its_checksum_completed() {
    for family in [Family::V4, Family::V6] {
        for protocol in [TCP, UDP] {
            for len in [0, 1, 30] {
                let packet = Packet { family, protocol, payload: vec![0xfe; len], ..Packet::default() };
                let virtio = packet.virtio(0);
                assert_eq!(cut(&virtio, &packet.partial()), Ok(vec![packet.octets()]));
            }
        }
    }
}

#[test]
fn a_checksum_within_the_ip_header_is_refused() {
    for (packet, start, offset) in [
        (Packet::udp(b"hello"), 0, 0),
        (Packet::udp(b"hello"), 0, 10),
        (Packet { family: Family::V6, ..Packet::udp(b"hello") }, 16, 1),
    ] {
        let virtio = VirtioHeader { checksum: Some(PartialChecksum { start, offset }), ..VirtioHeader::default() };
        assert_eq!(cut(&virtio, &packet.octets()), Err(CutError::ChecksumPlace));
    }
}

#[test]
fn what_is_complete_passes_as_it_is_but_for_padding() {
    let packet = Packet::udp(b"hello").octets();
    assert_eq!(cut(&VirtioHeader::default(), &packet), Ok(vec![packet.clone()]));
    let padded = [&packet[..], &[0; 13]].concat();
    assert_eq!(cut(&VirtioHeader::default(), &padded), Ok(vec![packet]));
}

#[test]
fn what_cannot_be_cut_is_refused_by_name() {
    let packet = Packet { payload: vec![1; 250], ..Packet::default() };
    let good = packet.virtio(100);
    let refused = |virtio: &VirtioHeader, change: &dyn Fn(&mut Vec<u8>)| {
        let mut octets = packet.partial();
        change(&mut octets);
        cut(virtio, &octets).unwrap_err()
    };
    let gso = |kind| VirtioHeader { gso: good.gso.map(|gso| Gso { kind, ..gso }), checksum: None, ..good };
    assert_eq!(refused(&good, &|p| p[0] = 0x55), CutError::Layout(LayoutError::NotIp));
    assert_eq!(refused(&good, &|p| p.clear()), CutError::Layout(LayoutError::NotIp));
    assert_eq!(refused(&good, &|p| p[0] = 0x44), CutError::Layout(LayoutError::Header));
    assert_eq!(refused(&good, &|p| p.truncate(200)), CutError::Layout(LayoutError::Truncated));
    assert_eq!(refused(&good, &|p| p.push(0)), CutError::Length);
    assert_eq!(refused(&good, &|p| p[6] = 0x20), CutError::Fragment);
    assert_eq!(refused(&good, &|p| p[9] = 132), CutError::Protocol);
    assert_eq!(refused(&gso(GsoKind::Tcp6), &|_| ()), CutError::Protocol);
    assert_eq!(refused(&gso(GsoKind::Udp), &|_| ()), CutError::Protocol);
    assert_eq!(refused(&good, &|p| p[32] = 0x40), CutError::Transport);
    assert_eq!(
        refused(&good, &|p| {
            p.truncate(52);
            p[3] = 52;
            p[2] = 0;
        }),
        CutError::Transport
    );
    let elsewhere = VirtioHeader { checksum: Some(PartialChecksum { start: 20, offset: 6 }), ..good };
    assert_eq!(refused(&elsewhere, &|_| ()), CutError::ChecksumPlace);
    let behind = VirtioHeader { checksum: Some(PartialChecksum { start: 290, offset: 16 }), gso: None, header_len: 0 };
    assert_eq!(refused(&behind, &|_| ()), CutError::ChecksumPlace);
    let long = Packet {
        family: Family::V6,
        ip_options: [&[TCP, 255, 1, 4][..], &[0; 2044]].concat(),
        payload: vec![1; 60_000],
        ..Packet::default()
    };
    assert_eq!(cut(&long.virtio(100), &long.partial()), Err(CutError::Headers));
}

prop_compose! {
    fn any_packet()(
        family in prop_oneof![Just(Family::V4), Just(Family::V6)], protocol in prop_oneof![Just(TCP), Just(UDP)],
        tos: u8, id: u16, df: bool, sequence: u32, flags: u8, options in 0usize..=10, payload in proptest::collection::vec(any::<u8>(), 1..4000),
    ) -> Packet {
        Packet { family, protocol, tos, id, df, sequence, flags, options: vec![1; options * 4], payload, ..Packet::default() }
    }
}

proptest! {
    #[test]
    fn a_super_packet_is_cut_as_the_protocols_have_it(packet in any_packet(), size in 1u16..1500) {
        // More segments than this have headers that may not fit, with the longest options.
        let mut packet = packet;
        packet.payload.truncate(usize::from(size) * 1000);
        prop_assert!(cut(&packet.virtio(size), &packet.partial()).unwrap() == packet.train(size.into()));
    }

    #[test]
    fn no_octets_panic(octets in proptest::collection::vec(any::<u8>(), 0..120), virtio: [u8; 10], room in 0usize..64, plausible: bool) {
        let mut octets = octets;
        if let (true, [first, _, high, low, ..]) = (plausible, &mut octets[..]) {
            *first = 0x45 + (*first & 3);
            (*high, *low) = (0, *low & 0x7f);
        }
        if let Ok(virtio) = VirtioHeader::parse(&virtio)
            && let Ok(segments) = Cutter::new().cut(&virtio, &octets, room)
        {
            prop_assert!(segments.iter().all(|(header, _)| header.len() == segments.header_len()));
        }
    }
}
