//! Keeping memory small with glibc's allocator.

#[cfg(target_env = "gnu")]
use nix::libc;

/// Blocks of this size and more go back to the kernel when they are freed.
#[cfg(target_env = "gnu")]
const LARGE_BLOCK: libc::c_int = 128 << 10;

/// One arena, since only one thread works hard; and large blocks stay outside of it: glibc
/// otherwise learns from the first large list to keep its room for ever. Before any thread.
pub(super) fn set_up() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt takes two numbers and touches only the allocator's own settings.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE_BLOCK);
        libc::mallopt(libc::M_TRIM_THRESHOLD, LARGE_BLOCK);
    }
}

/// Gives free pages back to the kernel. Milliseconds: not for every pass.
pub(super) fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim only releases pages that hold no allocation.
    unsafe {
        libc::malloc_trim(0);
    }
}
