//! PURE: the packet filter's rules as text, for whichever tool the host has.

pub mod guard;
pub mod iptables;
pub mod nft;
pub mod saved;

/// FNV-1a, 64 bits: names a text among a handful of others. Not for adversaries: who may write
/// to the packet filter needs no collision.
#[derive(Clone, Copy, Debug)]
pub struct Fingerprint(u64);

impl Fingerprint {
    pub const fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    /// Lengths are mixed in, so that two parts never read like one.
    pub fn add(&mut self, part: &[u8]) {
        for byte in part.iter().copied().chain((part.len() as u64).to_le_bytes()) {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    pub const fn value(self) -> u64 {
        self.0
    }
}

impl Default for Fingerprint {
    fn default() -> Self {
        Self::new()
    }
}
