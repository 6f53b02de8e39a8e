//! What memory a process has, from /proc.

use std::fs;

use anyhow::{Context as _, Result};
use serde::Serialize;

/// What a process has of the machine's memory.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Memory {
    /// VmRSS, kB
    pub resident_kb: u64,
    /// RssAnon, kB: without the binary's own pages
    pub anonymous_kb: u64,
    /// VmHWM, kB
    pub peak_kb: u64,
}

impl Memory {
    /// Of the process with this id.
    pub fn of(pid: u32) -> Result<Self> {
        let path = format!("/proc/{pid}/status");
        let text = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
        let field = |name: &str| -> Result<u64> {
            let value = text.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse().ok());
            value.with_context(|| format!("no {name} in {path}: the process has ended"))
        };
        Ok(Self { resident_kb: field("VmRSS:")?, anonymous_kb: field("RssAnon:")?, peak_kb: field("VmHWM:")? })
    }
}
