//! Who has used the processors, from /proc/stat.

use std::{
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use xtask::lab::cpu_time;

/// The core of whatever sends, asks and connects.
pub(super) const CLIENT: usize = 1;
/// The core of whatever receives and answers.
pub(super) const SERVER: usize = 2;

/// USER_HZ, the unit of /proc/stat; 100 wherever we run.
const TICKS_PER_SECOND: f64 = 100.0;

/// The processors' accounts at one moment.
#[derive(Debug)]
pub(super) struct Snapshot {
    at: Instant,
    cores: Vec<Core>,
    /// Time of the processes that carry packets.
    carriers: Duration,
}

/// Ticks since boot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Core {
    /// In the kernel: system, hardware and software interrupts.
    kernel: u64,
    /// All that is not idle.
    busy: u64,
    /// Taken by the hypervisor.
    steal: u64,
}

/// Between two moments.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Usage {
    pub(super) seconds: f64,
    /// Seconds in the kernel on client's and server's core.
    pub(super) kernel: f64,
    /// Cores that the processes which carry packets used.
    pub(super) carriers: f64,
    /// What others used, in cores: all that was done on cores that the load does not use, and stolen time.
    pub(super) foreign: f64,
}

impl Snapshot {
    /// `carriers`: processes that belong to the datapath.
    pub(super) fn take(carriers: &[u32]) -> Result<Self> {
        let text = fs::read_to_string("/proc/stat").context("reading /proc/stat")?;
        let carriers = carriers.iter().map(|pid| cpu_time(*pid)).sum::<Result<_>>()?;
        Ok(Self { at: Instant::now(), cores: cores(&text), carriers })
    }

    pub(super) fn until(&self, later: &Self) -> Usage {
        let seconds = (later.at - self.at).as_secs_f64();
        let (mut kernel, mut elsewhere, mut stolen) = (0, 0, 0);
        for (number, (before, after)) in self.cores.iter().zip(&later.cores).enumerate() {
            stolen += after.steal.saturating_sub(before.steal);
            if [CLIENT, SERVER].contains(&number) {
                kernel += after.kernel.saturating_sub(before.kernel);
            } else {
                elsewhere += after.busy.saturating_sub(before.busy);
            }
        }
        let time = |ticks: u64| f64::from(u32::try_from(ticks).unwrap_or(u32::MAX)) / TICKS_PER_SECOND;
        let carriers = later.carriers.saturating_sub(self.carriers).as_secs_f64() / seconds;
        // Where they ran is not known: as far as it was on the load's cores, this is too kind to others.
        let foreign = (time(elsewhere) / seconds - carriers).max(0.0) + time(stolen) / seconds;
        Usage { seconds, kernel: time(kernel), carriers, foreign }
    }
}

/// `cpuN user nice system idle iowait irq softirq steal ...`
fn cores(text: &str) -> Vec<Core> {
    let lines = text.lines().filter(|line| line.starts_with("cpu") && !line.starts_with("cpu "));
    lines
        .map(|line| {
            let ticks: Vec<u64> = line.split_whitespace().skip(1).filter_map(|field| field.parse().ok()).collect();
            match ticks[..] {
                [user, nice, system, _, _, hard, soft, steal, ..] => {
                    let kernel = system + hard + soft;
                    Core { kernel, busy: user + nice + kernel, steal }
                }
                _ => Core::default(),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loads_cores_count_for_it_and_the_others_against_it() {
        let at = Instant::now();
        let snapshot = |at, text| Snapshot { at, cores: cores(text), carriers: Duration::ZERO };
        let before =
            snapshot(at, "cpu  9 9 9 9\ncpu0 0 0 0 0 0 0 0 0 0 0\ncpu1 5 0 5 0 0 0 5 0 0 0\ncpu2 0 0 0 0 0 0 0 0\n");
        let after = "cpu  9\ncpu0 20 10 5 900 0 0 5 0 0 0\ncpu1 50 0 105 0 0 0 55 10 0 0\ncpu2 7 7 20 0 9 10 10 0 0 0\nintr 5\n";
        let usage = before.until(&snapshot(at + Duration::from_secs(2), after));
        let close = |a: f64, b: f64| (a - b).abs() < 1e-9;
        assert!(close(usage.kernel, 1.9), "system, irq and softirq of cores 1 and 2: {usage:?}");
        assert!(close(usage.foreign, 0.25), "all of core 0 and the stolen time, over 2 s: {usage:?}");
        let busy = Snapshot { carriers: Duration::from_secs(3), ..snapshot(at + Duration::from_secs(2), after) };
        let usage = before.until(&busy);
        assert!(
            close(usage.foreign, 0.05),
            "the carriers were on the load's cores as well; stolen is stolen: {usage:?}"
        );
    }
}
