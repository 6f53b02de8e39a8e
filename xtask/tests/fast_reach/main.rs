//! lane: e2e
//!
//! How far the BPF fast path reaches: IPv6, other networks and ports, direct routes, every kind of uplink. Where it does
//! not reach, the kernel path carries everything, and a counter says why.
#![expect(clippy::unwrap_used, reason = "a test's helper functions are tests too")]

mod direct;
mod network;
mod site;
mod uplinks;
mod v6;
