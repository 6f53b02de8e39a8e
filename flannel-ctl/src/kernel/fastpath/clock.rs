//! The clocks that BPF programs read.

use std::time::Duration;

use nix::time::{ClockId, clock_getres, clock_gettime};

/// Nanoseconds of the monotonic clock, as `bpf_ktime_get_ns` has them. Every Linux has that clock.
pub(super) fn monotonic() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from);
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}

/// Nanoseconds of one tick of the kernel (`jiffies`): what its coarse clocks resolve (`KTIME_LOW_RES`,
/// `kernel/time/posix-timers.c`, 6.18). If it does not say, the longest that there are: proofs end the earlier.
pub(super) fn tick() -> u64 {
    const LONGEST: Duration = Duration::from_millis(10);
    let tick = clock_getres(ClockId::CLOCK_MONOTONIC_COARSE).map_or(LONGEST, Duration::from);
    u64::try_from(tick.as_nanos()).unwrap_or(u64::MAX).max(1)
}
