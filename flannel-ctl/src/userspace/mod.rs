//! The datapath in user space: a TUN device in the place of the kernel's VXLAN device, UDP sockets on the wire.
//!
//! For hosts that have neither eBPF nor a VXLAN device, and for flannel's own `udp` backend. It speaks what the
//! kernel's device speaks, so peers need not know.
//!
//! - [`Table`]: which node has which addresses; reconcile writes, the threads read without locks.
//! - [`Wire`]: what goes before an inner packet, and what is checked on receipt.
//! - [`Engine`]: the threads. Packet work is in `packet/`, which is pure.

#![deny(unsafe_code)]

mod carry;
mod counters;
mod cuttings;
mod decapsulate;
mod encapsulate;
mod engine;
mod error;
mod flow;
mod inherited;
mod notice;
mod options;
mod pace;
pub mod packet;
mod probe;
mod send;
mod shared;
mod sieve;
mod socket;
mod stay;
mod sys;
mod table;
mod tun;
mod wait;
mod wire;

pub use crate::model::Wire;
pub use counters::{Counter, Statistics};
pub use engine::Engine;
pub use error::EngineError;
pub use inherited::{Inherited, retire};
pub use options::{Offloads, Options};
pub use probe::probe;
pub use table::{Reader, Table};
pub use tun::{QUEUE_LENGTH, create_device};
pub use wire::WireFault;

#[cfg(test)]
mod oracle_tests;
