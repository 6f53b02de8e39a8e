//! What is compared: ways of carrying a packet, kinds of wire, loads.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// How packets get from client to server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Mode {
    /// From node to node, no pods: what the wire gives
    Host,
    /// Pod to pod by plain routes
    HostGw,
    /// Pod to pod through the kernel's VXLAN device, shaped as flannel's
    Vxlan,
    /// The same, to a service address that the client's node translates
    VxlanService,
    /// Kernel VXLAN without a single rule, and so without connection tracking, as no node of flannel's is
    VxlanBare,
    /// Pod to pod by the eBPF fast path
    Ebpf,
    /// The same with programs attached and switched off
    EbpfOff,
    /// The eBPF fast path to a service address
    EbpfService,
    /// Pod to pod by the userspace engine
    Userspace,
    /// The userspace engine with one packet a call
    UserspacePlain,
    /// A loop as in flannel's udp backend
    Blocking,
}

/// A cluster of its own for all modes that need the same daemons.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum SiteKind {
    Vxlan,
    VxlanBare,
    HostGw,
    Ebpf,
    EbpfOff,
    Userspace,
    UserspacePlain,
    Blocking,
}

impl Mode {
    /// Those of the bench of all datapaths, in the order of the tables.
    pub(super) const ALL: [Self; 8] = [
        Self::Host,
        Self::HostGw,
        Self::Vxlan,
        Self::VxlanService,
        Self::VxlanBare,
        Self::Ebpf,
        Self::EbpfOff,
        Self::EbpfService,
    ];

    pub(super) fn site(self) -> SiteKind {
        match self {
            // Its nodes have the same rules, and so connection tracking, as those that flannel runs on.
            Self::Host | Self::Vxlan | Self::VxlanService => SiteKind::Vxlan,
            Self::VxlanBare => SiteKind::VxlanBare,
            Self::HostGw => SiteKind::HostGw,
            Self::Ebpf | Self::EbpfService => SiteKind::Ebpf,
            Self::EbpfOff => SiteKind::EbpfOff,
            Self::Userspace => SiteKind::Userspace,
            Self::UserspacePlain => SiteKind::UserspacePlain,
            Self::Blocking => SiteKind::Blocking,
        }
    }

    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Host => "host to host",
            Self::HostGw => "host-gw",
            Self::Vxlan => "kernel VXLAN",
            Self::VxlanService => "kernel VXLAN, service",
            Self::VxlanBare => "kernel VXLAN, no rules",
            Self::Ebpf => "eBPF",
            Self::EbpfOff => "eBPF forced off",
            Self::EbpfService => "eBPF, service",
            Self::Userspace => "userspace",
            Self::UserspacePlain => "one packet a call",
            Self::Blocking => "blocking loop",
        }
    }

    /// Whether a build or machine may lack it.
    pub(super) fn needs_bpf(self) -> bool {
        matches!(self.site(), SiteKind::Ebpf | SiteKind::EbpfOff)
    }

    pub(super) fn is_service(self) -> bool {
        matches!(self, Self::VxlanService | Self::EbpfService)
    }
}

/// What the two nodes are joined by: a veth pair with an MTU of 1,500.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Wire {
    /// veth's defaults: packets of 64 KB cross it in one piece
    Pass,
    /// Cut to the MTU on one side and coalesced on the other, as with a NIC
    Seg,
    /// Cut to the MTU, and not coalesced
    Nogro,
}

impl Wire {
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Pass => "W-pass: unsegmented wire",
            Self::Seg => "W-seg: segmented wire",
            Self::Nogro => "W-nogro: segmented wire, nothing coalesced",
        }
    }

    /// What `ethtool -K` is told at both ends; nothing for the defaults.
    pub(super) fn offloads(self) -> &'static [&'static str] {
        match self {
            Self::Pass => &[],
            Self::Seg => &["tso", "off", "gso", "off", "tx-udp_tnl-segmentation", "off", "gro", "on"],
            Self::Nogro => &["tso", "off", "gso", "off", "tx-udp_tnl-segmentation", "off", "gro", "off"],
        }
    }
}

