//! Many entries of a map with one system call, which the library does not offer.

use std::{
    os::fd::{AsRawFd, BorrowedFd},
    ptr,
};

use nix::libc;

/// Of `enum bpf_cmd` (`linux/bpf.h`, 5.6).
const MAP_UPDATE_BATCH: libc::c_long = 26;

/// The member of `union bpf_attr` for it.
#[repr(C)]
struct Update {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    /// The kernel says here how many it has done, if it fails.
    count: u32,
    map: u32,
    element_flags: u64,
    flags: u64,
}

/// Puts entries, key by key with its value, into the map behind `map`. How many are there now, from the first on: a
/// kernel that cannot do this at all has done none.
pub(super) fn put<K: bytemuck::Pod, V: bytemuck::Pod>(map: BorrowedFd<'_>, keys: &[K], values: &[V]) -> usize {
    let wanted = keys.len().min(values.len());
    let (Ok(count), Ok(map)) = (u32::try_from(wanted), u32::try_from(map.as_raw_fd())) else { return 0 };
    let mut update = Update {
        in_batch: 0,
        out_batch: 0,
        keys: keys.as_ptr().expose_provenance() as u64,
        values: values.as_ptr().expose_provenance() as u64,
        count,
        map,
        element_flags: 0,
        flags: 0,
    };
    // SAFETY: the kernel reads `count` keys and values of the map's own sizes, which are those of K and V (checked when
    // the map was opened), and writes to the attribute; all of them outlive the call.
    let outcome =
        unsafe { libc::syscall(libc::SYS_bpf, MAP_UPDATE_BATCH, ptr::from_mut(&mut update), size_of::<Update>()) };
    match outcome {
        0 => wanted,
        // A call that is refused at the door leaves the count as it was.
        _ if update.count == count => 0,
        _ => update.count as usize,
    }
}
