//! Routes of the main table: `ip route`.

use std::net::IpAddr;

use ipnet::IpNet;
use nix::{errno::Errno, libc};

use super::wire::{Put, Request, attributes, family, ip, u32_at};
use crate::model::Family;

/// Length of `struct rtmsg`.
const BODY: usize = 12;
const RTA_NH_ID: u16 = 30;
/// `linux/rtnetlink.h`: the gateway is on the link whatever the addresses say.
const RTNH_F_ONLINK: u32 = 4;
/// What the kernel gives an IPv6 route that names none (`IP6_RT_PRIO_USER`); for IPv4 it is 0.
pub(crate) const V6_METRIC: u32 = 1024;

/// Metric of a blackhole: the last choice of all, so that a bridge's own route to the same
/// range, whenever it comes, is preferred.
pub const BLACKHOLE_METRIC: u32 = u32::MAX;

/// A route as the kernel describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    pub dst: IpNet,
    pub table: u32,
    /// `RTPROT_*`.
    pub protocol: u8,
    /// `RTN_*`.
    pub kind: u8,
    /// `RTM_F_*` and `RTNH_F_*`.
    pub flags: u32,
    pub gateway: Option<IpAddr>,
    /// Interface index; 0 is none.
    pub device: u32,
    pub metric: u32,
    /// Id of its nexthop object; 0 is none.
    pub nexthop: u32,
    /// Several gateways, a gateway of the other family, tunnel headers, or for some packets
    /// only (source, TOS).
    pub special: bool,
    /// Preferred source address; what a lookup answers with.
    pub source: Option<IpAddr>,
}

impl Entry {
    /// Reads an `RTM_NEWROUTE` or `RTM_DELROUTE` of IPv4 or IPv6.
    pub(crate) fn read(payload: &[u8]) -> Option<Self> {
        let &[family, dst_len, src_len, tos, table, protocol, _scope, kind, ..] = payload else { return None };
        let any = match i32::from(family) {
            libc::AF_INET => IpAddr::from([0; 4]),
            libc::AF_INET6 => IpAddr::from([0; 16]),
            _ => return None,
        };
        let mut dst = any;
        let mut entry = Self {
            dst: IpNet::new(any, dst_len).ok()?,
            table: table.into(),
            protocol,
            kind,
            flags: u32_at(payload, 8)?,
            gateway: None,
            device: 0,
            metric: 0,
            nexthop: 0,
            special: src_len != 0 || tos != 0,
            source: None,
        };
        for (kind, value) in attributes(payload, BODY) {
            match kind {
                libc::RTA_DST => dst = ip(value)?,
                libc::RTA_TABLE => entry.table = u32_at(value, 0)?,
                libc::RTA_GATEWAY => entry.gateway = ip(value),
                libc::RTA_OIF => entry.device = u32_at(value, 0)?,
                libc::RTA_PRIORITY => entry.metric = u32_at(value, 0)?,
                libc::RTA_PREFSRC => entry.source = ip(value),
                RTA_NH_ID => entry.nexthop = u32_at(value, 0)?,
                libc::RTA_VIA => {
                    // An IPv6 gateway of an IPv4 route, behind its family's number.
                    entry.gateway = value.get(2..).and_then(ip);
                    entry.special = true;
                }
                libc::RTA_MULTIPATH | libc::RTA_ENCAP => entry.special = true,
                _ => {}
            }
        }
        entry.dst = IpNet::new(dst, dst_len).ok()?;
        Some(entry)
    }

    pub fn is_main(&self) -> bool {
        self.table == u32::from(libc::RT_TABLE_MAIN)
    }

    pub fn is_onlink(&self) -> bool {
        self.flags & RTNH_F_ONLINK != 0
    }

    pub fn has_default_metric(&self) -> bool {
        self.metric == if self.dst.addr().is_ipv4() { 0 } else { V6_METRIC }
    }
}

/// Where a route of ours leads, in the kernel's terms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// `nhid ID`
    Nexthop(u32),
    /// `via GATEWAY dev INDEX [onlink]`
    Gateway { gateway: IpAddr, device: u32, onlink: bool },
    /// `dev INDEX`
    Device(u32),
    /// `blackhole ... metric 4294967295`
    Blackhole,
}

