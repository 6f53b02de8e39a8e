//! The interface that carries the tunnel.

use std::net::{Ipv4Addr, Ipv6Addr};

/// What was chosen at start, and is followed when its address or MTU changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uplink {
    pub index: u32,
    pub name: String,
    /// Bytes of IP packet.
    pub mtu: u32,
    /// Our own source addresses on it.
    pub v4: Option<Ipv4Addr>,
    pub v6: Option<Ipv6Addr>,
    /// What peers must dial; the interface address unless the operator says otherwise (NAT).
    pub public_v4: Option<Ipv4Addr>,
    pub public_v6: Option<Ipv6Addr>,
}
