//! Congestion marks of tunnelled packets, as far as all kernels handle them alike.

pub use flannel_common::ecn::encapsulate;
use flannel_common::ecn::{CE, ECT_0, MASK, NOT_ECT};

/// The inner type of service after the tunnel. `None`: the kernel would drop the packet, complain, or set marks that not
/// every kernel sets alike, so it shall decide.
#[inline]
pub const fn decapsulate(outer: u8, inner: u8) -> Option<u8> {
    match (outer & MASK, inner & MASK) {
        (NOT_ECT, _) | (ECT_0, ECT_0 | CE) => Some(inner),
        (CE, NOT_ECT) => None,
        (CE, _) => Some(inner | CE),
        (out, within) if out == within => Some(inner),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use flannel_common::ecn::ECT_1;

    use super::*;

    #[test]
    fn every_pair_of_marks() {
        let after =
            |outer| [0b00, 0b01, 0b10, 0b11].map(|inner| decapsulate(outer, 0xb8 | inner).map(|tos| tos & MASK));
        assert_eq!(after(NOT_ECT), [Some(0), Some(1), Some(2), Some(3)]);
        assert_eq!(after(ECT_0), [None, None, Some(2), Some(3)]);
        assert_eq!(after(ECT_1), [None, Some(1), None, None]);
        assert_eq!(after(CE), [None, Some(3), Some(3), Some(3)]);
        assert_eq!(decapsulate(CE, 0xba), Some(0xbb), "DSCP stays");
    }

    #[test]
    fn what_is_not_left_to_the_kernel_is_as_the_kernel_has_it() {
        for (outer, inner) in (0..=CE).flat_map(|outer| (0..=CE).map(move |inner| (outer, inner))) {
            let ours = decapsulate(outer, inner);
            assert!(ours.is_none() || ours == flannel_common::ecn::decapsulate(outer, inner), "{outer} {inner}");
        }
    }
}
