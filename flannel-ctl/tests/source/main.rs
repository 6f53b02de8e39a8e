//! lane: netns
//!
//! The lease source against real servers: one suite, run against etcd and against the embedded
//! store alike, and what only etcd can show.

#![allow(clippy::unwrap_used, reason = "a test says by its panic what went wrong")]

mod faults;
mod file;
mod kube;
mod lab;
mod node;
mod proxy;
mod secure;
mod suite;
