//! Kernel state as a map from [`Key`] to [`Object`].
//!
//! What is wanted and what is there are both such maps, so that comparing them is one walk,
//! a change is one [`Op`], and the health of each object has a name. The order of [`Key`]'s
//! variants is the order in which things must be created; removal goes the other way.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, Ipv4Addr},
};

use ipnet::IpNet;

use super::{EnginePolicy, Family, FastPathPolicy, FilterPolicy, Forward, Mac, Place, Tun, TxChecksum};

/// Kernel state: wanted or observed.
pub type State = BTreeMap<Key, Object>;

/// Names one kernel object of ours. `Family` picks the tunnel device (`flannel.N` or
/// `flannel-v6.N`), be it the kernel's VXLAN or the userspace datapath's TUN.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// The tunnel device of that family.
    Device(Family),
    /// A knob of that device.
    Setting(Family, Setting),
    /// An address on that device.
    Address(Family, IpNet),
    /// Our packet filter rules as a whole: masquerade, forward, guard.
    Filter,
    /// The guard lets tunnel packets from this outer source carry this inner source range.
    Guard(IpAddr, IpNet),
    /// Permanent neighbour on the VXLAN device of the address's family.
    Neighbour(IpAddr),
    /// Forwarding entry of the VXLAN device of that family.
    Fdb(Family, Mac),
    /// Nexthop object for this gateway through the IPv4 VXLAN device. Its id in the kernel is
    /// the gateway's 32 bits: known without asking, and unique since subnets are.
    Nexthop(Ipv4Addr),
    /// The userspace datapath knows who leased this subnet.
    Forward(IpNet),
    /// The threads that carry that family's packets of the userspace datapath.
    Engine(Family),
    /// Route in the main table.
    Route(IpNet),
    /// Connection tracking puts up with packets that it has not seen (`nf_conntrack_tcp_be_liberal`).
    LiberalConntrack,
    /// What the BPF programs are told about this node.
    FastPath,
    /// The BPF programs know who leased this subnet.
    FastPeer(IpNet),
    /// BPF programs on an interface.
    Attachment(Place),
}

impl Key {
    /// Objects that change without a notice: the fast path's, but for the peers, which nobody but us writes.
    pub fn silent(state: &State) -> impl Iterator<Item = (&Self, &Object)> {
        let attachments = state.range(Self::Attachment(Place::FIRST)..);
        state.range(Self::LiberalConntrack..=Self::FastPath).chain(attachments)
    }
}

/// Knobs of a VXLAN device that are not link attributes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Setting {
    /// `net.ipv6.conf.DEV.accept_ra`; flannel turns it off.
    AcceptRa,
    /// `tx-checksum-ip-generic`, through ethtool.
    TxChecksum,
}

/// What stands under a [`Key`]. The variant matches the key's; a [`Key::Device`] is one of two kinds.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Object {
    Device(Box<Device>),
    /// The device of the userspace datapath.
    Tun(Tun),
    /// Off or on.
    Setting(bool),
    Address,
    Filter(Box<FilterPolicy>),
    Guard,
    Neighbour(Mac),
    /// Outer destination.
    Fdb(IpAddr),
    Nexthop,
    Forward(Forward),
    Engine(Box<EnginePolicy>),
    Route(Route),
    FastPath(Box<FastPathPolicy>),
    FastPeer {
        /// Its end of the tunnel.
        outer: IpAddr,
        /// It takes IPv6 tunnel packets without UDP checksum.
        zero_checksum: bool,
    },
    /// With the largest packet that a pod's interface takes; 0 for others.
    Attachment {
        mtu: u32,
    },
}

/// A VXLAN device with what we set on it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Device {
    pub name: String,
    pub vni: u32,
    pub port: u16,
    pub mac: Mac,
    pub mtu: u32,
    /// Interface index of the uplink.
    pub uplink: u32,
    /// Source of the outer packets.
    pub local: IpAddr,
    pub learning: bool,
    pub gbp: bool,
    pub up: bool,
}