/// `ip route show [table main] [proto PROTOCOL]`
pub(crate) fn list(family: Family, protocol: Option<u8>) -> Request {
    let family = match family {
        Family::V4 => libc::AF_INET,
        Family::V6 => libc::AF_INET6,
    };
    let [family, ..] = family.to_le_bytes();
    let mut body = [0; BODY];
    body[0] = family;
    body[5] = protocol.unwrap_or(0);
    Request::new(libc::RTM_GETROUTE, 0, &body).u32(libc::RTA_TABLE, libc::RT_TABLE_MAIN.into())
}

/// A list of routes answered so is empty: the kernel lacks the family, or its namespace never
/// had a route and so has no table yet (`inet_dump_fib`, `net/ipv4/fib_frontend.c`, 6.18).
pub(crate) fn has_none(errno: Errno) -> bool {
    matches!(errno, Errno::EOPNOTSUPP | Errno::EAFNOSUPPORT | Errno::ENOENT)
}

/// `ip route get DESTINATION`
pub(crate) fn lookup(destination: IpAddr) -> Request {
    let length = if destination.is_ipv4() { 32 } else { 128 };
    let body = [family(&destination), length, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    Request::new(libc::RTM_GETROUTE, 0, &body).ip(libc::RTA_DST, destination)
}

/// `ip route add|replace DST ... proto PROTOCOL`
pub(crate) fn put(put: Put, dst: IpNet, target: Target, protocol: u8) -> Request {
    let kind = if target == Target::Blackhole { libc::RTN_BLACKHOLE } else { libc::RTN_UNICAST };
    let onlink = matches!(target, Target::Gateway { onlink: true, .. });
    let request = Request::put(libc::RTM_NEWROUTE, put, &body(dst, protocol, kind, libc::RT_SCOPE_UNIVERSE, onlink));
    target.add_to(request.ip(libc::RTA_DST, dst.addr()))
}

/// `ip route del DST [...] proto PROTOCOL`: the first that agrees in all that is given.
pub(crate) fn delete(dst: IpNet, target: Option<Target>, protocol: u8) -> Request {
    let (kind, any_scope) = (libc::RTN_UNSPEC, libc::RT_SCOPE_NOWHERE);
    let request =
        Request::new(libc::RTM_DELROUTE, 0, &body(dst, protocol, kind, any_scope, false)).ip(libc::RTA_DST, dst.addr());
    match target {
        Some(target) => target.add_to(request),
        None => request,
    }
}

/// This one, or one that agrees with it in destination, metric, protocol and, unless it has a
/// nexthop object, gateway.
pub(crate) fn delete_entry(entry: &Entry) -> Request {
    let request = delete(entry.dst, None, entry.protocol).u32(libc::RTA_PRIORITY, entry.metric);
    match entry.gateway {
        Some(gateway) if entry.nexthop == 0 => request.ip(libc::RTA_GATEWAY, gateway).u32(libc::RTA_OIF, entry.device),
        _ => request,
    }
}

impl Target {
    fn add_to(self, request: Request) -> Request {
        match self {
            Self::Nexthop(id) => request.u32(RTA_NH_ID, id),
            Self::Gateway { gateway, device, .. } => request.ip(libc::RTA_GATEWAY, gateway).u32(libc::RTA_OIF, device),
            Self::Device(device) => request.u32(libc::RTA_OIF, device),
            Self::Blackhole => request.u32(libc::RTA_PRIORITY, BLACKHOLE_METRIC),
        }
    }
}

/// `struct rtmsg`
fn body(dst: IpNet, protocol: u8, kind: u8, scope: u8, onlink: bool) -> [u8; BODY] {
    let family = family(&dst.addr());
    let mut body = [family, dst.prefix_len(), 0, 0, libc::RT_TABLE_MAIN, protocol, scope, kind, 0, 0, 0, 0];
    if onlink {
        body[8..].copy_from_slice(&RTNH_F_ONLINK.to_ne_bytes());
    }
    body
}
