//! The Internet checksum (RFC 1071) over words as they lie in memory: byte order cancels out.

pub use flannel_common::checksum::fold;

/// Sum of 32-bit words, not folded yet.
#[inline(always)]
#[expect(clippy::inline_always, reason = "a BPF-to-BPF call costs stack that the programs do not have")]
pub fn sum(words: &[u32]) -> u64 {
    words.iter().map(|word| u64::from(*word)).sum()
}

/// What to add to a sum of data in which some words changed, 32 bits with the carry brought around.
#[inline(always)]
#[expect(clippy::inline_always, reason = "a BPF-to-BPF call costs stack that the programs do not have")]
#[expect(clippy::cast_possible_truncation, reason = "folded: no more than 32 bits are left")]
pub fn difference(before: &[u32], after: &[u32]) -> u32 {
    let sum: u64 = before.iter().zip(after).map(|(before, after)| u64::from(!*before) + u64::from(*after)).sum();
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    ((sum & 0xffff_ffff) + (sum >> 32)) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_takes_one_sum_to_the_other() {
        let (before, after) = ([0x1234_5678, 0, u32::MAX, 7], [0xffff_0001, 5, 0, 0x8000_0000]);
        let changed = sum(&before) + u64::from(difference(&before, &after));
        assert_eq!(fold(changed), fold(sum(&after)));
        assert_eq!(fold(u64::from(difference(&before, &before))), 0xffff, "minus zero");
    }

    /// The example header of RFC 1071's companions: 45 00 00 73 00 00 40 00 40 11 b8 61 c0 a8 00 01 c0 a8 00 c7.
    #[test]
    fn a_right_header_sums_to_all_ones() {
        let octets = [
            [0x45, 0x00, 0x00, 0x73],
            [0x00, 0x00, 0x40, 0x00],
            [0x40, 0x11, 0xb8, 0x61],
            [0xc0, 0xa8, 0x00, 0x01],
            [0xc0, 0xa8, 0x00, 0xc7],
        ];
        let words = octets.map(u32::from_ne_bytes);
        assert_eq!(fold(sum(&words)), 0xffff);
        let mut without = octets;
        (without[2][2], without[2][3]) = (0, 0);
        assert_eq!((!fold(sum(&without.map(u32::from_ne_bytes)))).to_ne_bytes(), [0xb8, 0x61]);
    }
}
