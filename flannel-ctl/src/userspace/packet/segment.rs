//! Cuts a super-packet into the packets that belong on the wire, as the kernel's own segmentation would
//! (`tcp_gso_segment`, `__udp_gso_segment`, `inet_gso_segment` of Linux 6.18).
//!
//! They are written into an arena, one behind the other with room before each for the tunnel's own headers, so that a train of them goes to the
//! kernel in one piece: for many small ones it needs half as long again. Payloads are summed as they are copied. Nothing is allocated after
//! [`Cutter::new`].

use std::{ops::Range, slice::Chunks};

use super::{
    checksum,
    layout::{
        self, Layout, LayoutError, TCP, UDP,
        flags::{CWR, FIN, PSH},
    },
    virtio::{Gso, GsoKind, PartialChecksum, VirtioHeader},
};
use crate::model::Family;

/// Room for what comes of any super-packet whose segments are large enough to be sent; untouched memory costs nothing.
const ARENA: usize = 256 * 1024;
/// Before it, room for what is kept: less than a train.
const KEPT: usize = 64 * 1024;

const UDP_HEADER: usize = 8;

/// Cuts packets, one at a time.
#[derive(Debug)]
pub struct Cutter {
    arena: Box<[u8]>,
}

/// Why a packet cannot be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CutError {
    /// No IP packet.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// The checksum that is to be completed is not behind the IP header and within the packet.
    #[error("the place of the checksum is outside of what the packet carries")]
    ChecksumPlace,
    /// A super-packet whose length is not the one that its header says.
    #[error("the super-packet's length is not what its header says")]
    Length,
    /// To be cut by a protocol that is not the packet's.
    #[error("a packet of another protocol than that to cut by")]
    Protocol,
    /// To be cut, though a fragment.
    #[error("a fragment cannot be cut")]
    Fragment,
    /// The transport header ends behind the packet, or nothing comes after it.
    #[error("the transport header's length is wrong")]
    Transport,
    /// More headers than fit: very small segments behind very long headers.
    #[error("the headers of all segments need more than {ARENA} octets")]
    Headers,
}

/// The packets that came of one: each its headers, behind the room for the tunnel's, and its payload.
#[derive(Debug)]
pub struct Segments<'a> {
    /// One behind the other.
    all: &'a mut [u8],
    /// Octets of each but the last, which may have less.
    octets: usize,
    /// Room and headers of each.
    header_len: usize,
    len: usize,
}

impl Segments<'_> {
    /// How many; one at least.
    #[expect(clippy::len_without_is_empty, reason = "never empty")]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Octets of room and headers of each.
    pub const fn header_len(&self) -> usize {
        self.header_len
    }

    /// Octets of each but the last, which may have less: room, headers and payload.
    pub const fn octets(&self) -> usize {
        self.octets
    }

    /// Octets of all.
    pub const fn total(&self) -> usize {
        self.all.len()
    }

    /// Room and headers, and the payload, of each; to write to.
    #[inline]
    pub fn iter_mut(&mut self) -> impl ExactSizeIterator<Item = (&mut [u8], &mut [u8])> {
        let at = self.header_len;
        self.all.chunks_mut(self.octets).map(move |one| one.split_at_mut(at))
    }

    /// Room and headers, and the payload, of each.
    #[inline]
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&[u8], &[u8])> {
        self.all.chunks(self.octets).map(|one| one.split_at(self.header_len))
    }
}

impl Default for Cutter {
    fn default() -> Self {
        Self::new()
    }
}

impl Cutter {
    /// With memory for any packet's headers.
    pub fn new() -> Self {
        Self { arena: vec![0; KEPT + ARENA].into() }
    }

