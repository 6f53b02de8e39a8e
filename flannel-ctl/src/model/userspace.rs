//! The userspace datapath as something that is wanted or there.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;

use super::{Family, Mac};

/// A TUN device that outlives the process that reads it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Tun {
    pub name: String,
    pub mtu: u32,
    pub up: bool,
}

/// Where packets for a peer's subnet go, and who may send from there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Forward {
    /// The peer's address on the wire.
    pub public: IpAddr,
    /// The peer's VTEP address; zero on the wire of flannel's udp backend, which has none.
    pub mac: Mac,
}

/// What an engine is started with.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct EnginePolicy {
    pub wire: Wire,
    /// Name of the TUN device.
    pub device: String,
    /// Largest packet of a pod: what is longer, and came uncut from a node on the same machine, is cut for it.
    pub mtu: u32,
    /// Our end of the tunnel.
    pub local: IpAddr,
}

/// How packets look between nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Wire {
    /// As the kernel's VXLAN device does it.
    Vxlan {
        vni: u32,
        /// UDP port of every node.
        port: u16,
        /// Our VTEP address: what peers address inner frames to.
        mac: Mac,
    },
    /// flannel's `udp` backend: the IPv4 packet is all that there is; each side takes one from its time to live.
    Raw {
        /// UDP port of every node.
        port: u16,
    },
}

/// What a daemon that starts anew needs to carry packets before it knows anything else.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Kept {
    pub engines: BTreeMap<Family, EnginePolicy>,
    pub forwards: BTreeMap<IpNet, Forward>,
}
