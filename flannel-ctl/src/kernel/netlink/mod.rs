//! rtnetlink, as little of it as we need: bytes in, bytes out.
//!
//! One file per kind of object. Each has the struct that a message of the kernel is read into,
//! and functions that build requests. A full table is some ten thousand messages per kind, so
//! reading borrows from the receive buffer and keeps only what we compare.

pub mod address;
pub(crate) mod batch;
pub(crate) mod channel;
pub mod fdb;
pub(crate) mod filter;
pub mod link;
pub mod neighbour;
pub mod nexthop;
pub mod qdisc;
pub(crate) mod refusal;
pub mod route;
pub(crate) mod socket;
pub(crate) mod wire;

#[cfg(test)]
pub(crate) mod namespace;
