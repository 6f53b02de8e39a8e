//! Time for bounds: what a busy machine kept everybody waiting for does not count.

use std::{
    fmt, fs,
    time::{Duration, Instant},
};

/// For how long a machine that never has a processor to spare is borne with.
const BORNE_WITH: Duration = Duration::from_mins(1);

/// Measures how long something takes, and how much of it some task of the machine was kept from a processor or waited
/// for a disk (`/proc/pressure`, the kernel's own account). A bound is held against the rest: on a quiet machine that is
/// all of the time, and a busy one does not void it.
#[derive(Clone, Copy, Debug)]
pub struct Stopwatch {
    begun: Instant,
    stalls: Duration,
}

impl Stopwatch {
    pub fn start() -> Self {
        Self { begun: Instant::now(), stalls: stalls() }
    }

    /// By the clock on the wall.
    pub fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }

    /// For how much of it somebody had to wait.
    pub fn stalled(&self) -> Duration {
        stalls().saturating_sub(self.stalls)
    }

    /// What is left without.
    pub fn unstalled(&self) -> Duration {
        self.elapsed().saturating_sub(self.stalled())
    }

    /// Is it longer than `limit`, stalls left out?
    pub fn is_over(&self, limit: Duration) -> bool {
        let elapsed = self.elapsed();
        elapsed > limit && (elapsed > limit + BORNE_WITH || self.unstalled() > limit)
    }

    /// Fails the test if it is.
    #[track_caller]
    pub fn assert_within(&self, limit: Duration) {
        assert!(!self.is_over(limit), "{self}; the bound is {limit:?}");
    }

    /// Sleeps until so much has gone by without a stall: whoever could do something had the processor to do it.
    pub fn sleep_until(&self, limit: Duration) {
        while !self.is_over(limit) {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl fmt::Display for Stopwatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (all, rest) = (self.elapsed(), self.unstalled());
        write!(f, "{all:.1?}, {:.1?} of it in want of a processor or a disk", all.saturating_sub(rest))
    }
}

/// Since boot; nothing where the kernel keeps no account.
fn stalls() -> Duration {
    ["cpu", "io"]
        .iter()
        .filter_map(|resource| some(&fs::read_to_string(format!("/proc/pressure/{resource}")).ok()?))
        .sum()
}

/// `some avg10=0.00 avg60=0.00 avg300=0.00 total=12345`, in microseconds: at least one task had to wait.
fn some(text: &str) -> Option<Duration> {
    let line = text.lines().find(|line| line.starts_with("some "))?;
    Some(Duration::from_micros(line.rsplit_once("total=")?.1.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_account_is_read() {
        let text = "some avg10=17.10 avg60=59.15 avg300=82.97 total=12536571068\nfull avg10=0.00 total=7\n";
        assert_eq!(some(text), Some(Duration::from_micros(12_536_571_068)));
        assert_eq!(some("some avg10=0.00\n"), None);
    }
}
