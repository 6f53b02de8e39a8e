//! Congestion marks of received packets.

use flannel_common::ecn::{MASK, NOT_ECT, decapsulate};

use super::checksum;

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
    use flannel_common::ecn::{CE, ECT_0};

    use super::{super::testing::Packet, *};
    use crate::model::Family;

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
