//! How often unknown flows have been seen lately: what is over soon is not worth an entry.

use aya_ebpf::{btf_maps::PerCpuArray, macros::btf_map};
use flannel_common::Tuple;

/// Slots, a power of two.
const SIGHTINGS_MAX: u32 = 8_192;

/// By a hash of the tuple, on this CPU: the hash's upper 24 bits, and
/// the count. Two flows that share a slot push each other out; then both are learned later.
#[btf_map]
static SIGHTINGS: PerCpuArray<u32, { SIGHTINGS_MAX as usize }> = PerCpuArray::new();

/// Has the unknown flow been seen more often than `patience` lately? Counts this time as one.
#[inline(always)]
pub(crate) fn is_lasting(tuple: &Tuple, patience: u16) -> bool {
    let hash = tuple.hash();
    let Some(slot) = SIGHTINGS.get_ptr_mut(hash % SIGHTINGS_MAX) else { return false };
    let tag = hash & !0xff;
    // SAFETY: this CPU's slot, which no other program writes while this one runs: both run in softirq.
    unsafe {
        let seen = if *slot & !0xff == tag { *slot & 0xff } else { 0 };
        *slot = tag | (seen + 1).min(0xff);
        seen >= u32::from(patience)
    }
}

/// A flow begins or ends with this packet: those that were seen of its addresses and ports were another's.
#[inline(always)]
pub(crate) fn begin_anew(tuple: &Tuple) {
    let hash = tuple.hash();
    let Some(slot) = SIGHTINGS.get_ptr_mut(hash % SIGHTINGS_MAX) else { return };
    let tag = hash & !0xff;
    // SAFETY: as above.
    unsafe {
        if *slot & !0xff == tag {
            *slot = tag;
        }
    }
}
