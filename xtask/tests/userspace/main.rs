//! lane: e2e
//!
//! Packets carried in user space, among nodes whose kernels carry them: nobody sees a difference.
#![expect(clippy::unwrap_used, reason = "a test's helper functions are tests too")]

mod flood;
mod handover;
mod life;
mod mixed;
mod reach;
mod rights;
mod site;
mod steps;
mod udp;

const TOOLS: [&str; 4] = ["ip", "nft", "tshark", "ethtool"];
