//! Packets of the userspace datapath, as octets: what is cut, put together, marked and answered. Touches no device, socket or clock.
//!
//! - [`virtio`]: what the TUN device says, and wants to hear, about each packet;
//! - [`layout`]: where its headers are; [`received`]: what state it came in;
//! - [`segment`]: one super-packet in, a train of packets out;
//! - [`coalesce`]: a train in, super-packets out;
//! - [`checksum`], [`ecn`], [`ttl`], [`icmp`]: what their names say.
//!
//! No octets make any of it panic or allocate.

pub mod checksum;
pub mod coalesce;
pub mod ecn;
mod flows;
mod group;
pub mod icmp;
pub mod layout;
pub mod received;
pub mod segment;
pub mod ttl;
pub mod virtio;

#[cfg(test)]
mod replay_tests;
#[cfg(test)]
pub(super) mod testing;
