//! What the BPF programs compute without touching the kernel, so that the host can test it.
//!
//! Words of headers are kept as they lie in memory; names say so where a value is in host byte order.
#![no_std]
#![forbid(unsafe_code)]

pub mod checksum;
pub mod ecn;
pub mod inner;
pub mod outer;