/// A load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Metric {
    /// One TCP stream
    Stream1,
    /// Four TCP streams
    Stream4,
    /// One byte there and back over TCP
    TcpRr1,
    /// The same with 32 flows
    TcpRr32,
    /// A small datagram there and back
    UdpRr1,
    /// The same with 32 flows
    UdpRr32,
    /// Connect, request, response, close
    Crr,
    /// Datagrams of 64 bytes from one core
    Udp64,
    /// The same, to a receiver that sleeps when there is nothing
    Udp64Woken,
    /// The same as the first, and never a datagram back
    Udp64OneWay,
    /// Datagrams of 512 bytes
    Udp512,
    /// Datagrams of 1,400 bytes
    Udp1400,
}

/// What a load is made by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Load {
    Stream { flows: usize },
    TcpRr { flows: usize },
    UdpRr { flows: usize },
    Crr,
    Datagrams { size: usize, one_way: bool, sleeps: bool },
}

impl Metric {
    pub(super) const ALL: [Self; 12] = [
        Self::Stream1,
        Self::Stream4,
        Self::TcpRr1,
        Self::TcpRr32,
        Self::UdpRr1,
        Self::UdpRr32,
        Self::Crr,
        Self::Udp64,
        Self::Udp64Woken,
        Self::Udp64OneWay,
        Self::Udp512,
        Self::Udp1400,
    ];

    pub(super) fn load(self) -> Load {
        match self {
            Self::Stream1 => Load::Stream { flows: 1 },
            Self::Stream4 => Load::Stream { flows: 4 },
            Self::TcpRr1 => Load::TcpRr { flows: 1 },
            Self::TcpRr32 => Load::TcpRr { flows: 32 },
            Self::UdpRr1 => Load::UdpRr { flows: 1 },
            Self::UdpRr32 => Load::UdpRr { flows: 32 },
            Self::Crr => Load::Crr,
            Self::Udp64 => Load::Datagrams { size: 64, one_way: false, sleeps: false },
            Self::Udp64Woken => Load::Datagrams { size: 64, one_way: false, sleeps: true },
            Self::Udp64OneWay => Load::Datagrams { size: 64, one_way: true, sleeps: false },
            Self::Udp512 => Load::Datagrams { size: 512, one_way: false, sleeps: false },
            Self::Udp1400 => Load::Datagrams { size: 1400, one_way: false, sleeps: false },
        }
    }

    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Stream1 => "TCP, 1 stream",
            Self::Stream4 => "TCP, 4 streams",
            Self::TcpRr1 => "TCP request/response, 1 flow",
            Self::TcpRr32 => "TCP request/response, 32 flows",
            Self::UdpRr1 => "UDP request/response, 1 flow",
            Self::UdpRr32 => "UDP request/response, 32 flows",
            Self::Crr => "connect, request, close",
            Self::Udp64 => "UDP 64 B received",
            Self::Udp64Woken => "UDP 64 B received, asleep between",
            Self::Udp64OneWay => "UDP 64 B received, one-way",
            Self::Udp512 => "UDP 512 B received",
            Self::Udp1400 => "UDP 1,400 B received",
        }
    }

    /// What the rate counts.
    pub(super) fn unit(self) -> &'static str {
        match self.load() {
            Load::Stream { .. } => "Gbit/s",
            Load::TcpRr { .. } | Load::UdpRr { .. } | Load::Crr | Load::Datagrams { .. } => "1/s",
        }
    }
}

/// One of the numbers that a run gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Quantity {
    /// The load's own: [`Metric::unit`]
    Rate,
    /// Microseconds
    P50,
    P99,
    P999,
    Retransmits,
    /// Sent by the sender, per second
    Offered,
    /// System and softirq time of client's and server's core for one unit of work, microseconds
    /// (of a stream: for one gigabit, milliseconds)
    KernelCost,
    /// Bytes of a packet as the server's pod gets it, after coalescing
    PacketSize,
    /// Cores that the processes which carry packets have used
    TunnelCores,
    /// Rate for each of those
    PerCore,
    /// Megabytes of the larger daemon, where it carries packets
    Resident,
}
