//! Congestion marks of tunnelled packets, as the kernel's VXLAN device handles them
//! (`INET_ECN_encapsulate` and `INET_ECN_decapsulate`, `include/net/inet_ecn.h`, 6.18; RFC 6040).

/// The two bits of a type of service that are the mark.
pub const MASK: u8 = 0b11;
/// Not able to be told of congestion.
pub const NOT_ECT: u8 = 0b00;
/// Able, the other way to say so.
pub const ECT_1: u8 = 0b01;
/// Able.
pub const ECT_0: u8 = 0b10;
/// Congestion experienced.
pub const CE: u8 = 0b11;

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

#[cfg(test)]
mod tests {
    use super::*;

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
}
