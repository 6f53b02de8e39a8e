//! Counters that the BPF programs keep, one slot each in a per-CPU array.

/// Name of the per-CPU array of `u64` that [`Counter`] indexes.
pub const COUNTERS_MAP: &str = "COUNTERS";

/// Name of the global `u16` with the tunnel's UDP port, host byte order, set before loading.
pub const VXLAN_PORT_GLOBAL: &str = "VXLAN_PORT";

/// What a slot counts. Numbers are part of the map layout: append only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub enum Counter {
    /// Packets that reached the uplink's ingress hook.
    UplinkIngress = 0,
    /// Of those, UDP datagrams to the VXLAN port.
    UplinkVxlan = 1,
}

impl Counter {
    /// How many slots the map has.
    pub const COUNT: u32 = 2;

    /// Every counter, by slot number.
    pub const ALL: [Self; Self::COUNT as usize] = [Self::UplinkIngress, Self::UplinkVxlan];

    /// Slot number in the map.
    pub const fn slot(self) -> u32 {
        self as u32
    }

    /// Stable name for output and metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Self::UplinkIngress => "uplink_ingress",
            Self::UplinkVxlan => "uplink_vxlan",
        }
    }
}
