//! Puts trains of packets together to super-packets, by the rules of the kernel's GRO (`tcp_gro_receive`,
//! `udp_gro_receive_segment`, `inet_gro_flush` of Linux 6.18): only what cutting gives back is merged. One exception: equal
//! identifications of IPv4 packets that may not be fragmented mean nothing (RFC 6864), and come back counting up.
//!
//! Packets come by their place in the buffer of one receive batch; nothing is copied but the headers of what was merged. The memory
//! grows to what the largest batch needed, and is used again.
//!
//! The packets of a flow leave in the order in which they came. Those of different flows may pass one another.

use std::{mem, ops::Range};

pub use super::group::{Limits, MAX_PIECES};
use super::{
    flows::{Flows, Tuple},
    group::Group,
    layout::{Layout, LayoutError},
    received::{self, Received},
    virtio::VirtioHeader,
};

/// Packets of one receive batch, put together.
#[derive(Debug)]
pub struct Coalescer {
    limits: Limits,
    groups: Vec<Group>,
    pieces: Vec<Piece>,
    headers: Vec<u8>,
    flows: Flows,
    /// The group that the last packet went to, if the next of its flow may.
    last: Option<u32>,
    /// What is in it was given out; the next packet begins another batch.
    given: bool,
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
            last: None,
            given: false,
        }
    }

    /// Takes the inner packet at `place` of `batch`; one that is refused is not taken. Octets behind its end (padding) are left out.
    #[inline]
    pub fn push(&mut self, batch: &[u8], place: Range<usize>) -> Result<(), PushError> {
        if self.given {
            self.clear();
        }
        let start = place.start;
        let packet = batch.get(place).ok_or(LayoutError::Truncated)?;
        if self.follow(batch, start, packet) {
            return Ok(());
        }
        self.last = None;
        let layout = Layout::of(packet)?;
        let packet = packet.get(..layout.total).ok_or(LayoutError::Truncated)?;
        let received = Received::of(&layout, packet, self.limits.mtu);
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
        let joined = place
            .group
            .filter(|group| received == Received::Whole && self.append(*group, batch, start, &layout, packet));
        self.last = joined.or_else(|| {
            let group = self.alone(start, layout, packet, received);
            self.flows.set(place, tuple, group);
            Some(group)
        });
        Ok(())
    }

    /// Whether the packet was the one that the last one is followed by in a train, and was appended: what [`Coalescer::push`] would have done, but
    /// found out by less.
    #[inline]
    fn follow(&mut self, batch: &[u8], start: usize, packet: &[u8]) -> bool {
        let Some(at) = self.last else { return false };
        let Some(group) = self.groups.get(at as usize) else { return false };
        let follows = group.open
            && group.verified
            && group.first(batch).is_some_and(|first| {
                group.layout_if_alike(first, packet).is_some_and(|layout| {
                    group.takes(first, &layout, packet) && received::is_whole_and_right(&layout, packet)
                })
            });
        if follows {
            self.add(at, start, packet);
        }
        follows
    }

    /// Forgets all packets.
    pub fn clear(&mut self) {
        self.groups.clear();
        self.pieces.clear();
        self.headers.clear();
        self.flows.clear();
        self.last = None;
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
        let Some(first) = group.first(batch) else { return false };
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
        self.add(at, start, packet);
        true
    }

    /// Puts a packet that fits to a group's end.
    #[inline]
    fn add(&mut self, at: u32, start: usize, packet: &[u8]) {
        let next = index(self.pieces.len());
        let Some(group) = self.groups.get_mut(at as usize) else { return };
        let (header_len, last) = (group.header_len, mem::replace(&mut group.last_piece, next));
        let payload = packet.len() - header_len;
        group.add(packet, payload);
        if group.count == 2
            && let Some(piece) = self.pieces.get_mut(group.first_piece as usize)
        {
            // The headers come from the arena from now on.
            piece.start += header_len;
            piece.len -= header_len;
        }
        if let Some(last) = self.pieces.get_mut(last as usize) {
            last.next = next;
        }
        self.piece(start + header_len, payload);
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

impl<'a> Super<'a> {
    /// The packet, if it is one that was not merged.
    pub fn single(&self) -> Option<&'a [u8]> {
        if self.header.is_empty() { self.pieces.clone().next() } else { None }
    }

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

#[expect(clippy::cast_possible_truncation, reason = "no batch has so many packets")]
const fn index(at: usize) -> u32 {
    at as u32
}

#[cfg(test)]
#[path = "coalesce_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "coalesce_properties.rs"]
mod properties;
