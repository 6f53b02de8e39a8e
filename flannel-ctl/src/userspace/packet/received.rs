//! What a received packet is, by its checksum and its length.
//!
//! On a real wire all packets are whole. But between hosts on one machine (veth) a kernel's packets arrive as they left:
//! with the checksum's field holding no more than the pseudo header's sum (`CHECKSUM_PARTIAL`), because no hardware ever completed it, and
//! not cut either. On the way through a UDP socket the mark that said so is lost.

use std::num::NonZeroU16;

use super::{
    checksum,
    layout::{Layout, TCP, UDP, flags::CWR},
    virtio::{Gso, GsoKind, PartialChecksum, VirtioHeader},
};
use crate::model::Family;

/// Smaller segments than these no TCP sends but by accident (RFC 9293: 536 less options).
const SMALLEST: usize = 88;

/// A packet's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// As it shall be; whether its checksum is right was not looked at.
    Whole,
    /// Its checksum is still to be completed.
    Partial,
    /// Still to be cut, too.
    Super(Gso),
    /// To be cut, but into what? A train of datagrams became one, and their size is not known.
    Unknown,
}

impl Received {
    /// Judges a packet for a device with this MTU.
    ///
    /// A field that equals the pseudo header's sum may, once in 65,536 packets, be the right checksum of a whole packet. Nothing is
    /// lost then: completed, it comes out the same.
    #[inline]
    pub fn of(layout: &Layout, packet: &[u8], mtu: u16) -> Self {
        let Some(field) = field(layout, packet) else { return Self::Whole };
        let checksum = u16::from_ne_bytes(field);
        if checksum != checksum::fold(pseudo(layout, packet)) || checksum == 0 {
            return Self::Whole;
        }
        if packet.len() <= usize::from(mtu) {
            return Self::Partial;
        }
        Self::of_long(layout, packet, mtu)
    }

    #[cold]
    fn of_long(layout: &Layout, packet: &[u8], mtu: u16) -> Self {
        if layout.protocol != TCP {
            return Self::Unknown;
        }
        let Some(octets) = layout.tcp_header_len(packet) else { return Self::Whole };
        let header_len = layout.transport + octets;
        let size = usize::from(mtu).saturating_sub(header_len).max(SMALLEST);
        let Some(size) = u16::try_from(size).ok().and_then(NonZeroU16::new) else { return Self::Unknown };
        if packet.len() - header_len <= usize::from(size.get()) {
            return Self::Partial;
        }
        let kind = match layout.family {
            Family::V4 => GsoKind::Tcp4,
            Family::V6 => GsoKind::Tcp6,
        };
        Self::Super(Gso { kind, size, ecn: packet[layout.transport + 13] & CWR != 0 })
    }

    /// What to tell the device about it.
    pub fn virtio(self, layout: &Layout) -> VirtioHeader {
        #[expect(clippy::cast_possible_truncation, reason = "an IP packet's offsets have sixteen bits")]
        let start = layout.transport as u16;
        let (offset, smallest) = if layout.protocol == TCP { (16, 20) } else { (6, 8) };
        let checksum = Some(PartialChecksum { start, offset });
        let header_len = start.saturating_add(smallest);
        match self {
            Self::Whole | Self::Unknown => VirtioHeader::default(),
            Self::Partial => VirtioHeader { checksum, gso: None, header_len },
            Self::Super(gso) => VirtioHeader { checksum, gso: Some(gso), header_len },
        }
    }
}

/// Whether the checksums are right: that of TCP or UDP, and IPv4's own. UDP's may be left out, which is not right here.
#[inline]
pub fn is_right(layout: &Layout, packet: &[u8]) -> bool {
    field(layout, packet).is_some_and(|field| layout.protocol == TCP || field != [0, 0])
        && adds_up(layout, packet, pseudo(layout, packet))
}

/// Whether it is [whole](Received::Whole) and [right](is_right), by one look at each part.
#[inline]
pub fn is_whole_and_right(layout: &Layout, packet: &[u8]) -> bool {
    let pseudo = pseudo(layout, packet);
    field(layout, packet).is_some_and(|field| field != checksum::fold(pseudo).to_ne_bytes() && field != [0, 0])
        && adds_up(layout, packet, pseudo)
}

/// Whether IPv4's header, and what is behind it with the pseudo header's sum, come to nothing.
#[inline]
fn adds_up(layout: &Layout, packet: &[u8], pseudo: u64) -> bool {
    let (Some(header), Some(covered)) = (packet.get(..layout.transport), packet.get(layout.transport..layout.total))
    else {
        return false;
    };
    (layout.family == Family::V6 || checksum::fold(checksum::sum(header, 0)) == 0xffff)
        && checksum::fold(checksum::sum(covered, pseudo)) == 0xffff
}

/// The checksum of a whole TCP or UDP header.
#[inline]
fn field(layout: &Layout, packet: &[u8]) -> Option<[u8; 2]> {
    let at = match layout.protocol {
        TCP => layout.tcp_header_len(packet).map(|_| layout.transport + 16),
        UDP => layout.has_udp_header(packet).then_some(layout.transport + 6),
        _ => None,
    }?;
    packet.get(at..)?.first_chunk().copied()
}

#[inline]
fn pseudo(layout: &Layout, packet: &[u8]) -> u64 {
    checksum::pseudo(layout.addresses(packet), layout.protocol) + checksum::length(layout.total - layout.transport)
}
