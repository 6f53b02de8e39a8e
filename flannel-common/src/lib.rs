//! What both sides of the BPF boundary need, and nothing else.
//!
//! Rules of this crate: `no_std`; every type that crosses a map is `repr(C)` without
//! implicit padding (proved by deriving [`bytemuck::Pod`]); addresses are kept in network
//! byte order, so that no call site has to decide.
#![no_std]
#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod addr;
pub mod checksum;
mod counter;
pub mod ecn;
mod flow;
mod peer;
mod settings;
mod trace;
mod tuple;

pub use addr::{Mac, ParseMacError};
pub use counter::{COUNTERS_MAP, Counter, TUNNELLED_MAP};
pub use flow::{EGRESS_MAP, EgressFlow, HEADER_WORDS, INGRESS_MAP, IngressFlow, Use, state};
pub use peer::{PEERS_MAP, PODS_MAP, Peer, PodInterface};
pub use settings::{FamilySettings, LAYOUT, SETTINGS_MAP, Settings};
pub use trace::{TRACE_FILTER, TRACE_MAP, TRACE_NOTHING, TRACE_OCTETS, TraceFilter, TraceRecord};
pub use tuple::{Address, Tuple};
