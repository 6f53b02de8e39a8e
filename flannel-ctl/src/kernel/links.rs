//! Interfaces, addresses and routes of the host: what the choice of the uplink is made from.

use std::{collections::BTreeMap, net::IpAddr};

use nix::{errno::Errno, libc};

use super::{
    KernelError,
    linux::explain,
    netlink::{
        address::{self, Address},
        filter,
        link::{self, Link},
        nexthop::{self, Nexthop},
        refusal::Refusal,
        route::{self, Entry},
        socket::Socket,
        wire::Request,
    },
};
use crate::model::{Family, LinkAddress, LinkInfo};

/// Reads; changes nothing.
pub struct Links {
    socket: Socket,
}

/// How the kernel would send to an address now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reach {
    /// Interface index.
    pub link: u32,
    /// The source address that it would use.
    pub source: Option<IpAddr>,
    /// `None`: on-link.
    pub gateway: Option<IpAddr>,
}

impl Links {
    pub fn open() -> Result<Self, KernelError> {
        let socket = Socket::open().map_err(|refusal| explain("open a netlink socket", &refusal, None))?;
        Ok(Self { socket })
    }

    /// Every interface with its addresses, in the kernel's order.
    pub fn list(&mut self) -> Result<Vec<LinkInfo>, KernelError> {
        let attempt = |refusal: Refusal| explain("list the interfaces", &refusal, None);
        let links = self.socket.dump(link::list(), Link::read).map_err(attempt)?;
        let mut addresses: BTreeMap<u32, Vec<LinkAddress>> = BTreeMap::new();
        for found in self.socket.dump(address::list(None, 0), Address::read).map_err(attempt)? {
            addresses.entry(found.index).or_default().push(link_address(&found));
        }
        Ok(links
            .into_iter()
            .map(|link| LinkInfo {
                index: link.index,
                up: link.is_up(),
                ethernet: link.ethernet,
                mtu: link.mtu,
                addresses: addresses.remove(&link.index).unwrap_or_default(),
                name: link.name,
            })
            .collect())
    }

    /// Interfaces that default routes of the main table lead through, the preferred first.
    pub fn default_links(&mut self, family: Family) -> Result<Vec<u32>, KernelError> {
        let is_default = |entry: &Entry| {
            entry.is_main() && entry.dst.prefix_len() == 0 && entry.kind == libc::RTN_UNICAST && entry.device != 0
        };
        let request = route::list(family, None);
        let found = match family {
            Family::V4 => first_routes(request, is_default),
            Family::V6 => self.socket.dump(request, |payload| Entry::read(payload).filter(is_default)),
        };
        let mut found = match found {
            Err(refusal) if route::has_none(refusal.errno) => Vec::new(),
            found => found.map_err(|refusal| explain("list the default routes", &refusal, None))?,
        };
        found.sort_by_key(|entry| entry.metric);
        Ok(found.iter().map(|entry| entry.device).collect())
    }

    /// How the kernel would send to `ip`; `None`: it would not.
    pub fn reach(&mut self, ip: IpAddr) -> Result<Option<Reach>, KernelError> {
        match self.socket.ask(&[route::lookup(ip)], Entry::read).remove(0) {
            Ok(entry) => Ok(Some(Reach { link: entry.device, source: entry.source, gateway: entry.gateway })),
            Err(refusal) if is_no_route(refusal.errno) => Ok(None),
            Err(refusal) => Err(explain(&format!("look up the route to {ip}"), &refusal, None)),
        }
    }

    /// Whether traffic filters that are not ours look at what comes in by an interface.
    pub fn is_filtered_by_others(&mut self, interface: u32) -> Result<bool, KernelError> {
        filter::others(&mut self.socket, interface, filter::Direction::Ingress)
            .map_err(|refusal| explain("list the traffic filters of the uplink", &refusal, None))
    }

    /// The VXLAN device of that name, if there is one.
    pub fn vxlan(&mut self, name: &str) -> Result<Option<Link>, KernelError> {
        match self.socket.ask(&[link::get_by_name(name)], Link::read).remove(0) {
            Ok(link) => Ok(Some(link).filter(|link| link.vxlan.is_some())),
            Err(refusal) if refusal.errno == Errno::ENODEV => Ok(None),
            Err(refusal) => Err(explain(&format!("look up interface {name}"), &refusal, None)),
        }
    }

    /// Whether this kernel has VXLAN devices, loading the module if need be; and its answer if it has not.
    pub fn has_vxlan(&mut self) -> Result<(), KernelError> {
        match self.socket.run(link::impossible_vxlan()) {
            Err(refusal) if refusal.errno == Errno::EOPNOTSUPP => Err(explain("make a VXLAN device", &refusal, None)),
            // That it lacks its VNI, or that we may not make it: the attempt itself will tell.
            _ => Ok(()),
        }
    }

