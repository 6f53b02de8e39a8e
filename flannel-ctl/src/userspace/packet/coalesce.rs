//! Puts trains of packets together to super-packets, by the rules of the kernel's GRO (`tcp_gro_receive`,
//! `udp_gro_receive_segment`, `inet_gro_flush` of Linux 6.18): only what cutting gives back is merged. One exception: equal
//! identifications of IPv4 packets that may not be fragmented mean nothing (RFC 6864), and come back counting up.
//!
//! Packets come by their place in the buffer of one receive batch; nothing is copied but the headers of what was merged. The memory
//! grows to what the largest batch needed, and is used again.
//!
//! The packets of a flow leave in the order in which they came. Those of different flows may pass one another.

use std::{num::NonZeroU16, ops::Range};

use super::{
    checksum,
    flows::{Flows, Tuple},
    layout::{self, Layout, LayoutError, TCP, UDP},
    received::{self, Received},
    virtio::{Gso, GsoKind, PartialChecksum, VirtioHeader},
};
use crate::model::Family;

/// The most pieces of one super-packet, headers not counted: well within what `writev` takes.
pub const MAX_PIECES: usize = 128;
/// The kernel cuts a UDP super-packet into no more (`UDP_GRO_CNT_MAX`).
const MAX_DATAGRAMS: u16 = 64;
/// An IP packet's longest.
const MAX_TOTAL: usize = 65_535;

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const PSH: u8 = 0x08;
const URG: u8 = 0x20;
const CWR: u8 = 0x80;

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

/// Packets of one receive batch, put together.
#[derive(Debug)]
pub struct Coalescer {
    limits: Limits,
    groups: Vec<Group>,
    pieces: Vec<Piece>,
    headers: Vec<u8>,
    flows: Flows,
    /// What is in it was given out; the next packet begins another batch.
    given: bool,
}

/// A packet, or several that became one.
#[derive(Clone, Copy, Debug)]
struct Group {
    /// The first packet's place.
    start: usize,
    layout: Layout,
    /// IP and transport headers of each.
    header_len: usize,
    /// Payload of each but the last.
    size: usize,
    payload: usize,
    count: u16,
    first_piece: u32,
    last_piece: u32,
    /// More may be appended.
    open: bool,
    /// The first packet's checksum was found right; not looked at before a second one comes.
    verified: bool,
    first_id: u16,
    fixed_id: bool,
    next_sequence: u32,
    /// TCP flags that the last packet brought.
    ending: u8,
    received: Received,
    /// Where the merged header is in the arena, if there is one.
    header: Option<u32>,
}

/// A payload's place, and the piece behind it.
#[derive(Clone, Copy, Debug)]
struct Piece {
    start: usize,
    len: usize,
    next: u32,
}

const NO_PIECE: u32 = u32::MAX;

