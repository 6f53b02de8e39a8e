//! PURE: from the kernel's records to our keys and objects; `None` is somebody else's.

use std::net::IpAddr;

use nix::libc;

use super::Scope;
use crate::{
    kernel::netlink::{
        address::Address,
        fdb,
        neighbour::Neighbour,
        nexthop::Nexthop,
        route::{BLACKHOLE_METRIC, Entry},
    },
    model::{Family, Key, Object, Route, Via},
};

/// A route of the main table. `devices`: interface indices of our VXLAN devices, 0 is none.
pub(super) fn route(scope: &Scope, devices: [u32; 2], entry: &Entry) -> Option<(Key, Object)> {
    if !entry.is_main() {
        return None;
    }
    let via = via(scope, devices, entry);
    let ours = match entry.protocol {
        Route::PROTOCOL => true,
        Route::FLANNEL_PROTOCOL => match via {
            Via::Overlay { nexthop } => !nexthop && scope.covers(&entry.dst),
            Via::Direct { .. } => scope.may_be_leased(&entry.dst),
            Via::Device | Via::Blackhole | Via::Other => false,
        },
        _ => false,
    };
    ours.then_some((Key::Route(entry.dst), Object::Route(Route { via, protocol: entry.protocol })))
}

/// An address of one of our VXLAN devices.
pub(super) fn address(scope: &Scope, devices: [u32; 2], address: &Address) -> Option<(Key, Object)> {
    let family = Family::of_net(&address.net);
    let ours = address.index == index(devices, family)
        && match family {
            Family::V4 => scope.range(family).is_some_and(|range| range.network.contains(&address.net.addr())),
            Family::V6 => !address.is_link_local(),
        };
    ours.then_some((Key::Address(family, address.net), Object::Address))
}

/// A neighbour or forwarding entry of one of our VXLAN devices, permanent or not.
pub(super) fn neighbour(devices: [u32; 2], entry: &Neighbour) -> Option<(Key, Object)> {
    if entry.family == fdb::FAMILY {
        let mac = fdb::unicast(entry)?;
        let family = Family::ALL.into_iter().find(|family| entry.index == index(devices, *family))?;
        let nowhere = match family {
            Family::V4 => IpAddr::from([0; 4]),
            Family::V6 => IpAddr::from([0; 16]),
        };
        // One that also names a port, VNI or device is none that we would make.
        let outer = entry.ip.filter(|_| !entry.special).unwrap_or(nowhere);
        return Some((Key::Fdb(family, mac), Object::Fdb(outer)));
    }
    let ip = entry.ip?;
    let ours = entry.index == index(devices, Family::of(&ip));
    ours.then_some((Key::Neighbour(ip), Object::Neighbour(entry.mac?)))
}

/// A nexthop object; `wanted`: we want one with this id. One that leads elsewhere than its id
/// says counts as there only if it is to be removed.
pub(super) fn nexthop(devices: [u32; 2], nexthop: &Nexthop, wanted: impl Fn(&Key) -> bool) -> Option<(Key, Object)> {
    let key = Key::Nexthop(nexthop.id.into());
    let shown = nexthop.is_sound(index(devices, Family::V4)) || !wanted(&key);
    (nexthop.protocol == Route::PROTOCOL && shown).then_some((key, Object::Nexthop))
}

pub(super) fn index(devices: [u32; 2], family: Family) -> u32 {
    match family {
        Family::V4 => devices[0],
        Family::V6 => devices[1],
    }
}

fn via(scope: &Scope, devices: [u32; 2], entry: &Entry) -> Via {
    if entry.special {
        return Via::Other;
    }
    if entry.kind == libc::RTN_BLACKHOLE {
        return if entry.metric == BLACKHOLE_METRIC { Via::Blackhole } else { Via::Other };
    }
    if entry.kind != libc::RTN_UNICAST || !entry.has_default_metric() {
        return Via::Other;
    }
    let base = entry.dst.addr();
    if entry.nexthop != 0 {
        let same = matches!(base, IpAddr::V4(base) if u32::from(base) == entry.nexthop);
        return if same { Via::Overlay { nexthop: true } } else { Via::Other };
    }
    let device = index(devices, Family::of(&base));
    match entry.gateway {
        Some(gateway) if gateway == base && entry.is_onlink() && device != 0 && entry.device == device => {
            Via::Overlay { nexthop: false }
        }
        None if device != 0 && entry.device == device => Via::Device,
        Some(gateway) if scope.uplink != 0 && entry.device == scope.uplink && !entry.is_onlink() => {
            Via::Direct { gateway }
        }
        _ => Via::Other,
    }
}
