use super::*;

const TCP_V4: [u32; 5] = header_v4(6, 64);
const UDP_V4: [u32; 5] = header_v4(17, 64);

/// 10.5.1.7 to 10.5.2.7, 60 octets, don't fragment.
const fn header_v4(protocol: u32, ttl: u32) -> [u32; 5] {
    let words = [0x45b8_003c, 0x1234_4000, ttl << 24 | protocol << 16, 0x0a05_0107, 0x0a05_0207];
    right(words)
}

/// With the checksum that belongs there, in memory order.
const fn right(mut words: [u32; 5]) -> [u32; 5] {
    let mut sum = 0;
    let mut at = 0;
    words[2] &= 0xffff_0000;
    while at < 5 {
        sum += (words[at] >> 16) + (words[at] & 0xffff);
        at += 1;
    }
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    words[2] |= !sum & 0xffff;
    [words[0].to_be(), words[1].to_be(), words[2].to_be(), words[3].to_be(), words[4].to_be()]
}

/// 60 octets, flow label 0x54321.
fn header_v6(next: u32, hops: u32) -> [u32; 10] {
    let words = [0x6b85_4321, 20 << 16 | next << 8 | hops, 0xfd05_0000, 1, 0, 7, 0xfd05_0000, 2, 0, 7];
    words.map(u32::to_be)
}

/// Twenty octets of TCP, or eight of UDP and twelve of payload in 40 after IPv4.
fn tcp(offset: u32, flags: u32) -> [u32; 5] {
    [0x9c40_0050, 1, 2, offset << 28 | flags << 16 | 0xffff, 0].map(u32::to_be)
}

fn udp(length: u32) -> [u32; 5] {
    [0x9c40_0035, length << 16, 3, 4, 5].map(u32::to_be)
}

#[test]
fn good_packets_say_what_they_are() {
    let read = ipv4(&TCP_V4, &tcp(5, 0x10), 60).unwrap();
    assert_eq!((read.total, read.headers, read.tos, read.ttl), (60, 40, 0xb8, 64));
    assert_eq!((read.tuple.source_port.to_be(), read.tuple.destination_port.to_be()), (40_000, 80));
    assert_eq!(read.mark, Mark([TCP_V4[1], 60, 1_u32.to_be(), 2_u32.to_be()]));
    assert_eq!(ipv4(&TCP_V4, &tcp(10, 0x10), 60).unwrap().headers, 60);
    assert_eq!(ipv4(&UDP_V4, &udp(40), 60).unwrap().mark.0[2..], [3_u32.to_be(), 4_u32.to_be()]);

    let read = ipv6(&header_v6(6, 64), &tcp(5, 0x10), 60).unwrap();
    assert_eq!((read.total, read.headers, read.tos, read.ttl), (60, 60, 0xb8, 64));
    assert_eq!(read.mark.0[..2], [0x5_4321, 60]);
    assert_eq!(ipv6(&header_v6(17, 64), &udp(20), 60).unwrap().headers, 48);
}

#[test]
fn one_wrong_bit_in_an_ipv4_header_is_noticed() {
    for bit in 0..160 {
        let mut ip = UDP_V4;
        ip[bit / 32] ^= 1 << (bit % 32);
        assert!(ipv4(&ip, &udp(40), 60).is_err(), "bit {bit}");
    }
}

#[test]
fn lengths_have_to_agree() {
    for length in (0..60).chain(61..200).chain([u32::MAX, 0xffff + 60]) {
        assert_eq!(ipv4(&TCP_V4, &tcp(5, 0x10), length), Err(Decline::Malformed), "{length}");
        assert_eq!(ipv6(&header_v6(6, 64), &tcp(5, 0x10), length), Err(Decline::Malformed), "{length}");
    }
    for length in (0..40).chain(41..=0xffff) {
        assert_eq!(ipv4(&UDP_V4, &udp(length), 60), Err(Decline::Malformed), "{length}");
    }
    for offset in [0, 1, 2, 3, 4, 11, 12, 13, 14, 15] {
        assert_eq!(ipv4(&TCP_V4, &tcp(offset, 0x10), 60), Err(Decline::Malformed), "{offset}");
    }
    assert_eq!(ipv6(&header_v6(6, 64), &tcp(6, 0x10), 60), Err(Decline::Malformed));

    // An IP packet too short for its transport header, or for its own.
    for total in 0..40 {
        let ip = right([0x4500_0000 | total, 0, 64 << 24 | 6 << 16, 1, 2]);
        assert_eq!(ipv4(&ip, &tcp(5, 0x10), total), Err(Decline::Malformed), "{total}");
        let ip = right([0x4500_0000 | total, 0, 64 << 24 | 17 << 16, 1, 2]);
        let outcome = ipv4(&ip, &udp(total.wrapping_sub(20) & 0xffff), total);
        assert_eq!(outcome.is_ok(), total >= 28, "{total}");
    }
}

