//! What the report says of this node itself.

use std::collections::BTreeMap;

use super::World;
use crate::{
    model::{Backend, Family},
    serve::report::{EngineReport, NetworkReport, OwnLeaseReport, UplinkReport},
    source::OwnLease,
    userspace::Statistics,
};

pub(super) fn network(world: &World) -> NetworkReport {
    let network = &world.facts().network;
    let (backend, vni, port) = match &network.backend {
        Backend::Vxlan(vxlan) => ("vxlan", Some(vxlan.vni), Some(vxlan.port)),
        Backend::HostGw => ("host-gw", None, None),
        Backend::Udp { port } => ("udp", None, Some(*port)),
        Backend::Alloc => ("alloc", None, None),
    };
    NetworkReport {
        ipv4: network.v4.map(|range| range.network),
        ipv6: network.v6.map(|range| range.network),
        backend: backend.into(),
        vni,
        port,
        problem: None,
    }
}

pub(super) fn own_lease(lease: &OwnLease) -> OwnLeaseReport {
    OwnLeaseReport {
        key: lease.key.clone(),
        ipv4: lease.subnet.net(Family::V4),
        ipv6: lease.subnet.net(Family::V6),
        public_ip: lease.subnet.v4().map(|_| lease.value.public_ip),
        public_ipv6: lease.value.public_ipv6,
        expires_unix: None,
    }
}

pub(super) fn uplink(world: &World) -> UplinkReport {
    let uplink = &world.facts().uplink;
    UplinkReport {
        name: uplink.name.clone(),
        index: uplink.index,
        mtu: uplink.mtu,
        addresses: uplink.v4.map(Into::into).into_iter().chain(uplink.v6.map(Into::into)).collect(),
    }
}

/// What the engines of the userspace datapath have counted.
pub(super) fn engines(statistics: &BTreeMap<Family, Statistics>) -> Vec<EngineReport> {
    let engine = |(family, statistics): (&Family, &Statistics)| {
        let (on, off): (Vec<_>, Vec<_>) = statistics.offloads.list().into_iter().partition(|(_, on)| *on);
        let names = |list: Vec<(&str, bool)>| list.into_iter().map(|(name, _)| name.to_owned()).collect();
        EngineReport {
            family: family.to_string(),
            offloads: names(on),
            missing: names(off),
            queues: statistics.queues as u64,
            counters: statistics.counts().map(|(counter, count)| (counter.label().to_owned(), count)).collect(),
        }
    };
    statistics.iter().map(engine).collect()
}
