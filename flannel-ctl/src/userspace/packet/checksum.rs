//! The Internet checksum (RFC 1071) of headers and payloads, at the speed of memory.
//!
//! Sums are of native words as they lie in memory: byte order cancels out, and so a result goes back as native
//! octets. A sum is kept unfolded in 64 bits, to which no packet adds enough to overflow.

pub use flannel_common::checksum::fold;

/// Adds the words of `octets` to `sum`; an odd last octet counts as if a zero followed.
///
/// So only the last part of something summed in parts may have an odd length.
#[inline]
pub fn sum(octets: &[u8], sum: u64) -> u64 {
    let (blocks, rest) = octets.as_chunks::<64>();
    let (words, rest) = rest.as_chunks::<4>();
    let (pairs, rest) = rest.as_chunks::<2>();
    let mut total = sum + sum_blocks(blocks);
    for word in words {
        total += u64::from(u32::from_ne_bytes(*word));
    }
    for pair in pairs {
        total += u64::from(u16::from_ne_bytes(*pair));
    }
    if let [last] = rest {
        total += u64::from(u16::from_ne_bytes([*last, 0]));
    }
    total
}

/// Two chains of additions with carry keep the processor busier than vectors of halves do, which it would have to unpack.
#[inline]
fn sum_blocks(blocks: &[[u8; 64]]) -> u64 {
    let mut chains = [0_u128; 2];
    for block in blocks {
        add_block(&mut chains, block);
    }
    merged(chains)
}

#[inline]
fn add_block(chains: &mut [u128; 2], block: &[u8; 64]) {
    let (words, _) = block.as_chunks::<8>();
    for (at, word) in words.iter().enumerate() {
        chains[at & 1] += u128::from(u64::from_ne_bytes(*word));
    }
}

#[inline]
fn merged(chains: [u128; 2]) -> u64 {
    let total = chains[0] + chains[1];
    let words = [total, total >> 32, total >> 64, total >> 96];
    words.iter().map(|word| (word & 0xffff_ffff) as u64).sum()
}

/// As [`sum`], of what is copied on the way: once through memory for both.
///
/// # Panics
/// If the lengths differ.
#[inline]
pub fn copy(from: &[u8], to: &mut [u8], sum: u64) -> u64 {
    let (blocks, rest) = from.as_chunks::<64>();
    let (places, place) = to.as_chunks_mut::<64>();
    place.copy_from_slice(rest);
    let mut chains = [0_u128; 2];
    for (block, place) in blocks.iter().zip(places) {
        add_block(&mut chains, block);
        *place = *block;
    }
    self::sum(rest, sum + merged(chains))
}

/// The checksum for what was summed, as it stands in the packet.
#[inline]
pub const fn finish(sum: u64) -> [u8; 2] {
    (!fold(sum)).to_ne_bytes()
}

/// The same for UDP, where zero means that there is none: all ones says the same (RFC 768).
#[inline]
pub const fn finish_udp(sum: u64) -> [u8; 2] {
    match finish(sum) {
        [0, 0] => [0xff, 0xff],
        checksum => checksum,
    }
}

/// The part of the pseudo header that the packets of a flow share: addresses (both, as they stand in the header) and protocol.
#[inline]
pub fn pseudo(addresses: &[u8], protocol: u8) -> u64 {
    sum(addresses, u64::from(u16::from_ne_bytes([0, protocol])))
}

/// What a length adds to a pseudo header's sum.
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "no IP packet is longer than 32 bits say")]
pub const fn length(octets: usize) -> u64 {
    (octets as u32).to_be() as u64
}

/// The checksum after one 16-bit word of what it covers changed (RFC 1624, equation 3).
#[inline]
pub fn replace(checksum: [u8; 2], old: [u8; 2], new: [u8; 2]) -> [u8; 2] {
    let [checksum, old, new] = [checksum, old, new].map(u16::from_ne_bytes);
    finish(u64::from(!checksum) + u64::from(!old) + u64::from(new))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As RFC 1071 has it: sixteen bits at a time, carries added.
    fn plain(octets: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in octets.chunks(2) {
            sum += u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        u16::try_from(sum).unwrap()
    }

    #[test]
    fn the_sum_of_the_most_octets_that_there_are() {
        let octets = vec![0xff; 1 << 20];
        assert_eq!(fold(sum(&octets, u64::from(u32::MAX))), 0xffff);
    }

    #[test]
    fn udp_has_no_zero() {
        assert_eq!(finish(0xffff), [0, 0]);
        assert_eq!(finish_udp(0xffff), [0xff, 0xff]);
    }

    proptest! {
        #[test]
        fn words_sum_as_sixteen_bits_at_a_time(octets in proptest::collection::vec(any::<u8>(), 0..700)) {
            prop_assert_eq!(u16::from_be_bytes(fold(sum(&octets, 0)).to_ne_bytes()), plain(&octets));
        }

        #[test]
        fn what_is_copied_is_summed_as_it_lies(octets in proptest::collection::vec(any::<u8>(), 0..700), before: u32) {
            let mut copied = vec![0; octets.len()];
            prop_assert_eq!(fold(copy(&octets, &mut copied, before.into())), fold(sum(&octets, before.into())));
            prop_assert_eq!(copied, octets);
        }

        #[test]
        fn a_replaced_word_is_as_summed_anew(mut octets in proptest::collection::vec(any::<u8>(), 2..60), at: prop::sample::Index, new: [u8; 2]) {
            let at = at.index(octets.len() / 2) * 2;
            let before = finish(sum(&octets, 0));
            let old = [octets[at], octets[at + 1]];
            octets[at..at + 2].copy_from_slice(&new);
            let after = finish(sum(&octets, 0));
            let zeroes = octets.iter().all(|octet| *octet == 0);
            prop_assert!(replace(before, old, new) == after || zeroes);
        }
    }
}
