//! One super-packet as it grows: which packets it takes, and the headers that it leaves with.

use std::num::NonZeroU16;

use super::{
    checksum,
    layout::{
        self, Layout, TCP, UDP,
        flags::{CWR, FIN, PSH, RST, SYN, URG},
    },
    received::Received,
    virtio::{Gso, GsoKind, PartialChecksum, VirtioHeader},
};
use crate::model::Family;

/// The kernel cuts a UDP super-packet into no more (`UDP_GRO_CNT_MAX`).
const MAX_DATAGRAMS: u16 = 64;
/// An IP packet's longest.
const MAX_TOTAL: usize = 65_535;

/// The most pieces of one super-packet, headers not counted: well within what `writev` takes.
pub const MAX_PIECES: usize = 128;

/// What the device that takes the packets can do, and how long its packets are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Its MTU: the size of segments is derived from it where nothing else says.
    pub mtu: u16,
    /// TCP super-packets are taken.
    pub tso: bool,
    /// UDP super-packets are taken.
    pub uso: bool,
}

/// A packet, or several that became one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Group {
    /// The first packet's place.
    pub(super) start: usize,
    pub(super) layout: Layout,
    /// IP and transport headers of each.
    pub(super) header_len: usize,
    /// Payload of each but the last.
    pub(super) size: usize,
    pub(super) payload: usize,
    pub(super) count: u16,
    pub(super) first_piece: u32,
    pub(super) last_piece: u32,
    /// More may be appended.
    pub(super) open: bool,
    /// The first packet's checksum was found right; not looked at before a second one comes.
    pub(super) verified: bool,
    pub(super) first_id: u16,
    pub(super) fixed_id: bool,
    pub(super) next_sequence: u32,
    /// TCP flags that the last packet brought.
    pub(super) ending: u8,
    pub(super) received: Received,
    /// Where the merged header is in the arena, if there is one.
    pub(super) header: Option<u32>,
}

impl Group {
    /// What a first packet says about those that may follow.
    pub(super) fn open_for_more(&mut self, packet: &[u8], limits: Limits) {
        let layout = &self.layout;
        // The kernel merges no packets with IPv4 options; IPv6 extensions are rare enough to be left alone, too.
        if layout.transport != layout::header_len(layout.family) {
            return;
        }
        match layout.protocol {
            TCP if limits.tso => {
                let Some(octets) = layout.tcp_header_len(packet) else { return };
                let tcp = &packet[layout.transport..];
                self.header_len = layout.transport + octets;
                self.size = packet.len() - self.header_len;
                self.ending = tcp[13] & (FIN | PSH);
                self.next_sequence = sequence(tcp).wrapping_add(sequence_len(self.size));
                self.open = self.size > 0 && tcp[13] & (FIN | SYN | RST | PSH | URG | CWR) == 0;
            }
            UDP if limits.uso && layout.has_udp_header(packet) => {
                self.header_len = layout.transport + 8;
                self.size = packet.len() - self.header_len;
                // Without a checksum there is none to give back.
                self.open = self.size > 0 && packet[layout.transport + 6..self.header_len] != [0, 0];
            }
            _ => {}
        }
        self.payload = self.size;
        self.first_id = id(packet);
    }

