//! What the threads of a process have used, from /proc.

use std::{fs, time::Duration};

use anyhow::{Context as _, Result};

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
