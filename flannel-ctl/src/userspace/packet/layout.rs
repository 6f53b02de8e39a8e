//! Where the headers of an inner packet are.
//!
//! Lengths are checked here, once: what a [`Layout`] names lies within the packet it was made of.

use std::ops::Range;

use crate::model::Family;

/// ICMP's protocol number.
pub const ICMP: u8 = 1;
/// TCP's protocol number.
pub const TCP: u8 = 6;
/// UDP's protocol number.
pub const UDP: u8 = 17;
/// ICMPv6's protocol number.
pub const ICMPV6: u8 = 58;

/// TCP's flags.
pub mod flags {
    pub const FIN: u8 = 0x01;
    pub const SYN: u8 = 0x02;
    pub const RST: u8 = 0x04;
    pub const PSH: u8 = 0x08;
    pub const ACK: u8 = 0x10;
    pub const URG: u8 = 0x20;
    pub const CWR: u8 = 0x80;
}

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION: u8 = 60;

/// The kernel reads no more of them either (`net.ipv6.max_dst_opts_number` and its like bound what is in them).
const MAX_EXTENSIONS: usize = 8;

/// An IP packet's parts, as offsets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The version.
    pub family: Family,
    /// Octets of the packet as its header says, not more than there are.
    pub total: usize,
    /// What comes after the IP headers: a transport protocol, or an extension that was not looked into.
    pub protocol: u8,
    /// Its first octet; not behind `total`.
    pub transport: usize,
    /// One of several fragments (or, in IPv6, with a fragment header): there may be no transport header.
    pub fragment: bool,
}

/// Octets of the fixed header.
pub const fn header_len(family: Family) -> usize {
    match family {
        Family::V4 => 20,
        Family::V6 => 40,
    }
}

/// Where source and destination are, one behind the other.
pub const fn addresses(family: Family) -> Range<usize> {
    match family {
        Family::V4 => 12..20,
        Family::V6 => 8..40,
    }
}

/// Why octets are no IP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// Neither version 4 nor 6, or nothing at all.
    #[error("not an IP packet")]
    NotIp,
    /// A header that ends behind the packet, or within itself.
    #[error("the IP header's length is wrong")]
    Header,
    /// Fewer octets than the header says.
    #[error("the packet is shorter than its header says")]
    Truncated,
}

impl Layout {
    /// Finds the headers of `packet`, which may be longer than its header says (padding).
    #[inline]
    pub fn of(packet: &[u8]) -> Result<Self, LayoutError> {
        match packet.first().map(|octet| octet >> 4) {
            Some(4) => Self::of_v4(packet),
            Some(6) => Self::of_v6(packet),
            _ => Err(LayoutError::NotIp),
        }
    }

    #[inline]
    fn of_v4(packet: &[u8]) -> Result<Self, LayoutError> {
        let header = packet.first_chunk::<20>().ok_or(LayoutError::Truncated)?;
        let transport = usize::from(header[0] & 0xf) * 4;
        let total = usize::from(u16::from_be_bytes([header[2], header[3]]));
        if transport < 20 || total < transport {
            return Err(LayoutError::Header);
        }
        if total > packet.len() {
            return Err(LayoutError::Truncated);
        }
        let fragment = u16::from_be_bytes([header[6], header[7]]) & 0x3fff != 0;
        Ok(Self { family: Family::V4, total, protocol: header[9], transport, fragment })
    }

    #[inline]
    fn of_v6(packet: &[u8]) -> Result<Self, LayoutError> {
        let header = packet.first_chunk::<40>().ok_or(LayoutError::Truncated)?;
        let total = 40 + usize::from(u16::from_be_bytes([header[4], header[5]]));
        let packet = packet.get(..total).ok_or(LayoutError::Truncated)?;
        let mut layout = Self { family: Family::V6, total, protocol: header[6], transport: 40, fragment: false };
        if layout.protocol != TCP && layout.protocol != UDP {
            layout.skip_extensions(packet);
        }
        Ok(layout)
    }

    /// As far as they can be followed; the first that cannot is left as the protocol.
    #[cold]
    fn skip_extensions(&mut self, packet: &[u8]) {
        for _ in 0..MAX_EXTENSIONS {
            let Some(&[next, length]) = packet.get(self.transport..).and_then(<[u8]>::first_chunk) else { return };
            let octets = match self.protocol {
                HOP_BY_HOP | ROUTING | DESTINATION => (usize::from(length) + 1) * 8,
                FRAGMENT => 8,
                _ => return,
            };
            if self.transport + octets > packet.len() {
                return;
            }
            self.fragment |= self.protocol == FRAGMENT;
            self.protocol = next;
            self.transport += octets;
        }
    }

    /// Octets of the TCP header, options included; none: there is no whole one.
    #[inline]
    pub fn tcp_header_len(&self, packet: &[u8]) -> Option<usize> {
        let octets = usize::from(packet.get(self.transport + 12)? >> 4) * 4;
        (self.protocol == TCP && !self.fragment && octets >= 20 && self.transport + octets <= self.total)
            .then_some(octets)
    }

    /// Whether there is a UDP header that says what the IP header does.
    #[inline]
    pub fn has_udp_header(&self, packet: &[u8]) -> bool {
        let Some(&[l0, l1]) = packet.get(self.transport + 4..self.total).and_then(<[u8]>::first_chunk) else {
            return false;
        };
        let octets = self.total - self.transport;
        self.protocol == UDP && !self.fragment && octets >= 8 && usize::from(u16::from_be_bytes([l0, l1])) == octets
    }

    /// The addresses, source first.
    #[inline]
    pub fn addresses<'p>(&self, packet: &'p [u8]) -> &'p [u8] {
        packet.get(addresses(self.family)).unwrap_or_default()
    }
}