#[test]
fn versions_and_header_lengths() {
    for first in 0..=255 {
        let ip = right([first << 24 | 0x3c, 0x4000, 64 << 24 | 17 << 16, 1, 2]);
        let expected = match first {
            0x45 => None,
            0x46..=0x4f => Some(Decline::Options),
            _ => Some(Decline::Malformed),
        };
        assert_eq!(ipv4(&ip, &udp(40), 60).err(), expected, "{first:#x}");
        let mut ip = header_v6(17, 64);
        ip[0] = (first << 24).to_be();
        assert_eq!(ipv6(&ip, &udp(20), 60).is_ok(), first >> 4 == 6, "{first:#x}");
    }
}

#[test]
fn fragments_of_every_kind() {
    for bits in 0..=0xffff {
        let ip = right([0x4500_003c, bits, 64 << 24 | 17 << 16, 1, 2]);
        let expected = if bits & 0xbfff == 0 { None } else { Some(Decline::Fragment) };
        assert_eq!(ipv4(&ip, &udp(40), 60).err(), expected, "{bits:#x}");
    }
}

#[test]
fn every_protocol() {
    for protocol in 0..=255 {
        let v4 = ipv4(&header_v4(protocol, 64), &udp(40), 60).err();
        let v6 = ipv6(&header_v6(protocol, 64), &udp(20), 60).err();
        let (expected_v4, expected_v6) = match protocol {
            17 => (None, None),
            // What is UDP's length is a sequence number to it, and no header length.
            6 => (Some(Decline::Malformed), Some(Decline::Malformed)),
            44 => (Some(Decline::Protocol), Some(Decline::Fragment)),
            0 | 43 | 51 | 60 | 135 | 139 | 140 => (Some(Decline::Protocol), Some(Decline::Options)),
            _ => (Some(Decline::Protocol), Some(Decline::Protocol)),
        };
        assert_eq!((v4, v6), (expected_v4, expected_v6), "{protocol}");
    }
}

#[test]
fn every_set_of_tcp_flags() {
    for flags in 0..=255 {
        let controls = flags & 7 != 0;
        assert_eq!(matches!(ipv4(&TCP_V4, &tcp(5, flags), 60), Err(Decline::Control(_))), controls, "{flags:#x}");
        let v6 = ipv6(&header_v6(6, 64), &tcp(5, flags), 60);
        assert_eq!(matches!(v6, Err(Decline::Control(_))), controls, "{flags:#x}");
    }
}

#[test]
fn every_time_to_live() {
    for ttl in 0..=255 {
        let expected = if ttl < 2 { Some(Decline::Ttl) } else { None };
        assert_eq!(ipv4(&header_v4(17, ttl), &udp(40), 60).err(), expected, "{ttl}");
        assert_eq!(ipv6(&header_v6(17, ttl), &udp(20), 60).err(), expected, "{ttl}");
    }
}

#[test]
fn mapped_addresses_are_not_on_the_wire() {
    let mut ip = header_v6(17, 64);
    ip[2..6].copy_from_slice(&Address::v4(1).0);
    assert_eq!(ipv6(&ip, &udp(20), 60), Err(Decline::Malformed));
}

#[test]
fn what_is_forwarded_has_a_hop_less_and_a_right_checksum() {
    for tos in 0..=255 {
        for ttl in [2, 3, 64, 128, 255] {
            let ip = header_v4(6, ttl);
            let mut tuple = ipv4(&ip, &tcp(5, 0x10), 60).unwrap().tuple;
            tuple.destination = Address::v4(0xdead_beef);
            let sent = forwarded_ipv4(&ip, &tuple, tos);
            assert_eq!(checksum::fold(checksum::sum(&sent)), 0xffff);
            let read = ipv4(&sent, &tcp(5, 0x10), 60);
            assert_eq!(read.map(|read| (read.tos, u32::from(read.ttl))).ok(), (ttl > 2).then_some((tos, ttl - 1)));
            assert_eq!((sent[1], sent[3], sent[4]), (ip[1], ip[3], 0xdead_beef));

            let ip = header_v6(6, ttl);
            let sent = forwarded_ipv6(&ip, &ipv6(&ip, &tcp(5, 0x10), 60).unwrap().tuple, tos);
            assert_eq!(u32::from_be(sent[0]), 6 << 28 | u32::from(tos) << 20 | 0x5_4321);
            assert_eq!(u32::from_be(sent[1]), u32::from_be(ip[1]) - 1);
            assert_eq!(sent[2..], ip[2..]);
        }
    }
}