impl Coalescer {
    /// For packets that go to a device with these limits.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            groups: Vec::with_capacity(64),
            pieces: Vec::with_capacity(1024),
            headers: Vec::with_capacity(64 * 100),
            flows: Flows::new(),
            given: false,
        }
    }

    /// Takes the inner packet at `place` of `batch`; one that is refused is not taken. Octets behind its end (padding) are left out.
    #[inline]
    pub fn push(&mut self, batch: &[u8], place: Range<usize>) -> Result<(), PushError> {
        self.push_sized(batch, place, None)
    }

    /// The same for a packet that is a super-packet itself, and whose segments' size the kernel told.
    #[inline]
    pub fn push_sized(&mut self, batch: &[u8], place: Range<usize>, size: Option<NonZeroU16>) -> Result<(), PushError> {
        if self.given {
            self.clear();
        }
        let start = place.start;
        let packet = batch.get(place).ok_or(LayoutError::Truncated)?;
        let layout = Layout::of(packet)?;
        let packet = packet.get(..layout.total).ok_or(LayoutError::Truncated)?;
        let received = Received::of(&layout, packet, self.limits.mtu, size);
        if received == Received::Unknown {
            return Err(PushError::Unknown);
        }
        let Some(tuple) = Tuple::of(&layout, packet) else {
            // Whichever flow it is of, it shall not be passed by what follows.
            self.flows.fence(layout.addresses(packet));
            self.alone(start, layout, packet, received);
            return Ok(());
        };
        let place = self.flows.find(&tuple);
        let joined = received == Received::Whole
            && place.group.is_some_and(|group| self.append(group, batch, start, &layout, packet));
        if !joined {
            let group = self.alone(start, layout, packet, received);
            self.flows.set(place, tuple, group);
        }
        Ok(())
    }

    /// Forgets all packets.
    pub fn clear(&mut self) {
        self.groups.clear();
        self.pieces.clear();
        self.headers.clear();
        self.flows.clear();
        self.given = false;
    }

    /// All packets, put together; then it is empty. `batch` is what they lie in.
    pub fn finish<'a>(&'a mut self, batch: &'a [u8]) -> impl ExactSizeIterator<Item = Super<'a>> {
        if self.given {
            self.clear();
        }
        self.given = true;
        for group in &mut self.groups {
            if group.count > 1 {
                group.write_header(batch, &mut self.headers);
            }
        }
        let (pieces, headers) = (&self.pieces[..], &self.headers[..]);
        self.groups.iter().map(move |group| Super {
            virtio: group.virtio(),
            header: group.header.and_then(|at| headers.get(at as usize..)?.get(..group.header_len)).unwrap_or_default(),
            pieces: Pieces { batch, all: pieces, next: group.first_piece },
        })
    }

    /// A group of its own, which later packets may join.
    fn alone(&mut self, start: usize, layout: Layout, packet: &[u8], received: Received) -> u32 {
        let mut group = Group {
            start,
            layout,
            header_len: 0,
            size: 0,
            payload: packet.len(),
            count: 1,
            first_piece: NO_PIECE,
            last_piece: NO_PIECE,
            open: false,
            verified: false,
            first_id: 0,
            fixed_id: false,
            next_sequence: 0,
            ending: 0,
            received,
            header: None,
        };
        if received == Received::Whole {
            group.open_for_more(packet, self.limits);
        }
        let piece = self.piece(start, packet.len());
        (group.first_piece, group.last_piece) = (piece, piece);
        self.groups.push(group);
        index(self.groups.len() - 1)
    }

    fn piece(&mut self, start: usize, len: usize) -> u32 {
        self.pieces.push(Piece { start, len, next: NO_PIECE });
        index(self.pieces.len() - 1)
    }

    /// Whether the packet went to the group's end. If not, the group is closed.
    #[inline]
    fn append(&mut self, at: u32, batch: &[u8], start: usize, layout: &Layout, packet: &[u8]) -> bool {
        let Some(group) = self.groups.get_mut(at as usize) else { return false };
        if !group.open {
            return false;
        }
        let Some(first) = batch.get(group.start..).and_then(|batch| batch.get(..group.layout.total)) else {
            return false;
        };
        if !group.takes(first, layout, packet) {
            group.open = false;
            return false;
        }
        if !group.verified {
            group.verified = received::is_right(&group.layout, first);
        }
        if !group.verified || !received::is_right(layout, packet) {
            group.open = false;
            return false;
        }
        let (header_len, last) = (group.header_len, group.last_piece);
        let payload = packet.len() - header_len;
        group.add(packet, payload);
        if group.count == 2
            && let Some(piece) = self.pieces.get_mut(group.first_piece as usize)
        {
            // The headers come from the arena from now on.
            piece.start += header_len;
            piece.len -= header_len;
        }
        let piece = self.piece(start + header_len, payload);
        if let Some(last) = self.pieces.get_mut(last as usize) {
            last.next = piece;
        }
        if let Some(group) = self.groups.get_mut(at as usize) {
            group.last_piece = piece;
        }
        true
    }
}

impl Group {
    /// What a first packet says about those that may follow.
    fn open_for_more(&mut self, packet: &[u8], limits: Limits) {
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

    /// Whether `packet`, of the same flow, may be appended, its checksum aside.
    #[inline]
    fn takes(&self, first: &[u8], layout: &Layout, packet: &[u8]) -> bool {
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

    fn add(&mut self, packet: &[u8], payload: usize) {
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
    fn write_header(&mut self, batch: &[u8], arena: &mut Vec<u8>) {
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
        self.header = Some(index(at));
    }

    fn virtio(&self) -> VirtioHeader {
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

/// A packet for the device: `virtio`, `header` and all `pieces`, one behind the other.
#[derive(Clone, Debug)]
pub struct Super<'a> {
    /// What the device is told about it.
    pub virtio: VirtioHeader,
    /// The headers of what was merged; empty if the first piece begins with them.
    pub header: &'a [u8],
    /// What comes after it.
    pub pieces: Pieces<'a>,
}

impl Super<'_> {
    /// Octets of the packet, the virtio header not counted.
    pub fn octets(&self) -> usize {
        self.header.len() + self.pieces.clone().map(<[u8]>::len).sum::<usize>()
    }
}

/// The parts of a packet in the batch, in order; at most [`MAX_PIECES`].
#[derive(Clone, Debug)]
pub struct Pieces<'a> {
    batch: &'a [u8],
    all: &'a [Piece],
    next: u32,
}

impl<'a> Iterator for Pieces<'a> {
    type Item = &'a [u8];

    #[inline]
    fn next(&mut self) -> Option<&'a [u8]> {
        let piece = self.all.get(self.next as usize)?;
        self.next = piece.next;
        self.batch.get(piece.start..)?.get(..piece.len)
    }
}

/// Why a packet was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PushError {
    /// No IP packet.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// A train of datagrams that became one on the way, of which nobody knows where each ends.
    #[error("a UDP super-packet whose datagrams' size is not known")]
    Unknown,
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
const fn short(octets: usize) -> u16 {
    octets as u16
}

#[expect(clippy::cast_possible_truncation, reason = "no IP packet is longer than sixteen bits say")]
const fn sequence_len(octets: usize) -> u32 {
    octets as u32
}

#[expect(clippy::cast_possible_truncation, reason = "no batch has so many packets")]
const fn index(at: usize) -> u32 {
    at as u32
}

#[cfg(test)]
#[path = "coalesce_tests.rs"]
mod tests;
