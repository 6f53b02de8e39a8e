//! What the programs are told about their node.

use bytemuck::{Pod, Zeroable};

use crate::{Address, Mac};

/// Number of the layout of all maps. Maps are pinned under it: programs of two layouts never meet.
pub const LAYOUT: u32 = 5;

/// Name of the array whose only element is a [`Settings`].
pub const SETTINGS_MAP: &str = "SETTINGS";

/// Read with every packet; written by the daemon as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Settings {
    /// How long a flow stays proved after the kernel path let one of its packets through, in nanoseconds.
    pub validity: u64,
    /// How long the other direction may have been silent before a flow counts as one-way again, in nanoseconds.
    pub memory: u64,
    /// Nanoseconds of the monotonic clock, which the daemon puts off for as long as it lives. Past it no flow is proved, none is
    /// fast, and nothing is dropped: who leased what is no longer known.
    pub deadline: u64,
    /// How long the kernel's ticks are, in nanoseconds.
    pub tick: u64,
    /// Flows proved in another epoch have to be proved again.
    pub epoch: u32,
    /// 0: every packet is left to the kernel path, and nothing is learned.
    pub enabled: u32,
    /// VXLAN network identifier.
    pub vni: u32,
    /// First UDP source port of tunnel packets, host byte order.
    pub first_port: u32,
    /// How many source ports there are from the first on.
    pub ports: u32,
    /// 0: forged tunnel packets are counted and left to the kernel path; else dropped.
    pub drop_forged: u32,
    /// New flows that one pod may have learned in a second.
    pub pod_rate: u32,
    /// UDP port of the tunnel, network byte order.
    pub port: u16,
    /// Packets of an unknown flow that pass before it is learned: what is over by then is not worth an entry.
    pub patience: u16,
    /// Of the IPv4 overlay.
    pub v4: FamilySettings,
    /// Of the IPv6 overlay.
    pub v6: FamilySettings,
}

/// What depends on the address family, which is the same inside and outside of the tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct FamilySettings {
    /// Our end of the tunnel.
    pub local: Address,
    /// What to keep of an address to get its subnet's base address.
    pub mask: Address,
    /// Largest inner packet, in octets.
    pub mtu: u32,
    /// Our VTEP address.
    pub mac: Mac,
    /// 0: the family has no overlay.
    pub enabled: u16,
}
