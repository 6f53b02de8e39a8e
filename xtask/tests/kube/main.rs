//! lane: e2e
//!
//! Clusters whose leases are Kubernetes': the real daemon beside a fake API server.
#![expect(clippy::unwrap_used, reason = "a test's helper functions are tests too")]

mod large;
mod site;
mod talk;
mod verbs;
