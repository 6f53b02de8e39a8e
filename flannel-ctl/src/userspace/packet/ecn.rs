//! Congestion marks of tunnelled packets, as the kernel's VXLAN device handles them
//! (`INET_ECN_encapsulate` and `INET_ECN_decapsulate`, `include/net/inet_ecn.h`, 6.18; RFC 6040).

use super::checksum;

const MASK: u8 = 0b11;
const NOT_ECT: u8 = 0b00;
const ECT_1: u8 = 0b01;
const ECT_0: u8 = 0b10;
const CE: u8 = 0b11;

/// The outer type of service for an inner one: DSCP 0, and the inner mark, but that congestion experienced becomes
/// "able" (RFC 3168, 9.1.1, which the kernel keeps to).
#[inline]
pub const fn encapsulate(inner: u8) -> u8 {
    match inner & MASK {
        CE => ECT_0,
        mark => mark,
    }
}

/// The inner type of service after the tunnel; none: the packet is to be dropped, because its sender could not be told of the
/// congestion otherwise.
#[inline]
pub const fn decapsulate(outer: u8, inner: u8) -> Option<u8> {
    match (outer & MASK, inner & MASK) {
        (CE, NOT_ECT) => None,
        (CE, _) => Some(inner | CE),
        (ECT_1, ECT_0) => Some(inner & !MASK | ECT_1),
        _ => Some(inner),
    }
}

/// Marks an inner packet by the outer header's type of service. False: it is to be dropped.
#[inline]
pub fn mark(packet: &mut [u8], outer: u8) -> bool {
    if outer & MASK == NOT_ECT {
        return true;
    }
    let Some(inner) = type_of_service(packet) else { return true };
    match decapsulate(outer, inner) {
        None => false,
        Some(marked) => {
            if marked != inner {
                set_type_of_service(packet, marked);
            }
            true
        }
    }
}

/// IPv4's type of service or IPv6's traffic class.
#[inline]
pub fn type_of_service(packet: &[u8]) -> Option<u8> {
    let &[first, second] = packet.first_chunk()?;
    match first >> 4 {
        4 => Some(second),
        6 => Some(first << 4 | second >> 4),
        _ => None,
    }
}

#[cold]
fn set_type_of_service(packet: &mut [u8], value: u8) {
    if packet.first().is_some_and(|first| first >> 4 == 6) {
        if let Some([first, second]) = packet.first_chunk_mut() {
            *first = *first & 0xf0 | value >> 4;
            *second = *second & 0x0f | value << 4;
        }
    } else if let Some([first, tos, .., c0, c1]) = packet.first_chunk_mut::<12>() {
        [*c0, *c1] = checksum::replace([*c0, *c1], [*first, *tos], [*first, value]);
        *tos = value;
    }
}

#[cfg(test)]
mod tests {
    use super::{super::testing::Packet, *};
    use crate::model::Family;

    #[test]
    fn every_pair_of_marks() {
        assert_eq!([0b00, 0b01, 0b10, 0b11].map(|mark| encapsulate(0xb8 | mark)), [0b00, 0b01, 0b10, 0b10]);
        let after =
            |outer| [0b00, 0b01, 0b10, 0b11].map(|inner| decapsulate(outer, 0xb8 | inner).map(|tos| tos & MASK));
        assert_eq!(after(NOT_ECT), [Some(0), Some(1), Some(2), Some(3)]);
        assert_eq!(after(ECT_0), [Some(0), Some(1), Some(2), Some(3)]);
        assert_eq!(after(ECT_1), [Some(0), Some(1), Some(1), Some(3)]);
        assert_eq!(after(CE), [None, Some(3), Some(3), Some(3)]);
        assert_eq!(decapsulate(CE, 0xba), Some(0xbb), "DSCP stays");
    }

    #[test]
    fn a_marked_packet_is_as_if_it_had_been_sent_so() {
        for family in [Family::V4, Family::V6] {
            let sent = Packet { family, tos: 0xb8 | ECT_0, ..Packet::default() };
            let mut octets = sent.octets();
            assert!(mark(&mut octets, CE));
            assert_eq!(octets, Packet { tos: 0xb8 | CE, ..sent }.octets());
            let mut deaf = Packet { family, ..Packet::default() }.octets();
            assert!(!mark(&mut deaf, CE));
        }
    }

    #[test]
    fn what_is_no_packet_is_left_alone() {
        for octets in [&mut [][..], &mut [0x45], &mut [0x60], &mut [0x45, 2, 0], &mut [0xff; 40]] {
            let before = octets.to_vec();
            assert!(mark(octets, CE));
            assert_eq!(octets, before);
        }
    }
}
