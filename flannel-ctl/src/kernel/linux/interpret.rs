//! What a notice means.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use nix::libc;

use super::{LinuxKernel, classify};
use crate::{
    kernel::{
        Interpretation, Notice,
        netlink::{address::Address, fdb, link::Link, neighbour::Neighbour, nexthop::Nexthop, route::Entry},
    },
    model::{Family, Key, Route},
};

impl LinuxKernel {
    pub(super) fn meaning_of(&mut self, notice: &Notice) -> Interpretation {
        match notice {
            Notice::Link { gone, link } => self.link_notice(*gone, link),
            Notice::Address { gone, address } => self.address_notice(*gone, address),
            Notice::Neighbour { gone, neighbour } => self.neighbour_notice(*gone, neighbour),
            Notice::Route { gone, replaced, route } => self.route_notice(*gone, *replaced, route),
            Notice::Nexthop { gone, nexthop } => self.nexthop_notice(*gone, nexthop),
            Notice::EngineEnded => Interpretation::Resync("the userspace engine ended"),
            Notice::TrafficControl { .. } if self.fast.is_none() => Interpretation::Irrelevant,
            Notice::TrafficControl { interface } if *interface == self.scope.uplink => Interpretation::Uplink,
            Notice::TrafficControl { .. } => Interpretation::Pods,
            Notice::Overflow => {
                self.uplink = super::Underlay::default();
                Interpretation::Resync("notices were lost")
            }
            Notice::Deaf(_) => Interpretation::Resync("no notices come"),
        }
    }

    fn link_notice(&mut self, gone: bool, link: &Link) -> Interpretation {
        if link.index == self.scope.uplink {
            return self.uplink_notice(gone, link);
        }
        for family in Family::ALL {
            let named = self.scope.device_name(family).is_some_and(|name| name == link.name);
            if named || link.index == self.device_index(family) {
                return self.device_notice(family, gone, link);
            }
        }
        // Without a word of their own, IPv4 routes vanish when their device goes down; as every
        // device does before it is deleted.
        let down = !is_birth(link) && link.change & libc::IFF_UP.cast_unsigned() != 0 && !link.is_up();
        let pod = link.kind.as_deref() == Some("veth");
        if down {
            self.routes = None;
        }
        if pod && (gone || down) {
            // Its flows must not be sent to nowhere.
            self.doubt_all_flows();
        }
        match (gone, down) {
            (false, true) => Interpretation::Topology,
            _ if pod && self.fast.is_some() => Interpretation::Pods,
            _ => Interpretation::Irrelevant,
        }
    }

    fn device_notice(&mut self, family: Family, gone: bool, link: &Link) -> Interpretation {
        let known = self.device(family).filter(|known| known.index == link.index);
        if gone {
            // The end of one that we have replaced ourselves is old news.
            if known.is_none() {
                return Interpretation::Irrelevant;
            }
            *self.device_slot(family) = None;
            return Interpretation::Resync("the tunnel device was deleted");
        }
        // That of the device that we know already tells of the time before it was set up.
        let as_known =
            |known: &Link| known.to_object(family) == link.to_object(family) && is_running(known) == is_running(link);
        let same = known.is_some_and(|known| is_birth(link) || as_known(known));
        if same {
            return Interpretation::Irrelevant;
        }
        Interpretation::Resync("the tunnel device was changed")
    }

    fn uplink_notice(&mut self, gone: bool, link: &Link) -> Interpretation {
        let known = self.uplink.link.replace(link.clone());
        if gone {
            self.uplink = super::Underlay::default();
            return Interpretation::Uplink;
        }
        match known {
            Some(known) if (&known.name, known.mtu) == (&link.name, link.mtu) => {
                if is_running(&known) == is_running(link) {
                    Interpretation::Irrelevant
                } else {
                    Interpretation::Resync("the uplink went down or up")
                }
            }
            _ => Interpretation::Uplink,
        }
    }

    fn address_notice(&mut self, gone: bool, address: &Address) -> Interpretation {
        let devices = self.devices();
        if let Some((key, object)) = classify::address(&self.scope, devices, address) {
            return if gone {
                // With its last IPv4 address a device loses its IPv4 routes and neighbours.
                Interpretation::Resync("an address of the tunnel device was removed")
            } else {
                Interpretation::Changed(key, Some(object))
            };
        }
        if address.index == self.scope.uplink {
            let now = (!gone).then(|| address.telling_flags());
            let before = self.uplink.addresses.insert(address.net, now);
            return if before == Some(now) { Interpretation::Irrelevant } else { Interpretation::Uplink };
        }
        if gone {
            // With it go the IPv4 routes that prefer it as their source.
            self.routes = None;
        }
        let overlay = devices.contains(&address.index) || self.scope.covers(&address.net);
        if overlay || is_link_local(&address.net) { Interpretation::Irrelevant } else { Interpretation::Topology }
    }