impl Device {
    /// The kernel cannot change these on a living device (`vxlan_nl2conf` with changelink,
    /// `drivers/net/vxlan/vxlan_core.c`, 6.18): it has to be deleted and made anew.
    pub fn must_recreate(&self, wanted: &Self) -> bool {
        self.vni != wanted.vni
            || self.port != wanted.port
            || self.gbp != wanted.gbp
            || self.local.is_ipv4() != wanted.local.is_ipv4()
    }
}

impl Object {
    /// The MTU of an attachment that lacks a program, or runs another: one that nobody wants.
    pub const ODD_ATTACHMENT: u32 = u32::MAX;

    /// A [`Key::Device`] of this kind cannot become the other without being made anew.
    pub fn must_recreate(&self, wanted: &Self) -> bool {
        match (self, wanted) {
            (Self::Device(from), Self::Device(to)) => from.must_recreate(to),
            (Self::Device(_), Self::Tun(_)) | (Self::Tun(_), Self::Device(_)) => true,
            _ => false,
        }
    }
}

/// A route of the main table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Route {
    pub via: Via,
    /// `rtm_protocol`. Ours is [`Self::PROTOCOL`]; flannel's is 3, boot. A route of flannel's
    /// differs from the wanted one by this alone, and is replaced in place.
    pub protocol: u8,
}

impl Route {
    /// Our own `rtm_protocol`: no routing suite has registered it in iproute2's `rt_protos`.
    pub const PROTOCOL: u8 = 102;
    /// What flannel's netlink library leaves in the field (`RTPROT_BOOT`).
    pub const FLANNEL_PROTOCOL: u8 = 3;

    /// A route that we make.
    pub const fn ours(via: Via) -> Self {
        Self { via, protocol: Self::PROTOCOL }
    }
}

/// Where a route leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Via {
    /// Onlink through the VXLAN device of the destination's family; the gateway is the
    /// destination's base address. `nexthop`: by way of [`Key::Nexthop`].
    Overlay { nexthop: bool },
    /// Into our device, without a gateway: the userspace datapath looks at the destination itself.
    Device,
    /// Through the uplink, straight to the peer.
    Direct { gateway: IpAddr },
    /// Nowhere: keeps packets for absent pods of our own subnet from leaving the node.
    Blackhole,
    /// What was observed is none of the above.
    Other,
}

/// One change: what stood there, what shall stand there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Op {
    pub key: Key,
    pub from: Option<Object>,
    pub to: Option<Object>,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Device(family) => write!(f, "{family} tunnel device"),
            Self::Setting(family, setting) => write!(f, "{setting} of the {family} tunnel device"),
            Self::Address(_, net) => write!(f, "address {net}"),
            Self::Filter => f.write_str("packet filter rules"),
            Self::Guard(outer, inner) => write!(f, "guard entry {outer} carries {inner}"),
            Self::Neighbour(ip) => write!(f, "neighbour {ip}"),
            Self::Fdb(family, mac) => write!(f, "{family} FDB entry {mac}"),
            Self::Nexthop(gateway) => write!(f, "nexthop {gateway}"),
            Self::Forward(net) => write!(f, "forwarding entry {net}"),
            Self::Engine(family) => write!(f, "{family} userspace engine"),
            Self::Route(dst) => write!(f, "route {dst}"),
            Self::LiberalConntrack => f.write_str("nf_conntrack_tcp_be_liberal"),
            Self::FastPath => f.write_str("fast path settings"),
            Self::FastPeer(net) => write!(f, "fast path entry {net}"),
            Self::Attachment(Place::Uplink(index)) => write!(f, "BPF programs of the uplink (interface {index})"),
            Self::Attachment(Place::Vtep(family)) => write!(f, "BPF program of the {family} VXLAN device"),
            Self::Attachment(Place::Pod(index)) => write!(f, "BPF programs of pod interface {index}"),
        }
    }
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AcceptRa => "accept_ra",
            Self::TxChecksum => "transmit checksum offload",
        })
    }
}

impl TxChecksum {
    /// The setting to keep, if any.
    pub fn wanted(self) -> Option<bool> {
        match self {
            Self::Auto => None,
            Self::On => Some(true),
            Self::Off => Some(false),
        }
    }
}