    /// TUN devices that stay when nobody reads them, whoever made them.
    pub fn lasting_tuns(&mut self) -> Result<Vec<Link>, KernelError> {
        let found = self.socket.dump(link::list(), |payload| Link::read(payload).filter(|link| link.lasting_tun));
        found.map_err(|refusal| explain("list the interfaces", &refusal, None))
    }

    /// Every VXLAN device, whoever made it.
    pub fn vxlans(&mut self) -> Result<Vec<Link>, KernelError> {
        let found = self.socket.dump(link::list(), |payload| Link::read(payload).filter(|link| link.vxlan.is_some()));
        found.map_err(|refusal| explain("list the interfaces", &refusal, None))
    }

    /// Routes of the main table with this protocol number, both families.
    pub fn routes(&mut self, protocol: u8) -> Result<Vec<Entry>, KernelError> {
        let mut all = Vec::new();
        for family in Family::ALL {
            let found = self.socket.dump(route::list(family, Some(protocol)), |payload| {
                Entry::read(payload).filter(|entry| entry.is_main() && entry.protocol == protocol)
            });
            match found {
                Err(refusal) if route::has_none(refusal.errno) => {}
                found => all.extend(found.map_err(|refusal| explain("list the routes", &refusal, None))?),
            }
        }
        Ok(all)
    }

    /// Nexthop objects with this protocol number.
    pub fn nexthops(&mut self, protocol: u8) -> Result<Vec<Nexthop>, KernelError> {
        let found = self
            .socket
            .dump(nexthop::list(0), |payload| Nexthop::read(payload).filter(|nexthop| nexthop.protocol == protocol));
        match found {
            Err(refusal) if is_family_off(refusal.errno) => Ok(Vec::new()),
            found => found.map_err(|refusal| explain("list the nexthops", &refusal, None)),
        }
    }

    /// VXLAN devices with flannel's or our kind of name, and their VNI: what a network config
    /// that is gone has left behind.
    pub fn vxlan_devices(&mut self) -> Result<Vec<(String, u32)>, KernelError> {
        let found = self.socket.dump(link::list(), |payload| {
            let link = Link::read(payload)?;
            let vni = link.vxlan?.vni;
            let named = Family::ALL.iter().any(|family| crate::plan::Facts::device_name(vni, *family) == link.name);
            named.then_some((link.name, vni))
        });
        found.map_err(|refusal| explain("list the interfaces", &refusal, None))
    }
}

/// Which addresses are reached through `uplink` without a gateway. An address without a route
/// is not.
pub(super) fn on_link(socket: &mut Socket, uplink: u32, addresses: &[IpAddr]) -> Vec<Result<bool, KernelError>> {
    let questions: Vec<_> = addresses.iter().map(|ip| route::lookup(*ip)).collect();
    let answers = socket.ask(&questions, Entry::read);
    let judged = addresses.iter().zip(answers).map(|(ip, answer)| match answer {
        Ok(entry) => {
            Ok(uplink != 0 && entry.device == uplink && entry.gateway.is_none() && entry.kind == libc::RTN_UNICAST)
        }
        Err(refusal) if is_no_route(refusal.errno) => Ok(false),
        Err(refusal) => Err(explain(&format!("look up the route to {ip}"), &refusal, None)),
    });
    judged.collect()
}

/// Of the routes to 0.0.0.0. They are told first, in the order of destinations (`fib_table_dump`, `net/ipv4/fib_trie.c`,
/// 6.18): before ten thousand peers.
fn first_routes(request: Request, wanted: impl Fn(&Entry) -> bool) -> Result<Vec<Entry>, Refusal> {
    let mut found = Vec::new();
    Socket::open()?.beginning(request, |payload| {
        let Some(entry) = Entry::read(payload) else { return true };
        found.extend(Some(entry).filter(|entry| wanted(entry)));
        !entry.is_main() || entry.dst.addr().is_unspecified()
    })?;
    Ok(found)
}

fn link_address(found: &Address) -> LinkAddress {
    let v6 = found.net.addr().is_ipv6();
    LinkAddress {
        ip: found.net.addr(),
        prefix_len: found.net.prefix_len(),
        scope_global: found.scope == libc::RT_SCOPE_UNIVERSE,
        temporary: v6 && found.flags & libc::IFA_F_TEMPORARY != 0,
        dynamic: found.flags & libc::IFA_F_PERMANENT == 0,
        deprecated: found.flags & libc::IFA_F_DEPRECATED != 0,
    }
}

/// "No route to host" and its kin: an unreachable, prohibit or blackhole route answers so too.
fn is_no_route(errno: Errno) -> bool {
    matches!(errno, Errno::ENETUNREACH | Errno::EHOSTUNREACH | Errno::EACCES | Errno::EINVAL) || is_family_off(errno)
}

fn is_family_off(errno: Errno) -> bool {
    matches!(errno, Errno::EOPNOTSUPP | Errno::EAFNOSUPPORT)
}
