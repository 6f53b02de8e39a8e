//! The network config's `Backend` block, as meant.

/// How nodes reach each other, read from the network config's `Backend.Type`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Backend {
    Vxlan(VxlanConfig),
    HostGw,
    /// flannel's old wire format: raw IPv4 in UDP.
    Udp {
        port: u16,
    },
    /// Lease only; nothing in the kernel.
    Alloc,
}

impl Backend {
    /// VXLAN's network identifier, where there is one.
    pub fn vni(&self) -> Option<u32> {
        match self {
            Self::Vxlan(vxlan) => Some(vxlan.vni),
            Self::HostGw | Self::Udp { .. } | Self::Alloc => None,
        }
    }
}

/// flannel's `pkg/backend/vxlan/vxlan.go` keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VxlanConfig {
    /// VXLAN network identifier, 24 bits; also names the device.
    pub vni: u32,
    /// UDP port. flannel's 0 ("kernel default") is resolved to [`Self::DEFAULT_PORT`].
    pub port: u16,
    /// MTU of the *underlay*; the tunnel's overhead is subtracted from it. `None`: the uplink's.
    pub mtu: Option<u32>,
    /// Group-based policy extension.
    pub gbp: bool,
    pub learning: bool,
    /// Plain routes to peers that are on-link.
    pub direct_routing: bool,
}

impl VxlanConfig {
    /// What Linux uses when no port is given (`drivers/net/vxlan/vxlan_core.c`, module
    /// parameter `udp_port`), which predates the IANA number 4789.
    pub const DEFAULT_PORT: u16 = 8472;
}

impl Default for VxlanConfig {
    fn default() -> Self {
        Self { vni: 1, port: Self::DEFAULT_PORT, mtu: None, gbp: false, learning: false, direct_routing: false }
    }
}

impl Backend {
    /// What a lease's `BackendType` says; flannel leaves it out for udp and alloc.
    pub fn lease_type(&self) -> &'static str {
        match self {
            Self::Vxlan(_) => "vxlan",
            Self::HostGw => "host-gw",
            Self::Udp { .. } | Self::Alloc => "",
        }
    }
}

/// Transmit checksum offload of the VXLAN device (flannel issues 1279 and 2152: some drivers
/// send wrong inner checksums when it is on).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum TxChecksum {
    /// Leave the device as the kernel makes it.
    #[default]
    Auto,
    On,
    Off,
}
