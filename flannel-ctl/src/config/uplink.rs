//! PURE: which interface carries the tunnel, and with which addresses.
//!
//! flannel's rules (`pkg/ipmatch/match.go`), with two differences: a public address need not be
//! local when an interface is named (NAT), and addresses that peers cannot dial are no choice.

mod address;
mod refusal;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use regex::Regex;

pub use refusal::NoUplink;
use refusal::Refusals;

use crate::model::{Family, LinkInfo, Uplink};

/// Index of every network namespace's loopback device (`LOOPBACK_IFINDEX`, include/net/flow.h).
const LOOPBACK: u32 = 1;

/// What the operator said about the uplink.
#[derive(Clone, Debug, Default)]
pub struct UplinkPolicy {
    /// Names or addresses, tried in order.
    pub ifaces: Vec<String>,
    /// Tried in order once every name missed: on addresses first, then on names.
    pub regexes: Vec<Regex>,
    /// Tried last.
    pub can_reach: Option<IpAddr>,
    pub public_v4: Option<Ipv4Addr>,
    pub public_v6: Option<Ipv6Addr>,
}

impl UplinkPolicy {
    /// The default route decides, unless a public address does.
    pub fn names_none(&self) -> bool {
        self.ifaces.is_empty() && self.regexes.is_empty() && self.can_reach.is_none()
    }
}

/// What the kernel's routing says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RouteHints {
    /// Interface indices of the default routes.
    pub default_v4: Option<u32>,
    pub default_v6: Option<u32>,
    /// Answer for [`UplinkPolicy::can_reach`]; `None` also when there is no route.
    pub reach: Option<Reach>,
}

/// Interface and source address of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reach {
    pub index: u32,
    pub source: IpAddr,
}

/// The first interface that fits. `families` are those of the network config.
pub fn choose(
    links: &[LinkInfo],
    policy: &UplinkPolicy,
    families: &[Family],
    routes: RouteHints,
) -> Result<Uplink, NoUplink> {
    let mut refusals = Refusals::default();
    for pick in picks(links, policy, families, routes) {
        let found = match pick.link {
            Ok(link) => fit(links, link, &pick, policy, families).map_err(|why| (Some(link), why)),
            Err(ref why) => Err((None, why.clone())),
        };
        match found {
            Ok(uplink) => return Ok(uplink),
            Err((link, why)) => refusals.add(link, &pick.by, &why),
        }
    }
    Err(refusals.into_error(links, policy))
}

/// A candidate, with the addresses that the rule which named it fixed.
struct Pick<'a> {
    /// The option that named it.
    by: String,
    link: Result<&'a LinkInfo, String>,
    fixed: Vec<IpAddr>,
}

/// All candidates in the order in which they are tried.
fn picks<'a>(links: &'a [LinkInfo], policy: &UplinkPolicy, families: &[Family], routes: RouteHints) -> Vec<Pick<'a>> {
    let mut picks: Vec<_> = policy.ifaces.iter().map(|iface| by_name_or_address(links, iface)).collect();
    for regex in &policy.regexes {
        picks.extend(by_regex(links, regex, families));
    }
    if let Some(target) = policy.can_reach {
        let link = match routes.reach {
            Some(reach) => by_index(links, reach.index),
            None => Err("no route leads there".into()),
        };
        let fixed = routes.reach.map(|reach| reach.source).into_iter().collect();
        picks.push(Pick { by: format!("--iface-can-reach={target}"), link, fixed });
    }
    if policy.names_none() {
        picks.push(
            by_public_address(links, policy, families).unwrap_or_else(|| by_default_route(links, families, routes)),
        );
    }
    picks
}

fn by_name_or_address<'a>(links: &'a [LinkInfo], iface: &str) -> Pick<'a> {
    let by = format!("--iface={iface}");
    if let Ok(ip) = iface.parse::<IpAddr>() {
        let link = address::owner(links, ip).ok_or_else(|| "no interface has this address".to_owned());
        return Pick { by, link, fixed: vec![ip] };
    }
    let link = links.iter().find(|link| link.name == iface).ok_or_else(|| "no interface has this name".to_owned());
    Pick { by, link, fixed: Vec::new() }
}

/// Interfaces with a matching address in every family, then those with a matching name. What
/// is down, or ours, cannot have been meant.
fn by_regex<'a>(links: &'a [LinkInfo], regex: &Regex, families: &[Family]) -> Vec<Pick<'a>> {
    let by = || format!("--iface-regex={regex}");
    let candidates = || links.iter().filter(|link| link.up && !is_ours(link));
    let addressed = candidates().filter_map(|link| {
        let matching =
            |family: &Family| address::usable(link, *family).into_iter().find(|ip| regex.is_match(&ip.to_string()));
        let fixed = families.iter().map(matching).collect::<Option<Vec<_>>>()?;
        Some(Pick { by: by(), link: Ok(link), fixed })
    });
    let named = candidates().filter(|link| regex.is_match(&link.name)).map(|link| Pick {
        by: by(),
        link: Ok(link),
        fixed: Vec::new(),
    });
    let picks: Vec<_> = addressed.chain(named).collect();
    if picks.is_empty() {
        return vec![Pick { by: by(), link: Err("matches no interface that could be used".into()), fixed: Vec::new() }];
    }
    picks
}