    /// The packets that `packet` stands for, each with `room` octets before its headers for the tunnel's own.
    ///
    /// A packet that is not to be cut comes back as one, with its checksum completed if that was left to do.
    #[inline]
    pub fn cut(&mut self, virtio: &VirtioHeader, packet: &[u8], room: usize) -> Result<Segments<'_>, CutError> {
        self.cut_behind(0, virtio, packet, room)
    }

    /// The same, behind so many octets that were [kept](Cutter::keep).
    ///
    /// # Panics
    /// If nobody can have kept so many.
    #[inline]
    pub fn cut_behind(
        &mut self,
        kept: usize,
        virtio: &VirtioHeader,
        packet: &[u8],
        room: usize,
    ) -> Result<Segments<'_>, CutError> {
        assert!(kept <= KEPT, "more than a train was kept");
        let arena = &mut self.arena[kept..kept + ARENA];
        let layout = Layout::of(packet)?;
        match virtio.gso {
            None => Self::single(arena, virtio.checksum, layout, packet, room),
            Some(gso) => Self::super_packet(arena, gso, virtio.checksum, layout, packet, room),
        }
    }

    /// What was cut last, and before it what was kept.
    ///
    /// # Panics
    /// If that is outside of all memory.
    pub fn octets(&self, place: Range<usize>) -> &[u8] {
        &self.arena[place]
    }

    /// Moves that to the beginning.
    ///
    /// # Panics
    /// As [`Cutter::octets`].
    pub fn keep(&mut self, place: Range<usize>) {
        self.arena.copy_within(place, 0);
    }

    fn single<'a>(
        arena: &'a mut [u8],
        partial: Option<PartialChecksum>,
        layout: Layout,
        packet: &[u8],
        room: usize,
    ) -> Result<Segments<'a>, CutError> {
        let packet = packet.get(..layout.total).unwrap_or(packet);
        let field = partial.map(|partial| usize::from(partial.start) + usize::from(partial.offset));
        let copied = layout::header_len(layout.family).max(field.map_or(0, |field| field + 2));
        if copied > packet.len() {
            return Err(CutError::ChecksumPlace);
        }
        let all = arena.get_mut(..room + packet.len()).ok_or(CutError::Headers)?;
        all[room..].copy_from_slice(packet);
        if let (Some(partial), Some(field)) = (partial, field) {
            // As skb_checksum_help: the field holds the pseudo header's sum, and zero becomes all ones.
            if usize::from(partial.start) < layout::header_len(layout.family) {
                return Err(CutError::ChecksumPlace);
            }
            let covered = packet.get(usize::from(partial.start)..).ok_or(CutError::ChecksumPlace)?;
            let complete = checksum::finish_udp(checksum::sum(covered, 0));
            all[room + field..room + field + 2].copy_from_slice(&complete);
        }
        Ok(Segments { octets: all.len(), all, header_len: room + copied, len: 1 })
    }

    fn super_packet<'a>(
        arena: &'a mut [u8],
        gso: Gso,
        partial: Option<PartialChecksum>,
        layout: Layout,
        packet: &[u8],
        room: usize,
    ) -> Result<Segments<'a>, CutError> {
        if layout.total != packet.len() {
            return Err(CutError::Length);
        }
        if layout.fragment {
            return Err(CutError::Fragment);
        }
        let (transport_len, field) = match (gso.kind, layout.family, layout.protocol) {
            (GsoKind::Tcp4, Family::V4, TCP) | (GsoKind::Tcp6, Family::V6, TCP) => (layout.tcp_header_len(packet), 16),
            (GsoKind::Udp, _, UDP) => (Some(UDP_HEADER), 6),
            (GsoKind::Tcp4 | GsoKind::Tcp6 | GsoKind::Udp, ..) => return Err(CutError::Protocol),
        };
        if let Some(PartialChecksum { start, offset }) = partial
            && (usize::from(start), offset) != (layout.transport, field)
        {
            return Err(CutError::ChecksumPlace);
        }
        let transport_len = transport_len.ok_or(CutError::Transport)?;
        let (head, payload) = packet.split_at_checked(layout.transport + transport_len).ok_or(CutError::Transport)?;
        if payload.is_empty() {
            return Err(CutError::Transport);
        }
        let size = usize::from(gso.size.get());
        let len = payload.len().div_ceil(size);
        let header_len = room + head.len();
        let all = arena.get_mut(..header_len * len + payload.len()).ok_or(CutError::Headers)?;

        let addresses = layout.addresses(packet);
        let mut segments = Segments { all, octets: header_len + size, header_len, len };
        let payloads = payload.chunks(size);
        match gso.kind {
            GsoKind::Tcp4 | GsoKind::Tcp6 => {
                let template = TcpTemplate::new(head, layout.transport, addresses);
                template.write(&mut segments, head, payloads, room);
            }
            GsoKind::Udp => write_udp(&mut segments, head, payloads, layout.transport, addresses, room),
        }
        match layout.family {
            Family::V4 => write_ipv4(&mut segments, head, layout.transport, room),
            Family::V6 => {
                for (header, payload) in segments.iter_mut() {
                    let octets = header.len() - room - 40 + payload.len();
                    set16(&mut header[room..], 4, octets);
                }
            }
        }
        Ok(segments)
    }
}

