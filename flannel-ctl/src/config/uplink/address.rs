//! Which of an interface's addresses the tunnel uses.

use std::net::IpAddr;

use crate::model::{Family, LinkAddress, LinkInfo};

/// The interface that has the address.
pub(super) fn owner(links: &[LinkInfo], ip: IpAddr) -> Option<&LinkInfo> {
    links.iter().find(|link| has(link, ip))
}

pub(super) fn has(link: &LinkInfo, ip: IpAddr) -> bool {
    link.addresses.iter().any(|address| address.ip == ip)
}

/// Addresses that peers may dial, the best first: global scope over link scope, permanent over
/// dynamic, stable over temporary, then the kernel's order.
pub(super) fn usable(link: &LinkInfo, family: Family) -> Vec<IpAddr> {
    let mut usable: Vec<&LinkAddress> = link
        .addresses
        .iter()
        .filter(|address| Family::of(&address.ip) == family && !address.deprecated && dialable(address.ip))
        .collect();
    usable.sort_by_key(|address| (!address.scope_global, address.dynamic, address.temporary));
    usable.into_iter().map(|address| address.ip).collect()
}

/// The tunnel's own address. The public one comes first if it is this host's, on whatever interface: peers take packets
/// only from where they send theirs. Then comes what a rule fixed.
pub(super) fn select(
    links: &[LinkInfo],
    link: &LinkInfo,
    family: Family,
    fixed: &[IpAddr],
    public: Option<IpAddr>,
) -> Result<IpAddr, String> {
    if let Some(public) = public.filter(|public| dialable(*public) && owner(links, *public).is_some()) {
        return Ok(public);
    }
    if let Some(ip) = fixed.iter().find(|ip| Family::of(ip) == family) {
        return if dialable(*ip) { Ok(*ip) } else { Err(format!("{ip} is no address that peers can dial")) };
    }
    usable(link, family).first().copied().ok_or_else(|| missing(link, family))
}

fn missing(link: &LinkInfo, family: Family) -> String {
    let mut addresses = link.addresses.iter().filter(|address| Family::of(&address.ip) == family).peekable();
    if addresses.peek().is_none() && family == Family::V6 && link.up {
        // An interface that is up has at least a link-local one.
        format!("has no IPv6 address at all: is net.ipv6.conf.{}.disable_ipv6 set", link.name)
    } else if addresses.peek().is_none() {
        format!("has no {family} address")
    } else if addresses.any(|address| address.deprecated && dialable(address.ip)) {
        format!("has only deprecated {family} addresses")
    } else {
        format!("has no {family} address that peers can dial")
    }
}

fn dialable(ip: IpAddr) -> bool {
    let link_local = match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    !(link_local || ip.is_loopback() || ip.is_unspecified() || ip.is_multicast())
}