/// `--public-ip` alone names the interface that owns it. `--public-ipv6` does so only if an
/// interface owns it: an IPv6-only node may well be behind a translator. An address of the loopback device, as
/// routing daemons announce it, names none: peers reach it by way of another interface.
fn by_public_address<'a>(links: &'a [LinkInfo], policy: &UplinkPolicy, families: &[Family]) -> Option<Pick<'a>> {
    if let Some(ip) = policy.public_v4.filter(|_| families.contains(&Family::V4)) {
        let hint = "no interface has this address; if a router translates it, name the interface with --iface";
        let link = address::owner(links, ip.into()).ok_or_else(|| hint.to_owned());
        if link.as_ref().is_ok_and(|link| link.index == LOOPBACK) {
            return None;
        }
        return Some(Pick { by: format!("--public-ip={ip}"), link, fixed: vec![ip.into()] });
    }
    let ip = policy.public_v6.filter(|_| families == [Family::V6])?;
    let link = address::owner(links, ip.into()).filter(|link| link.index != LOOPBACK)?;
    Some(Pick { by: format!("--public-ipv6={ip}"), link: Ok(link), fixed: vec![ip.into()] })
}

fn by_default_route<'a>(links: &'a [LinkInfo], families: &[Family], routes: RouteHints) -> Pick<'a> {
    let index = |family: &Family| {
        let index = match family {
            Family::V4 => routes.default_v4,
            Family::V6 => routes.default_v6,
        };
        index.ok_or_else(|| format!("there is no {family} default route; name an interface with --iface"))
    };
    let indices: Result<Vec<_>, _> = families.iter().map(index).collect();
    let link = indices.and_then(|indices| match indices.as_slice() {
        [v4, v6] if v4 != v6 => {
            let name = |index| by_index(links, index).map_or_else(|why| why, |link| link.name.clone());
            Err(format!(
                "the IPv4 default route is on {} and the IPv6 one on {}; both must be on one, or name it with --iface",
                name(*v4),
                name(*v6)
            ))
        }
        [index, ..] => by_index(links, *index),
        [] => Err("no address family is in use".into()),
    });
    Pick { by: "default route".into(), link, fixed: Vec::new() }
}

fn by_index(links: &[LinkInfo], index: u32) -> Result<&LinkInfo, String> {
    links.iter().find(|link| link.index == index).ok_or_else(|| format!("interface {index} has gone"))
}

/// Has the interface all that the tunnel needs?
fn fit(
    links: &[LinkInfo],
    link: &LinkInfo,
    pick: &Pick<'_>,
    policy: &UplinkPolicy,
    families: &[Family],
) -> Result<Uplink, String> {
    if is_ours(link) {
        return Err("is our own tunnel device".into());
    }
    if link.mtu == 0 {
        return Err("has an MTU of 0".into());
    }
    let mut uplink = Uplink {
        index: link.index,
        name: link.name.clone(),
        mtu: link.mtu,
        ethernet: link.ethernet,
        filtered: false,
        v4: None,
        v6: None,
        public_v4: None,
        public_v6: None,
    };
    let mut missing = Vec::new();
    for family in families {
        let public = match family {
            Family::V4 => policy.public_v4.map(IpAddr::V4),
            Family::V6 => policy.public_v6.map(IpAddr::V6),
        };
        match address::select(links, link, *family, &pick.fixed, public) {
            Ok(IpAddr::V4(ip)) => (uplink.v4, uplink.public_v4) = (Some(ip), Some(policy.public_v4.unwrap_or(ip))),
            Ok(IpAddr::V6(ip)) => (uplink.v6, uplink.public_v6) = (Some(ip), Some(policy.public_v6.unwrap_or(ip))),
            Err(why) => missing.push(why),
        }
    }
    let public_elsewhere = pick.by.starts_with("--public-ip=")
        && policy.public_v6.is_some_and(|ip| families.contains(&Family::V6) && !address::has(link, ip.into()));
    if public_elsewhere {
        missing.push("does not have the address of --public-ipv6 as well".into());
    }
    if missing.is_empty() { Ok(uplink) } else { Err(missing.join(" and ")) }
}

fn is_ours(link: &LinkInfo) -> bool {
    link.name.starts_with("flannel.") || link.name.starts_with("flannel-v6.")
}