/// What the segments' TCP headers have in common.
struct TcpTemplate {
    transport: usize,
    sequence: u32,
    flags: u8,
    /// Pseudo header without length, TCP header without sequence number and checksum.
    sum: u64,
}

impl TcpTemplate {
    fn new(head: &[u8], transport: usize, addresses: &[u8]) -> Self {
        let tcp = &head[transport..];
        let sequence = u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]);
        let sum = checksum::sum(&tcp[..4], checksum::pseudo(addresses, TCP));
        // The flags are summed with each segment, because not all keep them.
        let sum = checksum::sum(&[tcp[12], 0, tcp[14], tcp[15]], checksum::sum(&tcp[8..12], sum));
        let sum = checksum::sum(&tcp[18..], sum);
        Self { transport, sequence, flags: tcp[13], sum }
    }

    fn write(&self, segments: &mut Segments<'_>, head: &[u8], payloads: Chunks<'_, u8>, room: usize) {
        let last = segments.len - 1;
        let mut sequence = self.sequence;
        for (at, ((header, place), payload)) in segments.iter_mut().zip(payloads).enumerate() {
            let mut flags = self.flags;
            if at != 0 {
                flags &= !CWR;
            }
            if at != last {
                flags &= !(FIN | PSH);
            }
            let header = &mut header[room..];
            header.copy_from_slice(head);
            let tcp = &mut header[self.transport..];
            tcp[4..8].copy_from_slice(&sequence.to_be_bytes());
            tcp[13] = flags;
            let sum = self.sum
                + u64::from(sequence.to_be())
                + u64::from(u16::from_ne_bytes([0, flags]))
                + checksum::length(tcp.len() + payload.len());
            let complete = checksum::finish(checksum::copy(payload, place, sum));
            tcp[16..18].copy_from_slice(&complete);
            #[expect(clippy::cast_possible_truncation, reason = "sequence numbers wrap")]
            {
                sequence = sequence.wrapping_add(payload.len() as u32);
            }
        }
    }
}

fn write_udp(
    segments: &mut Segments<'_>,
    head: &[u8],
    payloads: Chunks<'_, u8>,
    transport: usize,
    addresses: &[u8],
    room: usize,
) {
    let ports = &head[transport..transport + 4];
    let sum = checksum::sum(ports, checksum::pseudo(addresses, UDP));
    for ((header, place), payload) in segments.iter_mut().zip(payloads) {
        let header = &mut header[room..];
        header.copy_from_slice(head);
        let octets = UDP_HEADER + payload.len();
        let udp = &mut header[transport..];
        set16(udp, 4, octets);
        // The length stands in the pseudo header and in UDP's own.
        let sum = sum + 2 * checksum::length(octets);
        let complete = checksum::finish_udp(checksum::copy(payload, place, sum));
        udp[6..8].copy_from_slice(&complete);
    }
}

/// Lengths and checksums; the identification counts up, as the kernel has it even where nothing may be fragmented.
fn write_ipv4(segments: &mut Segments<'_>, head: &[u8], header_len: usize, room: usize) {
    let mut id = u16::from_be_bytes([head[4], head[5]]);
    let sum = checksum::sum(&head[12..header_len], checksum::sum(&head[6..10], checksum::sum(&head[..2], 0)));
    for (header, payload) in segments.iter_mut() {
        let header = &mut header[room..];
        let octets = header.len() + payload.len();
        set16(header, 2, octets);
        header[4..6].copy_from_slice(&id.to_be_bytes());
        let sum = sum + checksum::length(octets) + u64::from(id.to_be());
        header[10..12].copy_from_slice(&checksum::finish(sum));
        id = id.wrapping_add(1);
    }
}

/// A length field. All that is written is no longer than the super-packet, whose length is of 16 bits too.
fn set16(octets: &mut [u8], at: usize, value: usize) {
    #[expect(clippy::cast_possible_truncation, reason = "no segment is longer than the packet that it is cut from")]
    octets[at..at + 2].copy_from_slice(&(value as u16).to_be_bytes());
}

#[cfg(test)]
#[path = "segment_tests.rs"]
mod tests;
