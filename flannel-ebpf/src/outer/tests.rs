use super::*;

const PORT: u16 = 8472_u16.to_be();
/// UDP from 45678, 80 octets, no checksum; VXLAN, network 1.
const REST: [u32; 4] = [0xb26e_2118_u32.to_be(), (80_u32 << 16).to_be(), PLAIN.to_be(), (1_u32 << 8).to_be()];

fn header_v4() -> [u32; 5] {
    let mut ip = [0x4528_0064, 0x7777_0000, 0x4011_0000, 0xc000_0201, 0xc000_0202].map(u32::to_be);
    let sum = !checksum::fold(checksum::sum(&ip));
    ip[2] |= u32::from(u16::from_be(sum)).to_be();
    ip
}

fn header_v6() -> [u32; 10] {
    [0x6280_0000, 80 << 16 | 17 << 8 | 64, 0x2001_0db8, 0, 0, 1, 0x2001_0db8, 0, 0, 2].map(u32::to_be)
}

#[test]
fn good_packets_say_what_they_are() {
    let outer = ipv4(&header_v4(), &REST, PORT, 100).unwrap();
    assert_eq!((outer.tos, outer.vni, outer.checksummed), (0x28, 1, false));
    assert_eq!(outer.source, Address::v4(0xc000_0201_u32.to_be()));
    let outer = ipv6(&header_v6(), &REST, PORT, 120).unwrap();
    assert_eq!((outer.tos, outer.vni, outer.checksummed), (0x28, 1, false));
    assert_eq!(outer.destination, Address([0x2001_0db8, 0, 0, 2].map(u32::to_be)));
}

#[test]
fn one_wrong_bit_in_an_ipv4_header_is_noticed() {
    for bit in 0..160 {
        let mut ip = header_v4();
        ip[bit / 32] ^= 1 << (bit % 32);
        assert!(ipv4(&ip, &REST, PORT, 100).is_err(), "bit {bit}");
    }
}

/// Bits by their place on the wire: what each one of UDP and VXLAN makes of a packet.
#[test]
fn every_bit_of_udp_and_vxlan() {
    for bit in 0..128 {
        let mut rest = REST;
        rest[bit / 32] ^= (1_u32 << (31 - bit % 32)).to_be();
        for outcome in [ipv4(&header_v4(), &rest, PORT, 100), ipv6(&header_v6(), &rest, PORT, 120)] {
            match bit {
                // Source port; checksum; network identifier.
                0..16 | 48..64 | 96..120 => assert!(outcome.is_ok(), "bit {bit}"),
                16..32 => assert_eq!(outcome, Err(NotPlain::Other), "bit {bit}"),
                32..48 => assert_eq!(outcome, Err(NotPlain::Odd), "bit {bit}"),
                _ => assert_eq!(outcome, Err(NotPlain::Flags), "bit {bit}"),
            }
            assert_eq!(outcome.is_ok_and(|outer| outer.checksummed), (48..64).contains(&bit), "bit {bit}");
            assert_eq!(outcome.is_ok_and(|outer| outer.vni != 1), (96..120).contains(&bit), "bit {bit}");
        }
    }
}

#[test]
fn lengths_have_to_agree() {
    for length in (0..300).chain([u32::MAX, 0x1_0064]) {
        assert_eq!(ipv4(&header_v4(), &REST, PORT, length).is_ok(), length == 100, "{length}");
        assert_eq!(ipv6(&header_v6(), &REST, PORT, length).is_ok(), length == 120, "{length}");
    }
}

#[test]
fn other_protocols_are_not_ours() {
    for protocol in 0..=255 {
        let mut ip = header_v6();
        ip[1] = (80 << 16 | protocol << 8 | 64_u32).to_be();
        assert_eq!(ipv6(&ip, &REST, PORT, 120).is_ok(), protocol == 17, "{protocol}");
    }
}

#[test]
fn source_ports_stay_in_their_range() {
    for (first, ports) in [(32_768, 28_231), (1, 65_535), (0, 0), (1024, 1)] {
        for step in 0..=1_000 {
            let hash = step * (u32::MAX / 1_000);
            let port = u32::from(source_port(hash, first, ports));
            assert!(port >= first && port < first + ports.max(1), "{hash:#x} {first} {ports}");
        }
    }
}

#[test]
fn what_this_node_sends_is_known_by_its_port_and_says_its_network() {
    let networks =
        |rest: &[u32; 4], port| [network_ipv4(&header_v4(), rest, port), network_ipv6(&header_v6(), rest, port)];
    assert_eq!(networks(&REST, PORT), [Some(1); 2]);
    assert_eq!(networks(&REST, 4789_u16.to_be()), [None; 2]);
    let mut rest = REST;
    rest[2] |= 0x8000_0000_u32.to_be();
    assert_eq!(networks(&rest, PORT), [None; 2], "group policy");
}
