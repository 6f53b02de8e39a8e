//! Link-layer addresses.

use core::{fmt, str::FromStr};

use bytemuck::{Pod, Zeroable};

/// An Ethernet address, in transmission order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
#[repr(transparent)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// All zeroes: "no address" in kernel tables, and the VXLAN default destination's key.
    pub const ZERO: Self = Self([0; 6]);

    /// Group bit set (IEEE 802): multicast and broadcast.
    pub const fn is_multicast(self) -> bool {
        self.0[0] & 1 == 1
    }

    /// All zeroes.
    pub const fn is_zero(self) -> bool {
        matches!(self.0, [0, 0, 0, 0, 0, 0])
    }

    /// Usable as the address of one interface: neither zero nor a group address.
    pub const fn is_unicast(self) -> bool {
        !self.is_multicast() && !self.is_zero()
    }

    /// The same address made locally administered and unicast (IEEE 802: bit 1 set, bit 0 clear).
    #[must_use]
    pub const fn local(mut self) -> Self {
        self.0[0] = (self.0[0] | 0b10) & !1;
        self
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, octet) in self.0.iter().enumerate() {
            let separator = if at == 0 { "" } else { ":" };
            write!(f, "{separator}{octet:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text was not six hexadecimal octets joined by colons (or by dashes).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParseMacError;

impl fmt::Display for ParseMacError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not an Ethernet address (six hexadecimal octets joined by colons)")
    }
}

impl core::error::Error for ParseMacError {}

impl FromStr for Mac {
    type Err = ParseMacError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let separator = if text.contains('-') { '-' } else { ':' };
        let mut octets = [0; 6];
        let mut parts = text.split(separator);
        for octet in &mut octets {
            let part = parts.next().ok_or(ParseMacError)?;
            if part.len() != 2 || !part.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(ParseMacError);
            }
            *octet = u8::from_str_radix(part, 16).map_err(|_| ParseMacError)?;
        }
        if parts.next().is_some() {
            return Err(ParseMacError);
        }
        Ok(Self(octets))
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::string::ToString;

    #[test]
    fn text_round_trips_and_rejects_what_is_not_a_mac() {
        let mac: Mac = "46:82:fb:f7:52:6d".parse().unwrap();
        assert_eq!(mac.to_string(), "46:82:fb:f7:52:6d");
        assert_eq!("46-82-FB-F7-52-6D".parse(), Ok(mac));
        for bad in ["", "46:82:fb:f7:52", "46:82:fb:f7:52:6d:00", "+6:82:fb:f7:52:6d", "4682fbf7526d"] {
            assert_eq!(bad.parse::<Mac>(), Err(ParseMacError), "{bad}");
        }
    }

    #[test]
    fn local_is_unicast_and_locally_administered() {
        let mac = Mac([0xff; 6]).local();
        assert!(mac.is_unicast());
        assert_eq!(mac.0[0] & 0b11, 0b10);
        assert!(!Mac::ZERO.is_unicast());
    }
}
