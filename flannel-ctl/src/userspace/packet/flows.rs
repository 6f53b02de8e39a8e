//! The latest packet of each flow in a batch: the one that the next may be merged with.
//!
//! Small and of fixed size. A flow that finds no place only is merged less.

use super::layout::{Layout, TCP, UDP};
use crate::model::Family;

const SLOTS: usize = 512;
const TRIES: usize = 4;
const FENCES: usize = 256;

/// What the packets of a flow have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tuple {
    source: u128,
    destination: u128,
    ports: u32,
    protocol: u8,
    family: Family,
}

impl Tuple {
    /// None: no TCP or UDP, or a fragment of it.
    #[inline]
    pub(super) fn of(layout: &Layout, packet: &[u8]) -> Option<Self> {
        if layout.fragment || !matches!(layout.protocol, TCP | UDP) {
            return None;
        }
        let ports = u32::from_ne_bytes(*packet.get(layout.transport..)?.first_chunk()?);
        let (source, destination) = addresses(layout.addresses(packet));
        Some(Self { source, destination, ports, protocol: layout.protocol, family: layout.family })
    }

    #[inline]
    fn hash(&self) -> usize {
        mix(self.source, self.destination, u64::from(self.ports) << 8 | u64::from(self.protocol))
    }
}

#[inline]
fn addresses(octets: &[u8]) -> (u128, u128) {
    let (source, destination) = octets.split_at(octets.len() / 2);
    let word = |octets: &[u8]| match *octets {
        [a, b, c, d] => u128::from(u32::from_ne_bytes([a, b, c, d])),
        _ => octets.first_chunk().map_or(0, |octets| u128::from_ne_bytes(*octets)),
    };
    (word(source), word(destination))
}

/// Collisions cost speed alone, so nobody gains by forging them.
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "a hash takes what bits there are")]
fn mix(source: u128, destination: u128, rest: u64) -> usize {
    const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut hash = rest;
    for word in [source as u64, (source >> 64) as u64, destination as u64, (destination >> 64) as u64] {
        hash = (hash.rotate_left(23) ^ word).wrapping_mul(ODD);
    }
    (hash >> 40) as usize
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    batch: u64,
    fence: u64,
    group: u32,
    tuple: Tuple,
}

/// Which group is each flow's latest.
#[derive(Debug)]
pub(super) struct Flows {
    /// Counts the batches: what has another number is of the past.
    batch: u64,
    slots: Box<[Slot]>,
    /// Counts, by pairs of addresses, what could not be told to be of one flow.
    fences: Box<[u64]>,
}

/// Where a flow is, or is to be put.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    slot: usize,
    fence: usize,
    /// Its latest group, if that may still be added to.
    pub(super) group: Option<u32>,
}

impl Flows {
    pub(super) fn new() -> Self {
        let tuple = Tuple { source: 0, destination: 0, ports: 0, protocol: 0, family: Family::V4 };
        let slot = Slot { batch: 0, fence: 0, group: 0, tuple };
        Self { batch: 1, slots: vec![slot; SLOTS].into(), fences: vec![0; FENCES].into() }
    }

    #[inline]
    pub(super) fn find(&self, tuple: &Tuple) -> Place {
        let home = tuple.hash() % SLOTS;
        let fence = fence_of(tuple.source, tuple.destination);
        let mut free = None;
        for slot in (home..home + TRIES).map(|slot| slot % SLOTS) {
            let Slot { batch, fence: fenced, group, tuple: other } = self.slots[slot];
            if batch != self.batch {
                free = free.or(Some(slot));
            } else if other == *tuple {
                let current = fenced == self.fences[fence];
                return Place { slot, fence, group: current.then_some(group) };
            }
        }
        Place { slot: free.unwrap_or(home), fence, group: None }
    }

    #[inline]
    pub(super) fn set(&mut self, place: Place, tuple: Tuple, group: u32) {
        self.slots[place.slot] = Slot { batch: self.batch, fence: self.fences[place.fence], group, tuple };
    }

    /// Nothing between these addresses is merged across this point.
    pub(super) fn fence(&mut self, between: &[u8]) {
        let (source, destination) = addresses(between);
        self.fences[fence_of(source, destination)] += 1;
    }

    pub(super) fn clear(&mut self) {
        self.batch += 1;
    }
}

#[inline]
fn fence_of(source: u128, destination: u128) -> usize {
    mix(source, destination, 0) % FENCES
}
