//! lane: real
//!
//! Beside flannel's own daemon (`FLANNEL_REAL_FLANNELD`), in its place, and back.
#![expect(clippy::unwrap_used, reason = "a test's helper functions are tests too")]

mod files;
mod leases;
mod mesh;
mod site;
mod takeover;
mod udp;
mod wire;
