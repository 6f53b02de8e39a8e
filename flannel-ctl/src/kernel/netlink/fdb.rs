//! Forwarding entries of a VXLAN device: `bridge fdb`. Read with
//! [`Neighbour::read`](super::neighbour::Neighbour).

use std::net::IpAddr;

use nix::libc;

use super::{
    neighbour::{Neighbour, body},
    wire::{Put, Request},
};
use crate::model::Mac;

/// `AF_BRIDGE`, as wide as `ndm_family`.
pub const FAMILY: u8 = 7;

/// The entry's MAC if it is of the kind we make: on the VXLAN device itself, for one host.
pub fn unicast(entry: &Neighbour) -> Option<Mac> {
    let ours = entry.family == FAMILY && entry.flags & libc::NTF_SELF != 0;
    entry.mac.filter(|mac| ours && mac.is_unicast())
}

/// `bridge fdb show brport INDEX`
pub(crate) fn list(index: u32) -> Request {
    Request::new(libc::RTM_GETNEIGH, 0, &body(FAMILY, 0, 0, 0)).u32(libc::NDA_IFINDEX, index)
}

/// `bridge fdb replace MAC dev INDEX dst IP self permanent`
pub(crate) fn put(index: u32, mac: Mac, outer: IpAddr) -> Request {
    Request::put(libc::RTM_NEWNEIGH, Put::Replace, &body(FAMILY, index, libc::NUD_PERMANENT, libc::NTF_SELF))
        .attr(libc::NDA_LLADDR, &mac.0)
        .ip(libc::NDA_DST, outer)
}

/// `bridge fdb del MAC dev INDEX self`
pub(crate) fn delete(index: u32, mac: Mac) -> Request {
    Request::new(libc::RTM_DELNEIGH, 0, &body(FAMILY, index, 0, libc::NTF_SELF)).attr(libc::NDA_LLADDR, &mac.0)
}
