//! What a node knows of itself, and what its operator chose.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use ipnet::IpNet;

use super::announce::Vteps;
use crate::model::{AddressRange, Backend, Family, Mac, Network, PodLink, Subnet, TxChecksum, Uplink, VxlanConfig};

/// All that this node knows of itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Facts {
    pub network: Network,
    pub subnet: Subnet,
    pub uplink: Uplink,
    /// VTEP addresses; what the lease publishes.
    pub mac_v4: Mac,
    pub mac_v6: Mac,
    /// Our IPv6 device takes tunnel packets whose UDP checksum is zero; the lease says so.
    pub zero_checksum_v6: bool,
    pub options: Options,
    /// Interfaces that lead to pods. Filled in only where there is a fast path.
    pub pods: BTreeMap<u32, PodLink>,
    /// Peer addresses that the kernel reaches through the uplink without a gateway. Filled in
    /// only where direct routes are wanted.
    pub on_link: BTreeMap<IpAddr, bool>,
}

/// What the operator chose.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Options {
    pub tx_checksum: TxChecksum,
    /// Masquerade per family.
    pub masquerade_v4: bool,
    pub masquerade_v6: bool,
    pub masquerade_exclude: Vec<IpNet>,
    pub masquerade_fully_random: bool,
    /// Accept forwarded packets of the network.
    pub forward: bool,
    /// Tunnel packets from strangers: `None` lets them in.
    pub guard: Option<Guard>,
    /// Keep a blackhole route for our own subnet.
    pub blackhole: bool,
    /// The kernel has nexthop objects (5.3 and later).
    pub nexthops: bool,
    /// `None`: no BPF programs are loaded.
    pub fast_path: Option<FastOptions>,
    /// A vxlan network's packets are carried by threads of ours instead of the kernel's device.
    pub userspace: bool,
}

/// The fast path as the operator wants it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FastOptions {
    /// `false`: attached, and every packet is left to the kernel path.
    pub enabled: bool,
    /// How long a flow is believed before it is proved again.
    pub validity: Duration,
    /// New flows that one pod may have learned in a second.
    pub pod_rate: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guard {
    Drop,
    Count,
}

impl Facts {
    /// MTU of the VXLAN device of that family. The kernel caps it at the uplink's MTU less the
    /// overhead (`vxlan_change_mtu`, `drivers/net/vxlan/vxlan_core.c`), whatever the config says.
    pub fn device_mtu(&self, vxlan: &VxlanConfig, family: Family) -> u32 {
        let underlay = vxlan.mtu.map_or(self.uplink.mtu, |mtu| mtu.min(self.uplink.mtu));
        underlay.saturating_sub(family.vxlan_overhead())
    }

    /// What pods may send: the smallest MTU of any path that the network has.
    pub fn pod_mtu(&self) -> u32 {
        match &self.network.backend {
            Backend::Vxlan(vxlan) => {
                let families = self.network.families().map(|family| self.device_mtu(vxlan, family));
                families.min().unwrap_or(self.uplink.mtu)
            }
            Backend::HostGw | Backend::Alloc => self.uplink.mtu,
            // Its wire has IPv4 alone.
            Backend::Udp { .. } => self.uplink.mtu.saturating_sub(Family::V4.udp_overhead()),
        }
    }

    pub fn mac(&self, family: Family) -> Mac {
        match family {
            Family::V4 => self.mac_v4,
            Family::V6 => self.mac_v6,
        }
    }

    /// What the lease says of our devices.
    pub fn vteps(&self) -> Vteps {
        Vteps { mac_v4: self.mac_v4, mac_v6: self.mac_v6, zero_checksum_v6: self.zero_checksum_v6 }
    }

    pub fn device_name(vni: u32, family: Family) -> String {
        match family {
            Family::V4 => format!("flannel.{vni}"),
            Family::V6 => format!("flannel-v6.{vni}"),
        }
    }

    /// The device of flannel's udp backend.
    pub const UDP_DEVICE: &str = "flannel0";

    /// The tunnel's devices.
    pub fn devices_of(network: &Network) -> Vec<String> {
        match &network.backend {
            Backend::Vxlan(vxlan) => network.families().map(|family| Self::device_name(vxlan.vni, family)).collect(),
            Backend::Udp { .. } => vec![Self::UDP_DEVICE.to_owned()],
            Backend::HostGw | Backend::Alloc => Vec::new(),
        }
    }

    /// Packets are carried by threads of ours.
    pub fn in_userspace(&self) -> bool {
        match self.network.backend {
            Backend::Vxlan(_) => self.options.userspace,
            Backend::Udp { .. } => true,
            Backend::HostGw | Backend::Alloc => false,
        }
    }

    /// Families that both the network and our lease have.
    pub(super) fn families(&self) -> impl Iterator<Item = (Family, AddressRange, IpNet)> + use<'_> {
        self.network
            .families()
            .filter_map(|family| Some((family, self.network.range(family)?, self.subnet.net(family)?)))
    }

    /// Why no packet takes the fast path however well its programs work.
    pub fn no_fast_path(&self) -> Option<&'static str> {
        if !self.uplink.ethernet {
            return Some("the uplink's packets have no Ethernet header: all take the kernel path");
        }
        // They come behind programs of the newer kind, and would not see what the fast path takes.
        self.uplink.filtered.then_some(
            "somebody filters what comes in by the uplink (an ingress or clsact queueing discipline): \
             all take the kernel path, past those filters",
        )
    }

    pub(super) fn guards(&self) -> bool {
        self.options.guard.is_some() && matches!(self.network.backend, Backend::Vxlan(_)) && !self.options.userspace
    }
}

/// The public address when it is a local one; behind NAT it is not, and the kernel could not send from it.
pub(super) fn local_address(uplink: &Uplink, family: Family) -> Option<IpAddr> {
    match family {
        Family::V4 => uplink.v4.map(IpAddr::V4),
        Family::V6 => uplink.v6.map(IpAddr::V6),
    }
}
