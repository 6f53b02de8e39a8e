//! The Internet checksum (RFC 1071). Sums are of words as they lie in memory: byte order cancels out.

/// Sixteen bits of a sum of 32-bit words, or of smaller ones.
#[inline(always)]
#[expect(clippy::inline_always, reason = "a BPF-to-BPF call costs stack that the programs do not have")]
pub const fn fold(sum: u64) -> u16 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    #[expect(clippy::cast_possible_truncation, reason = "folded: no more than sixteen bits are left")]
    return sum as u16;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn carries_come_around() {
        for (sum, folded) in [(0, 0), (0xffff, 0xffff), (0x1_0000, 1), (0x1_ffff, 1), (u64::MAX, 0xffff)] {
            assert_eq!(fold(sum), folded, "{sum:#x}");
        }
    }
}
