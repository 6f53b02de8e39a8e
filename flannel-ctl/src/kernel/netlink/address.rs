//! Addresses of devices: `ip address`.

use std::net::IpAddr;

use ipnet::IpNet;
use nix::libc;

use super::wire::{Put, Request, attributes, family, ip, u32_at};
use crate::model::Family;

/// Length of `struct ifaddrmsg`.
const BODY: usize = 8;
/// `IFA_F_*` that change whether an address can be used.
const TELLING: u32 = libc::IFA_F_TENTATIVE | libc::IFA_F_DADFAILED | libc::IFA_F_DEPRECATED;

/// An address as the kernel describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    pub index: u32,
    /// `IFA_LOCAL` where it is given (point-to-point links), else `IFA_ADDRESS`.
    pub net: IpNet,
    /// `RT_SCOPE_*`.
    pub scope: u8,
    /// `IFA_F_*`.
    pub flags: u32,
}

impl Address {
    /// Reads an `RTM_NEWADDR` or `RTM_DELADDR`.
    pub(crate) fn read(payload: &[u8]) -> Option<Self> {
        let (mut local, mut address) = (None, None);
        let mut flags = u32::from(*payload.get(2)?);
        for (kind, value) in attributes(payload, BODY) {
            match kind {
                libc::IFA_LOCAL => local = ip(value),
                libc::IFA_ADDRESS => address = ip(value),
                libc::IFA_FLAGS => flags = u32_at(value, 0)?,
                _ => {}
            }
        }
        let net = IpNet::new(local.or(address)?, payload[1]).ok()?;
        Some(Self { index: u32_at(payload, 4)?, net, scope: payload[3], flags })
    }

    pub fn is_link_local(&self) -> bool {
        match self.net.addr() {
            IpAddr::V4(ip) => ip.is_link_local(),
            IpAddr::V6(ip) => ip.is_unicast_link_local(),
        }
    }

    /// The flags that change whether the address can be used.
    pub fn telling_flags(&self) -> u32 {
        self.flags & TELLING
    }
}

/// `ip address show [dev INDEX]`; index 0 is all devices.
pub(crate) fn list(family: Option<Family>, index: u32) -> Request {
    let family = match family {
        None => libc::AF_UNSPEC,
        Some(Family::V4) => libc::AF_INET,
        Some(Family::V6) => libc::AF_INET6,
    };
    let [family, ..] = family.to_le_bytes();
    Request::new(libc::RTM_GETADDR, 0, &body(family, 0, index))
}

/// `ip address replace NET dev INDEX`. IPv6 goes without duplicate address detection: the
/// lease makes the address unique, and a second of waiting would be a second without traffic.
pub(crate) fn put(index: u32, net: IpNet) -> Request {
    let request = Request::put(libc::RTM_NEWADDR, Put::Replace, &body(family(&net.addr()), net.prefix_len(), index))
        .ip(libc::IFA_LOCAL, net.addr())
        .ip(libc::IFA_ADDRESS, net.addr());
    if net.addr().is_ipv6() { request.u32(libc::IFA_FLAGS, libc::IFA_F_NODAD) } else { request }
}

/// `ip address del NET dev INDEX`
pub(crate) fn delete(index: u32, net: IpNet) -> Request {
    Request::new(libc::RTM_DELADDR, 0, &body(family(&net.addr()), net.prefix_len(), index))
        .ip(libc::IFA_LOCAL, net.addr())
        .ip(libc::IFA_ADDRESS, net.addr())
}

/// `struct ifaddrmsg`
fn body(family: u8, length: u8, index: u32) -> [u8; BODY] {
    let mut body = [family, length, 0, 0, 0, 0, 0, 0];
    body[4..].copy_from_slice(&index.to_ne_bytes());
    body
}
