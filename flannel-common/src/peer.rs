//! Who may send from which subnet, and which interfaces lead to pods.

use bytemuck::{Pod, Zeroable};

use crate::Address;

/// Name of the hash from a subnet's base address ([`Address`]) to its [`Peer`].
pub const PEERS_MAP: &str = "PEERS";

/// Name of the hash from the interface index of a pod's host side to its [`PodInterface`].
pub const PODS_MAP: &str = "PODS";

/// The node that leased a subnet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Peer {
    /// Its end of the tunnel.
    pub outer: Address,
    /// [`Self::ZERO_CHECKSUM`] or nothing.
    pub flags: u32,
}

impl Peer {
    /// It takes IPv6 tunnel packets whose UDP checksum is zero (RFC 6935).
    pub const ZERO_CHECKSUM: u32 = 1;
}

/// An interface that our programs are attached to, behind which a pod sits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct PodInterface {
    /// When the two counts were last zero, nanoseconds of the monotonic clock.
    pub since: u64,
    /// Flows learned since then from what the pod sends. Those that others send have a count of their own, so that they
    /// cannot use up the pod's.
    pub sent: u32,
    /// Flows learned since then from what the pod is sent.
    pub received: u32,
    /// Largest packet that it takes, in octets.
    pub mtu: u32,
    /// Zero.
    pub reserved: u32,
}

impl PodInterface {
    /// One of which nothing has been learned.
    pub const fn new(mtu: u32) -> Self {
        Self { since: 0, sent: 0, received: 0, mtu, reserved: 0 }
    }
}
