//! lane: real
//!
//! Clusters whose leases are Kubernetes': the real daemon beside the real API server and controller manager.
#![expect(clippy::unwrap_used, reason = "a test's helper functions are tests too")]

mod as_ours;
mod large;
mod life;
mod manifest;
mod pki;
mod rights;
mod server;
mod site;
mod talk;
mod verbs;
