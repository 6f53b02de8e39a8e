//! Neighbours: `ip neighbour`. Forwarding entries come in the same messages, see
//! [`super::fdb`].

use std::net::IpAddr;

use nix::libc;

use super::wire::{Put, Request, attributes, family, ip, u16_at, u32_at};
use crate::model::{Family, Mac};

/// `linux/neighbour.h`
const NDA_NH_ID: u16 = 13;
/// Length of `struct ndmsg`.
const BODY: usize = 12;

/// A neighbour or forwarding entry as the kernel describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// `AF_INET`, `AF_INET6` or `AF_BRIDGE`.
    pub family: u8,
    pub index: u32,
    /// `NUD_*`.
    pub state: u16,
    /// `NTF_*`.
    pub flags: u8,
    pub ip: Option<IpAddr>,
    pub mac: Option<Mac>,
    /// A forwarding entry with a port, VNI, device or nexthop group of its own.
    pub special: bool,
    /// It says when the entry was used, as whoever keeps the entry always does.
    pub dated: bool,
}

impl Neighbour {
    /// Reads an `RTM_NEWNEIGH` or `RTM_DELNEIGH`.
    pub(crate) fn read(payload: &[u8]) -> Option<Self> {
        let mut neighbour = Self {
            family: *payload.first()?,
            index: u32_at(payload, 4)?,
            state: u16_at(payload, 8)?,
            flags: *payload.get(10)?,
            ip: None,
            mac: None,
            special: false,
            dated: false,
        };
        for (kind, value) in attributes(payload, BODY) {
            match kind {
                libc::NDA_DST => neighbour.ip = ip(value),
                libc::NDA_LLADDR => neighbour.mac = value.try_into().ok().map(Mac),
                libc::NDA_CACHEINFO => neighbour.dated = true,
                libc::NDA_PORT | libc::NDA_VNI | libc::NDA_IFINDEX | NDA_NH_ID => neighbour.special = true,
                _ => {}
            }
        }
        Some(neighbour)
    }

    pub fn is_permanent(&self) -> bool {
        self.state & libc::NUD_PERMANENT != 0
    }
}

/// `ip neighbour show dev INDEX`
pub(crate) fn list(family: Family, index: u32) -> Request {
    let family = match family {
        Family::V4 => libc::AF_INET,
        Family::V6 => libc::AF_INET6,
    };
    let [family, ..] = family.to_le_bytes();
    // The strict check wants the device as an attribute and the header's field zero.
    Request::new(libc::RTM_GETNEIGH, 0, &body(family, 0, 0, 0)).u32(libc::NDA_IFINDEX, index)
}

/// `ip neighbour replace IP lladdr MAC dev INDEX nud permanent`
pub(crate) fn put(index: u32, ip: IpAddr, mac: Mac) -> Request {
    Request::put(libc::RTM_NEWNEIGH, Put::Replace, &body(family(&ip), index, libc::NUD_PERMANENT, 0))
        .ip(libc::NDA_DST, ip)
        .attr(libc::NDA_LLADDR, &mac.0)
}

/// `ip neighbour del IP dev INDEX`
pub(crate) fn delete(index: u32, ip: IpAddr) -> Request {
    Request::new(libc::RTM_DELNEIGH, 0, &body(family(&ip), index, 0, 0)).ip(libc::NDA_DST, ip)
}

/// `struct ndmsg`
pub(super) fn body(family: u8, index: u32, state: u16, flags: u8) -> [u8; BODY] {
    let mut body = [family, 0, 0, 0, 0, 0, 0, 0, 0, 0, flags, 0];
    body[4..8].copy_from_slice(&index.to_ne_bytes());
    body[8..10].copy_from_slice(&state.to_ne_bytes());
    body
}
