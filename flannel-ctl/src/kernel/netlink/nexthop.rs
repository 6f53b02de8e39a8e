//! Nexthop objects (Linux 5.3): `ip nexthop`.
//!
//! Why: with one route-info per gateway, all on one device, the kernel's search for one to
//! share (`fib_find_info`, `net/ipv4/fib_semantics.c`, 6.18) walks a single long list on
//! every insertion, and 10,000 routes take seconds. A nexthop object is found by its id.

use std::net::{IpAddr, Ipv4Addr};

use nix::libc;

use super::wire::{Put, Request, attributes, ip, u32_at};

pub(crate) const RTM_NEWNEXTHOP: u16 = 104;
pub(crate) const RTM_DELNEXTHOP: u16 = 105;
const RTM_GETNEXTHOP: u16 = 106;
/// `struct nhmsg`: family, scope, protocol, padding, flags.
const BODY: usize = 8;
const NHA_ID: u16 = 1;
const NHA_OIF: u16 = 5;
const NHA_GATEWAY: u16 = 6;
/// `linux/rtnetlink.h`: the gateway is on the link whatever the addresses say.
const RTNH_F_ONLINK: u32 = 4;

/// A nexthop object as the kernel describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nexthop {
    pub id: u32,
    /// Interface index; 0 is none.
    pub device: u32,
    pub gateway: Option<IpAddr>,
    /// `rtm_protocol` numbers.
    pub protocol: u8,
    pub onlink: bool,
}

impl Nexthop {
    /// Reads an `RTM_NEWNEXTHOP` or `RTM_DELNEXTHOP`.
    pub(crate) fn read(payload: &[u8]) -> Option<Self> {
        let flags = u32_at(payload, 4)?;
        let mut nexthop =
            Self { id: 0, device: 0, gateway: None, protocol: payload[2], onlink: flags & RTNH_F_ONLINK != 0 };
        for (kind, value) in attributes(payload, BODY) {
            match kind {
                NHA_ID => nexthop.id = u32_at(value, 0)?,
                NHA_OIF => nexthop.device = u32_at(value, 0)?,
                NHA_GATEWAY => nexthop.gateway = ip(value),
                _ => {}
            }
        }
        Some(nexthop)
    }

    /// Leads where an object with this id shall lead: id and gateway are the same 32 bits.
    pub fn is_sound(&self, device: u32) -> bool {
        self.onlink && self.device == device && self.gateway == Some(Ipv4Addr::from(self.id).into())
    }
}

/// `ip nexthop show [dev INDEX]`; 0 is all.
pub(crate) fn list(device: u32) -> Request {
    let request = Request::new(RTM_GETNEXTHOP, 0, &[0; BODY]);
    if device == 0 { request } else { request.u32(NHA_OIF, device) }
}

/// `ip nexthop get id ID`
pub(crate) fn get(id: u32) -> Request {
    Request::new(RTM_GETNEXTHOP, 0, &[0; BODY]).u32(NHA_ID, id)
}

/// `ip nexthop add|replace id GATEWAY via GATEWAY dev INDEX onlink protocol PROTOCOL`
pub(crate) fn put(put: Put, device: u32, gateway: Ipv4Addr, protocol: u8) -> Request {
    let [family, ..] = libc::AF_INET.to_le_bytes();
    let mut body = [family, 0, protocol, 0, 0, 0, 0, 0];
    body[4..].copy_from_slice(&RTNH_F_ONLINK.to_ne_bytes());
    Request::put(RTM_NEWNEXTHOP, put, &body)
        .u32(NHA_ID, gateway.into())
        .u32(NHA_OIF, device)
        .ip(NHA_GATEWAY, gateway.into())
}

/// `ip nexthop del id ID`
pub(crate) fn delete(id: u32) -> Request {
    Request::new(RTM_DELNEXTHOP, 0, &[0; BODY]).u32(NHA_ID, id)
}
