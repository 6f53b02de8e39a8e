//! Time to live and hop limit, where a tunnel counts as a hop: flannel's `udp` backend takes one on each side.

use super::checksum;

/// Takes one. False: there is none left, the packet is to be dropped.
#[inline]
pub fn decrement(packet: &mut [u8]) -> bool {
    match packet.first().map(|first| first >> 4) {
        Some(4) => match packet.first_chunk_mut::<12>() {
            Some([.., ttl, protocol, c0, c1]) if *ttl > 1 => {
                [*c0, *c1] = checksum::replace([*c0, *c1], [*ttl, *protocol], [*ttl - 1, *protocol]);
                *ttl -= 1;
                true
            }
            _ => false,
        },
        Some(6) => match packet.get_mut(7) {
            Some(limit) if *limit > 1 => {
                *limit -= 1;
                true
            }
            _ => false,
        },
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::{super::testing::Packet, *};
    use crate::model::Family;

    #[test]
    fn one_is_taken_and_the_last_is_not_given() {
        for family in [Family::V4, Family::V6] {
            for ttl in [255, 64, 2] {
                let packet = Packet { family, ttl, ..Packet::default() };
                let mut octets = packet.octets();
                assert!(decrement(&mut octets));
                assert_eq!(octets, Packet { ttl: ttl - 1, ..packet }.octets());
            }
            for ttl in [1, 0] {
                assert!(!decrement(&mut Packet { family, ttl, ..Packet::default() }.octets()));
            }
        }
    }

    #[test]
    fn what_is_no_packet_has_no_time_left() {
        for octets in [&mut [][..], &mut [0x45; 11], &mut [0x60; 7], &mut [0x00; 40]] {
            assert!(!decrement(octets));
        }
    }
}
