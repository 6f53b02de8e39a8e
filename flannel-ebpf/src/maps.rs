//! Every map, in BTF form, and the only code that touches their slots.

use aya_ebpf::{btf_maps::PerCpuArray, macros::btf_map};
use flannel_common::Counter;

#[btf_map]
static COUNTERS: PerCpuArray<u64, { Counter::COUNT as usize }> = PerCpuArray::new();

/// Adds one to this CPU's slot.
#[inline(always)]
pub(crate) fn count(counter: Counter) {
    if let Some(slot) = COUNTERS.get_ptr_mut(counter.slot()) {
        // SAFETY: the helper returned this CPU's slot, which lives as long as the map; nobody else
        // writes it while the program runs on this CPU (a softirq program is not interrupted by itself).
        unsafe { *slot += 1 };
    }
}
