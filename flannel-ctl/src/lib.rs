//! A container overlay network that flannel's users can switch to.
//!
//! `docs/architecture.md` has the map of the rooms below.

pub mod alloc;
pub mod check;
pub mod cli;
pub mod config;
pub mod daemon;
pub mod filter;
pub mod kernel;
pub mod model;
pub mod output;
pub mod plan;
pub mod reconcile;
pub mod serve;
pub mod source;
pub mod state;
pub mod store;
pub mod traffic;
pub mod userspace;