    fn neighbour_notice(&mut self, gone: bool, neighbour: &Neighbour) -> Interpretation {
        let devices = self.devices();
        if !gone && !neighbour.dated && neighbour.family == fdb::FAMILY {
            // Before 6.13 each entry that is put is told of twice: by its device, and in general, without its destination
            // (`rtnl_fdb_notify`, `net/core/rtnetlink.c`).
            return Interpretation::Irrelevant;
        }
        if let Some((key, object)) = classify::neighbour(devices, neighbour) {
            return Interpretation::Changed(key, (!gone && neighbour.is_permanent()).then_some(object));
        }
        self.follow_neighbour(gone, neighbour);
        // Without a MAC it is one that the kernel is still, or again, asking for.
        match neighbour.ip {
            Some(ip) if neighbour.family != fdb::FAMILY => {
                let index = classify::index(devices, Family::of(&ip));
                let ours = index != 0 && neighbour.index == index;
                if ours { Interpretation::Changed(Key::Neighbour(ip), None) } else { Interpretation::Irrelevant }
            }
            _ => Interpretation::Irrelevant,
        }
    }

    fn route_notice(&mut self, gone: bool, replaced: bool, entry: &Entry) -> Interpretation {
        if !entry.is_main() || entry.flags & libc::RTM_F_CLONED != 0 {
            // The local table follows the addresses, of which there are notices.
            return if self.routes_elsewhere(entry) { Interpretation::Topology } else { Interpretation::Irrelevant };
        }
        if let Some((key, object)) = classify::route(&self.scope, self.devices(), entry) {
            return Interpretation::Changed(key, (!gone).then_some(object));
        }
        if self.scope.covers(&entry.dst) {
            // IPv6 routes to one destination by different gateways are one route, of everybody who added to it.
            if Family::of_net(&entry.dst) == Family::V6 && self.scope.may_be_leased(&entry.dst) {
                if !gone && entry.special {
                    return Interpretation::Resync("a route was joined by another");
                }
                self.routes = None;
            }
            // Pods' routes, mostly. But one that took the place of ours ends it silently.
            return if replaced {
                Interpretation::Changed(Key::Route(entry.dst), None)
            } else {
                Interpretation::Irrelevant
            };
        }
        if is_link_local(&entry.dst) && entry.device != self.scope.uplink {
            return Interpretation::Irrelevant;
        }
        Interpretation::Topology
    }

    /// A table that policy rules may point to.
    fn routes_elsewhere(&self, entry: &Entry) -> bool {
        let local = u32::from(libc::RT_TABLE_LOCAL);
        entry.table != local && entry.flags & libc::RTM_F_CLONED == 0 && !self.scope.covers(&entry.dst)
    }

    fn nexthop_notice(&mut self, gone: bool, nexthop: &Nexthop) -> Interpretation {
        if nexthop.protocol != Route::PROTOCOL && !gone {
            // Perhaps in the place of ours, of whose end the kernel says nothing.
            return Interpretation::Changed(Key::Nexthop(nexthop.id.into()), None);
        }
        if gone {
            // The kernel removes the routes that used it and does not say so.
            self.routes = None;
            let address = IpNet::from(IpAddr::from(Ipv4Addr::from(nexthop.id)));
            return if nexthop.protocol == Route::PROTOCOL || self.scope.covers(&address) {
                Interpretation::Resync("a nexthop object was deleted")
            } else {
                Interpretation::Irrelevant
            };
        }
        match classify::nexthop(self.devices(), nexthop, |_| true) {
            Some((key, object)) => Interpretation::Changed(key, Some(object)),
            None => Interpretation::Resync("a nexthop object was changed"),
        }
    }
}

/// Every interface gets such an IPv6 address and its route some time after it went up, each new pod's too, and no peer
/// is dialled by way of them.
fn is_link_local(net: &IpNet) -> bool {
    matches!(net, IpNet::V6(net) if net.addr().is_unicast_link_local())
}

/// The first notice of a device: it says that all flags changed (`rtnl_configure_link`, 6.18).
fn is_birth(link: &Link) -> bool {
    link.change == u32::MAX
}

/// With the last of these two gone, the kernel takes the device's nexthop objects and their routes without a word.
fn is_running(link: &Link) -> (bool, bool) {
    (link.is_up(), link.has(libc::IFF_LOWER_UP))
}
