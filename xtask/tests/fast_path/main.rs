//! lane: e2e
//!
//! The BPF fast path beside real connection tracking and packet filters: it carries what it may, and nobody can tell
//! from anything but the counters.
#![expect(clippy::unwrap_used, reason = "a test's helper functions are tests too")]

mod answering;
mod bulk;
mod bursts;
mod carry;
mod checksums;
mod forged;
mod mixed;
mod moves;
mod others;
mod overflow;
mod policy;
mod proxy;
mod segments;
mod service;
mod site;
mod stranger;
mod talk;
mod tcp;
mod v6;
