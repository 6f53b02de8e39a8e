//! What is ours.

use ipnet::IpNet;

use crate::{
    model::{AddressRange, Backend, Family, Subnet},
    plan::Facts,
};

/// Tells our objects, and those of a flannel that we take over from, from everybody else's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    /// Names the VXLAN devices; `None` where the backend has none.
    pub vni: Option<u32>,
    /// Backend udp, whose one device is a TUN of its own name.
    pub udp: bool,
    /// Interface index; 0 while unknown.
    pub uplink: u32,
    pub v4: Option<AddressRange>,
    pub v6: Option<AddressRange>,
    /// Our own lease.
    pub own: Option<Subnet>,
}

impl Scope {
    pub fn device_name(&self, family: Family) -> Option<String> {
        if self.udp && family == Family::V4 {
            return Some(Facts::UDP_DEVICE.to_owned());
        }
        Some(Facts::device_name(self.vni?, family))
    }

    pub fn range(&self, family: Family) -> Option<AddressRange> {
        match family {
            Family::V4 => self.v4,
            Family::V6 => self.v6,
        }
    }

    /// Inside the network of its family.
    pub fn covers(&self, net: &IpNet) -> bool {
        self.range(Family::of_net(net)).is_some_and(|range| range.network.contains(net))
    }

    /// Could be another node's subnet.
    pub fn may_be_leased(&self, net: &IpNet) -> bool {
        let family = Family::of_net(net);
        self.covers(net)
            && self.range(family).is_some_and(|range| range.subnet_len == net.prefix_len())
            && self.own.and_then(|own| own.net(family)) != Some(*net)
    }
}

impl From<&Facts> for Scope {
    fn from(facts: &Facts) -> Self {
        let udp = matches!(facts.network.backend, Backend::Udp { .. });
        Self {
            vni: facts.network.backend.vni(),
            udp,
            uplink: facts.uplink.index,
            v4: facts.network.v4,
            v6: facts.network.v6,
            own: Some(facts.subnet),
        }
    }
}
