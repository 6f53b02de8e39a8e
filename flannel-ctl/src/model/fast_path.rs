//! The BPF fast path as something that is wanted or there.

use std::{net::IpAddr, time::Duration};

use super::{Family, Mac};

/// What the programs are told about the node as a whole.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FastPathPolicy {
    /// `false`: attached, and every packet is left to the kernel path.
    pub enabled: bool,
    pub vni: u32,
    /// UDP port of the tunnel.
    pub port: u16,
    /// Tunnel packets from a node that may not send from their inner source are dropped, not only counted.
    pub drop_forged: bool,
    /// How long a flow is believed before the kernel path has to let one of its packets through again.
    pub validity: Duration,
    /// New flows that one pod may have learned in a second.
    pub pod_rate: u32,
    pub v4: Option<FastFamily>,
    pub v6: Option<FastFamily>,
}

/// The part of a [`FastPathPolicy`] that depends on the address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FastFamily {
    /// Our end of the tunnel.
    pub local: IpAddr,
    /// Prefix length of every node's subnet.
    pub subnet_len: u8,
    /// Largest inner packet.
    pub mtu: u32,
    /// Our VTEP address.
    pub mac: Mac,
}

/// Interfaces that programs are attached to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// By interface index.
    Uplink(u32),
    /// The VXLAN device of that family.
    Vtep(Family),
    /// The host's side of a veth whose other end is in a pod, by interface index.
    Pod(u32),
}

impl Place {
    /// None is less.
    pub const FIRST: Self = Self::Uplink(0);
}

/// The host's side of a veth whose other end is in another network namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodLink {
    pub name: String,
    /// Largest packet that it takes.
    pub mtu: u32,
    /// Why it is left to the kernel path: somebody shapes its traffic, for one.
    pub spared: Option<&'static str>,
}
