//! What a process has used, from /proc.

use std::fs;
#[cfg(feature = "bench")]
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde::Serialize;

#[derive(Clone, Copy, Debug, Default, Serialize)]
#[expect(clippy::struct_field_names, reason = "the names stand in the raw data, which says its units")]
pub(super) struct Memory {
    /// VmRSS, kB
    pub(super) resident_kb: u64,
    /// RssAnon, kB: without the binary's own pages
    pub(super) anonymous_kb: u64,
    /// VmHWM, kB
    pub(super) peak_kb: u64,
}

impl Memory {
    pub(super) fn of(pid: u32) -> Result<Self> {
        let text = fs::read_to_string(format!("/proc/{pid}/status")).context("the daemon's /proc/PID/status")?;
        let field = |name: &str| -> u64 {
            let line = text.lines().find(|line| line.starts_with(name));
            line.and_then(|line| line.split_whitespace().nth(1)).and_then(|kb| kb.parse().ok()).unwrap_or(0)
        };
        Ok(Self { resident_kb: field("VmRSS:"), anonymous_kb: field("RssAnon:"), peak_kb: field("VmHWM:") })
    }
}

#[cfg(feature = "bench")]
/// Time on a processor by thread name, to the nanosecond; of the threads that there are.
pub(super) fn cpu_by_thread(pid: u32) -> Result<Vec<(String, Duration)>> {
    let mut all: Vec<(String, Duration)> = Vec::new();
    for entry in fs::read_dir(format!("/proc/{pid}/task")).context("the daemon's threads")? {
        let dir = entry?.path();
        let (Ok(name), Ok(stat)) = (fs::read_to_string(dir.join("comm")), fs::read_to_string(dir.join("schedstat")))
        else {
            continue;
        };
        let nanos = stat.split_whitespace().next().and_then(|field| field.parse().ok()).unwrap_or(0);
        let (name, time) = (name.trim().to_owned(), Duration::from_nanos(nanos));
        match all.iter_mut().find(|(known, _)| *known == name) {
            Some((_, sum)) => *sum += time,
            None => all.push((name, time)),
        }
    }
    all.sort();
    Ok(all)
}