    /// The packet that it began with.
    #[inline]
    pub(super) fn first<'a>(&self, batch: &'a [u8]) -> Option<&'a [u8]> {
        batch.get(self.start..)?.get(..self.layout.total)
    }

    /// The layout of a packet of the same flow whose headers lie as those of the first one do, and without padding. Only of an open group.
    #[inline]
    pub(super) fn layout_if_alike(&self, first: &[u8], packet: &[u8]) -> Option<Layout> {
        let (ip, transport) = packet.split_at_checked(self.layout.transport)?;
        let (first_ip, first_transport) = first.split_at_checked(self.layout.transport)?;
        let alike = match self.layout.family {
            // Without options: version and length of the header, length, flags and no fragment, protocol, addresses.
            Family::V4 => {
                let (ip, first_ip) = (ip.first_chunk::<20>()?, first_ip.first_chunk::<20>()?);
                ip[0] == first_ip[0]
                    && usize::from(u16::from_be_bytes([ip[2], ip[3]])) == packet.len()
                    && ip[6..8] == first_ip[6..8]
                    && ip[9] == first_ip[9]
                    && ip[12..20] == first_ip[12..20]
            }
            // Without extensions.
            Family::V6 => {
                let (ip, first_ip) = (ip.first_chunk::<40>()?, first_ip.first_chunk::<40>()?);
                ip[0] == first_ip[0]
                    && usize::from(u16::from_be_bytes([ip[4], ip[5]])) + 40 == packet.len()
                    && ip[6] == first_ip[6]
                    && ip[8..40] == first_ip[8..40]
            }
        };
        let ports = transport.first_chunk::<4>()?;
        (alike && first_transport.first_chunk() == Some(ports)).then_some(Layout { total: packet.len(), ..self.layout })
    }

    /// Whether `packet`, of the same flow, may be appended, its checksum aside.
    #[inline]
    pub(super) fn takes(&self, first: &[u8], layout: &Layout, packet: &[u8]) -> bool {
        let Some(payload) = packet.len().checked_sub(self.header_len) else { return false };
        if layout.transport != self.layout.transport
            || payload == 0
            || payload > self.size
            || self.header_len + self.payload + payload > MAX_TOTAL
        {
            return false;
        }
        let (ip, transport) = packet.split_at(layout.transport);
        let (first_ip, first_transport) = first.split_at(layout.transport);
        let same_ip = match layout.family {
            Family::V4 => {
                // Version, length of the header and type of service; reserved bit, DF and no fragment; time to live.
                ip[..2] == first_ip[..2] && ip[6..9] == first_ip[6..9] && self.follows(id(ip), ip[6] & 0x40 != 0)
            }
            // Version, traffic class and flow label; hop limit.
            Family::V6 => ip[..4] == first_ip[..4] && ip[7] == first_ip[7],
        };
        if !same_ip {
            return false;
        }
        match layout.protocol {
            TCP => {
                layout.tcp_header_len(packet) == Some(self.header_len - layout.transport)
                    && usize::from(self.count) < MAX_PIECES
                    && sequence(transport) == self.next_sequence
                    // Acknowledgement; header length and reserved bits; window and urgent pointer; options.
                    && transport[8..13] == first_transport[8..13]
                    && transport[14..16] == first_transport[14..16]
                    && transport[18..self.header_len - layout.transport]
                        == first_transport[18..self.header_len - layout.transport]
                    && (transport[13] ^ first_transport[13]) & !(FIN | PSH) == 0
            }
            UDP => self.count < MAX_DATAGRAMS && layout.has_udp_header(packet) && transport[6..8] != [0, 0],
            _ => false,
        }
    }

    /// Whether an identification continues the train: counting up, or always the same where nothing may be fragmented.
    fn follows(&self, id: u16, unfragmentable: bool) -> bool {
        let offset = id.wrapping_sub(self.first_id);
        let fixed = if self.count == 1 { unfragmentable && offset == 0 } else { self.fixed_id };
        offset == if fixed { 0 } else { self.count }
    }

    pub(super) fn add(&mut self, packet: &[u8], payload: usize) {
        if self.count == 1 && self.layout.family == Family::V4 {
            // Only where this may be is it taken at all.
            self.fixed_id = self.first_id == id(packet);
        }
        self.count += 1;
        self.payload += payload;
        self.open = payload == self.size;
        if self.layout.protocol == TCP {
            let flags = packet[self.layout.transport + 13];
            self.ending = flags & (FIN | PSH);
            self.next_sequence = self.next_sequence.wrapping_add(sequence_len(payload));
            self.open &= self.ending == 0;
        }
    }

    /// The header of all, with the checksum left to be completed.
    pub(super) fn write_header(&mut self, batch: &[u8], arena: &mut Vec<u8>) {
        let Some(header) = batch.get(self.start..).and_then(|batch| batch.get(..self.header_len)) else { return };
        let at = arena.len();
        arena.extend_from_slice(header);
        let total = self.header_len + self.payload;
        let header = &mut arena[at..];
        let transport = self.layout.transport;
        match self.layout.family {
            Family::V4 => {
                let new = length(total);
                let check = checksum::replace([header[10], header[11]], [header[2], header[3]], new);
                header[2..4].copy_from_slice(&new);
                header[10..12].copy_from_slice(&check);
            }
            Family::V6 => header[4..6].copy_from_slice(&length(total - 40)),
        }
        let sum = checksum::pseudo(&header[layout::addresses(self.layout.family)], self.layout.protocol);
        let pseudo = checksum::fold(sum + checksum::length(total - transport)).to_ne_bytes();
        let field = if self.layout.protocol == TCP {
            header[transport + 13] |= self.ending;
            16
        } else {
            header[transport + 4..transport + 6].copy_from_slice(&length(total - transport));
            6
        };
        header[transport + field..transport + field + 2].copy_from_slice(&pseudo);
        self.header = u32::try_from(at).ok();
    }

    pub(super) fn virtio(&self) -> VirtioHeader {
        if self.count == 1 {
            return self.received.virtio(&self.layout);
        }
        let (kind, offset) = match (self.layout.protocol, self.layout.family) {
            (TCP, Family::V4) => (GsoKind::Tcp4, 16),
            (TCP, Family::V6) => (GsoKind::Tcp6, 16),
            _ => (GsoKind::Udp, 6),
        };
        VirtioHeader {
            checksum: Some(PartialChecksum { start: short(self.layout.transport), offset }),
            gso: NonZeroU16::new(short(self.size)).map(|size| Gso { kind, size, ecn: false }),
            header_len: short(self.header_len),
        }
    }
}

fn sequence(tcp: &[u8]) -> u32 {
    tcp.get(4..).and_then(<[u8]>::first_chunk).copied().map_or(0, u32::from_be_bytes)
}

fn id(ip: &[u8]) -> u16 {
    ip.get(4..).and_then(<[u8]>::first_chunk).copied().map_or(0, u16::from_be_bytes)
}

fn length(octets: usize) -> [u8; 2] {
    short(octets).to_be_bytes()
}

/// Lengths and offsets within a packet; none is longer than [`MAX_TOTAL`].
#[expect(clippy::cast_possible_truncation, reason = "no IP packet is longer than sixteen bits say")]
pub(super) const fn short(octets: usize) -> u16 {
    octets as u16
}

#[expect(clippy::cast_possible_truncation, reason = "no IP packet is longer than sixteen bits say")]
pub(super) const fn sequence_len(octets: usize) -> u32 {
    octets as u32
}
