//! Many entries of a map with one system call, which the library does not offer.

use std::{io, os::fd::BorrowedFd, ptr};

use nix::libc;

use super::bpf::{self, number};

/// Of `enum bpf_cmd` (`linux/bpf.h`, 5.6).
const MAP_LOOKUP_BATCH: libc::c_long = 24;
const MAP_UPDATE_BATCH: libc::c_long = 26;
/// Entries that are read at once; no bucket of a hash has as many.
const AT_ONCE: u32 = 1024;

/// The member of `union bpf_attr` for them.
#[repr(C)]
struct Batch {
    from: u64,
    to: u64,
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
    let Ok(count) = u32::try_from(wanted) else { return 0 };
    let mut update = Batch {
        from: 0,
        to: 0,
        keys: keys.as_ptr().expose_provenance() as u64,
        values: values.as_ptr().expose_provenance() as u64,
        count,
        map: number(map),
        element_flags: 0,
        flags: 0,
    };
    // SAFETY: the kernel reads `count` keys and values of the map's own sizes, which are those of K and V (checked when
    // the map was opened), which outlive the call.
    match unsafe { bpf::call(MAP_UPDATE_BATCH, &mut update) } {
        Ok(_) => wanted,
        // A call that is refused at the door leaves the count as it was.
        Err(_) if update.count == count => 0,
        Err(_) => update.count as usize,
    }
}

/// Tells every entry of the hash behind `map`, as far as others leave it alone meanwhile.
pub(super) fn each<K: bytemuck::Pod, V: bytemuck::Pod>(
    map: BorrowedFd<'_>,
    mut tell: impl FnMut(K, V),
) -> io::Result<()> {
    let mut keys = vec![K::zeroed(); AT_ONCE as usize];
    let mut values = vec![V::zeroed(); AT_ONCE as usize];
    let mut position: Option<u32> = None;
    loop {
        let (mut next, from) = (0_u32, position);
        let mut lookup = Batch {
            from: from.as_ref().map_or(0, |from| ptr::from_ref(from).expose_provenance() as u64),
            to: ptr::from_mut(&mut next).expose_provenance() as u64,
            keys: keys.as_mut_ptr().expose_provenance() as u64,
            values: values.as_mut_ptr().expose_provenance() as u64,
            count: AT_ONCE,
            map: number(map),
            element_flags: 0,
            flags: 0,
        };
        // SAFETY: the kernel writes at most `count` keys and values of the map's own sizes, which are those of K and V
        // (checked when the map was opened), and a position of 32 bits; all of them outlive the call.
        let ended = match unsafe { bpf::call(MAP_LOOKUP_BATCH, &mut lookup) } {
            Ok(_) => false,
            // What was left is there all the same.
            Err(error) if error.kind() == io::ErrorKind::NotFound => true,
            Err(error) => return Err(error),
        };
        let found = keys.iter().copied().zip(values.iter().copied()).take(lookup.count as usize);
        found.for_each(|(key, value)| tell(key, value));
        if ended {
            return Ok(());
        }
        position = Some(next);
    }
}
