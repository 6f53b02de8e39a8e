//! What tells one flow from another.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bytemuck::{Pod, Zeroable};

/// An IPv4 or IPv6 address: 16 octets in network order, read as four words as they lie in memory.
/// IPv4 is written the IPv4-mapped way (RFC 4291, 2.5.5.2), so that one map serves both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Pod, Zeroable)]
#[repr(transparent)]
pub struct Address(pub [u32; 4]);

/// The third word of an IPv4-mapped address.
const MAPPED: u32 = u32::from_be(0x0000_ffff);

impl Address {
    /// The IPv4 address whose four octets lie in memory as `word`.
    #[inline]
    pub const fn v4(word: u32) -> Self {
        Self([0, 0, MAPPED, word])
    }

    /// The four octets of an IPv4 address, as they lie in memory.
    #[inline]
    pub const fn v4_word(self) -> u32 {
        self.0[3]
    }

    /// Is it an IPv4-mapped address?
    #[inline]
    pub const fn is_v4(self) -> bool {
        self.0[0] == 0 && self.0[1] == 0 && self.0[2] == MAPPED
    }

    /// With all but the bits of `mask` cleared.
    #[inline]
    #[must_use]
    pub const fn masked(self, mask: Self) -> Self {
        Self([self.0[0] & mask.0[0], self.0[1] & mask.0[1], self.0[2] & mask.0[2], self.0[3] & mask.0[3]])
    }

    /// The mask for prefixes of this length, counted in the address's own family.
    pub fn mask(v4: bool, length: u8) -> Self {
        let bits = u32::from(length) + if v4 { 96 } else { 0 };
        let mask = if bits == 0 { 0 } else { u128::MAX << (128 - bits.min(128)) };
        Self(bytemuck::cast(mask.to_be_bytes()))
    }
}

impl From<IpAddr> for Address {
    fn from(address: IpAddr) -> Self {
        let octets = match address {
            IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
            IpAddr::V6(v6) => v6.octets(),
        };
        Self(bytemuck::cast(octets))
    }
}

impl From<Address> for IpAddr {
    fn from(address: Address) -> Self {
        let octets: [u8; 16] = bytemuck::cast(address.0);
        if address.is_v4() {
            Self::V4(Ipv4Addr::new(octets[12], octets[13], octets[14], octets[15]))
        } else {
            Self::V6(Ipv6Addr::from(octets))
        }
    }
}

/// Addresses, ports and protocol of one direction of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Pod, Zeroable)]
#[repr(C)]
pub struct Tuple {
    /// Who sends.
    pub source: Address,
    /// Who receives.
    pub destination: Address,
    /// Network byte order.
    pub source_port: u16,
    /// Network byte order.
    pub destination_port: u16,
    /// IP protocol number: 6 or 17.
    pub protocol: u32,
}

impl Tuple {
    /// Thirty-two bits of it, spread evenly enough to index a table; an attacker can make two alike.
    #[inline]
    pub const fn hash(&self) -> u32 {
        const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
        let (s, d) = (self.source.0, self.destination.0);
        let mut hash = ((s[3] as u64) << 32 | d[3] as u64).wrapping_mul(ODD);
        hash ^= (s[2] as u64) << 32 | d[2] as u64;
        hash = (hash ^ (hash >> 29)).wrapping_mul(ODD);
        hash ^= (s[1] as u64) << 32 | d[1] as u64;
        hash ^= ((s[0] as u64) << 32 | d[0] as u64).rotate_left(17);
        hash = (hash ^ (hash >> 31)).wrapping_mul(ODD);
        hash ^= (self.source_port as u64) << 32 | (self.destination_port as u64) << 8 | self.protocol as u64;
        hash = (hash ^ (hash >> 29)).wrapping_mul(ODD);
        (hash >> 32) as u32
    }

    /// The tuple of the answers.
    #[inline]
    #[must_use]
    pub const fn reversed(&self) -> Self {
        Self {
            source: self.destination,
            destination: self.source,
            source_port: self.destination_port,
            destination_port: self.source_port,
            protocol: self.protocol,
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;

    #[test]
    fn addresses_survive_and_masks_count_in_their_own_family() {
        let v4: IpAddr = "10.5.48.7".parse().unwrap();
        let v6: IpAddr = "2001:db8:1:2::7".parse().unwrap();
        assert_eq!(IpAddr::from(Address::from(v4)), v4);
        assert_eq!(IpAddr::from(Address::from(v6)), v6);
        assert_eq!(Address::from(v4), Address::v4(u32::from_ne_bytes([10, 5, 48, 7])));
        let net = |address: &str, length| Address::from(address.parse::<IpAddr>().unwrap()).masked(length);
        assert_eq!(IpAddr::from(net("10.5.48.7", Address::mask(true, 24))), "10.5.48.0".parse::<IpAddr>().unwrap());
        assert_eq!(
            IpAddr::from(net("2001:db8:1:2::7", Address::mask(false, 48))),
            "2001:db8:1::".parse::<IpAddr>().unwrap()
        );
        assert_eq!(Address::mask(false, 0), Address([0; 4]));
        assert_eq!(Address::mask(true, 32), Address([u32::MAX; 4]));
    }
}
