//! Believing a lease: what a record must satisfy before it becomes a [`Peer`].
//!
//! Whoever may write to the store may write any lease, so every value here is hostile until
//! proven otherwise. A refusal names its rule and costs nobody else anything.

use std::{
    borrow::Cow,
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    panic::resume_unwind,
    sync::Arc,
    thread,
};

use ipnet::IpNet;
use serde::Deserialize;
use serde_json::Value;

use crate::model::{
    Backend, BackendData, Family, LeaseRecord, LeaseValue, Mac, Network, Peer, Subnet, subnet::KeyError,
};

/// Longest value that is looked at, in bytes. flannel's own are under 200.
pub const MAX_VALUE: usize = 4096;
/// Deepest nesting of a value. flannel's own are 2.
pub const MAX_DEPTH: usize = 8;
/// A long list is looked at in this many parts at once, none shorter than the second number.
const PARTS: usize = 4;
const SHORTEST_PART: usize = 1000;

/// What this node knows that a lease can collide with.
#[derive(Clone, Debug)]
pub struct Rules {
    pub network: Network,
    pub own_key: String,
    pub own_subnet: Subnet,
    pub own_node: String,
    pub own_macs: BTreeSet<Mac>,
    /// Addresses of this node's interfaces.
    pub local_addresses: BTreeSet<IpAddr>,
    /// Networks that this node reaches directly, by interface; ours and our pods' left out.
    pub local_nets: Vec<(IpNet, String)>,
}

/// What a record turned out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Inspected {
    Peer(Arc<Peer>),
    /// Our own lease, or an older one of this node's.
    Own,
    /// A key without an etcd lease and without an owner's data: keeps its range out of use.
    Reservation,
}

/// Why a lease is not believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("the key is {0}")]
    Key(#[from] KeyError),
    #[error("the value is empty or longer than {MAX_VALUE} bytes")]
    Size,
    #[error("the value is nested deeper than {MAX_DEPTH}")]
    Depth,
    #[error("the value is not a lease: {0}")]
    Json(String),
    #[error("{0} is outside of the network {1}")]
    OutsideNetwork(IpNet, IpNet),
    #[error("{0} is not a /{1}, the network's subnet length")]
    Length(IpNet, u8),
    #[error("the key has no range of a family that the network enables")]
    NoFamily,
    #[error("{0} overlaps our own subnet")]
    OverlapsOwn(IpNet),
    #[error("{0} overlaps {1} of this node's interface {2}")]
    OverlapsLocal(IpNet, IpNet, String),
    #[error("{0} belongs to the lease {1}, which came first")]
    OverlapsPeer(IpNet, String),
    #[error("BackendType is {0:?}, this network's is {1:?}")]
    BackendType(String, &'static str),
    #[error("{0} cannot be a node's public address: {1}")]
    PublicIp(IpAddr, &'static str),
    #[error("{0} is missing")]
    Missing(&'static str),
    #[error("{0}: {1}")]
    BackendData(&'static str, String),
    #[error("VNI is {0}, this network's is {1}")]
    Vni(u64, u32),
    #[error("VtepMAC {0} is not the address of one interface")]
    NotUnicast(Mac),
    #[error("VtepMAC {0} is our own")]
    OwnMac(Mac),
    #[error("VtepMAC {0} belongs to the lease {1} at another address, which came first")]
    DuplicateMac(Mac, String),
}

impl Refusal {
    /// It depends on other leases or on this node's state, and may be void when those change.
    pub fn may_pass(&self) -> bool {
        matches!(
            self,
            Self::OverlapsOwn(_)
                | Self::OverlapsLocal(..)
                | Self::OverlapsPeer(..)
                | Self::PublicIp(..)
                | Self::OwnMac(_)
                | Self::DuplicateMac(..)
        )
    }
}

/// [`inspect`] for each of a list. Ten thousand leases are what a restarted node waits for, and
/// no record's answer depends on another's.
pub fn inspect_all(rules: &Rules, records: &[LeaseRecord]) -> Vec<Result<Inspected, Refusal>> {
    let part = |records: &[LeaseRecord]| records.iter().map(|record| inspect(rules, record)).collect::<Vec<_>>();
    let (here, elsewhere) = records.split_at(records.len().div_ceil(PARTS).max(SHORTEST_PART).min(records.len()));
    thread::scope(|scope| {
        let others: Vec<_> =
            elsewhere.chunks(here.len().max(1)).map(|records| scope.spawn(move || part(records))).collect();
        let mut all = part(here);
        for other in others {
            all.append(&mut other.join().unwrap_or_else(|panic| resume_unwind(panic)));
        }
        all
    })
}

/// Reads and checks one record on its own; collisions between records are the roster's.
pub fn inspect(rules: &Rules, record: &LeaseRecord) -> Result<Inspected, Refusal> {
    if record.key == rules.own_key {
        return Ok(Inspected::Own);
    }
    let subnet = Subnet::from_key(&record.key)?;
    let subnet = enabled_part(rules, subnet)?;
    if record.value.is_empty() || record.value.len() > MAX_VALUE {
        return if record.lease_id == 0 && record.value.is_empty() {
            Ok(Inspected::Reservation)
        } else {
            Err(Refusal::Size)
        };
    }
    if depth(&record.value) > MAX_DEPTH {
        return Err(Refusal::Depth);
    }
    let value = read(&record.value).map_err(|error| Refusal::Json(error.to_string()))?;
    if !rules.own_node.is_empty() && value.node_id == rules.own_node {
        return Ok(Inspected::Own);
    }
    if record.lease_id == 0 && value.backend_type.is_empty() && value.backend_data.is_none() {
        return Ok(Inspected::Reservation);
    }
    let peer = to_peer(rules, record, subnet, &value)?;
    judge(rules, &peer)?;
    Ok(Inspected::Peer(Arc::new(peer)))
}

/// What a peer is made from, of the fields of [`LeaseValue`]: reading ten thousand values must not
/// keep the fields of others, which nobody looks at.
#[derive(Deserialize)]
struct Told<'a> {
    #[serde(rename = "PublicIP")]
    public_ip: Ipv4Addr,
    #[serde(rename = "PublicIPv6", default)]
    public_ipv6: Option<Ipv6Addr>,
    #[serde(rename = "BackendType", default, borrow)]
    backend_type: Cow<'a, str>,
    #[serde(rename = "BackendData", default)]
    backend_data: Option<Value>,
    #[serde(rename = "BackendV6Data", default)]
    backend_v6_data: Option<Value>,
    #[serde(rename = "NodeID", default, borrow)]
    node_id: Cow<'a, str>,
    #[serde(rename = "NodeName", default, borrow)]
    node_name: Cow<'a, str>,
}

fn read(value: &[u8]) -> Result<Told<'_>, serde_json::Error> {
    if value.trim_ascii_start().first() != Some(&b'{') {
        // A list would pass for the fields in their order.
        serde_json::from_slice::<LeaseValue>(value)?;
    }
    serde_json::from_slice(value)
}

/// Checks a peer against what this node knows of itself; done again when that changes.
pub fn judge(rules: &Rules, peer: &Peer) -> Result<(), Refusal> {
    if peer.subnet.overlaps(&rules.own_subnet) {
        let net = peer.subnet.nets().next().expect("a subnet has a family");
        return Err(Refusal::OverlapsOwn(net));
    }
    for net in peer.subnet.nets() {
        // An interface whose network holds the whole overlay (a VPN's /8) says nothing about one
        // lease, and would cost all of them.
        let around = |local: &IpNet| {
            rules.network.range(Family::of_net(&net)).is_some_and(|range| local.contains(&range.network))
        };
        let collides = |local: &IpNet| overlap(local, &net) && !around(local);
        if let Some((local, interface)) = rules.local_nets.iter().find(|(local, _)| collides(local)) {
            return Err(Refusal::OverlapsLocal(net, *local, interface.clone()));
        }
    }
    for family in Family::ALL {
        if let Some(ip) = peer.public(family) {
            check_public(rules, ip)?;
        }
        if let Some(mac) = peer.vtep(family)
            && rules.own_macs.contains(&mac)
        {
            return Err(Refusal::OwnMac(mac));
        }
    }
    Ok(())
}

/// The halves of the key that the network uses, each inside it and of its length.
fn enabled_part(rules: &Rules, subnet: Subnet) -> Result<Subnet, Refusal> {
    for family in rules.network.families() {
        let (Some(range), Some(net)) = (rules.network.range(family), subnet.net(family)) else { continue };
        if !range.network.contains(&net) {
            return Err(Refusal::OutsideNetwork(net, range.network));
        }
        if net.prefix_len() != range.subnet_len {
            return Err(Refusal::Length(net, range.subnet_len));
        }
    }
    let v4 = subnet.v4().filter(|_| rules.network.v4.is_some());
    let v6 = subnet.v6().filter(|_| rules.network.v6.is_some());
    Subnet::new(v4, v6).ok_or(Refusal::NoFamily)
}

fn to_peer(rules: &Rules, record: &LeaseRecord, subnet: Subnet, value: &Told<'_>) -> Result<Peer, Refusal> {
    let wanted = rules.network.backend.lease_type();
    if value.backend_type != wanted {
        return Err(Refusal::BackendType(value.backend_type.chars().take(32).collect(), wanted));
    }
    let public_v4 = subnet.v4().map(|_| value.public_ip);
    let public_v6 = match subnet.v6() {
        Some(_) => Some(value.public_ipv6.ok_or(Refusal::Missing("PublicIPv6"))?),
        None => None,
    };
    let (mut vtep_v4, mut vtep_v6, mut zero_checksum_v6) = (None, None, false);
    if let Backend::Vxlan(vxlan) = &rules.network.backend {
        if subnet.v4().is_some() {
            vtep_v4 = Some(vtep("BackendData", value.backend_data.as_ref(), vxlan.vni)?);
        }
        if subnet.v6().is_some() {
            vtep_v6 = Some(vtep("BackendV6Data", value.backend_v6_data.as_ref(), vxlan.vni)?);
            // Whatever else stands there: packets with a checksum are right for everybody.
            let told = value.backend_v6_data.as_ref().and_then(|data| data.get(BackendData::ZERO_CHECKSUM));
            zero_checksum_v6 = told == Some(&Value::Bool(true));
        }
    }
    let node = if value.node_name.is_empty() { &value.node_id } else { &value.node_name };
    let node = node.chars().filter(|c| !c.is_control()).take(64).collect();
    Ok(Peer { key: record.key.as_str().into(), subnet, public_v4, public_v6, vtep_v4, vtep_v6, zero_checksum_v6, node })
}

/// `{"VNI":1,"VtepMAC":"46:82:fb:f7:52:6d"}`; old flannel versions leave VNI out.
fn vtep(field: &'static str, data: Option<&Value>, vni: u32) -> Result<Mac, Refusal> {
    let data = data.filter(|data| !data.is_null()).ok_or(Refusal::Missing(field))?;
    let Value::Object(map) = data else { return Err(Refusal::BackendData(field, "not an object".into())) };
    match map.get("VNI") {
        None | Some(Value::Null) => {}
        Some(value) => {
            let told = value.as_u64().ok_or_else(|| Refusal::BackendData(field, "VNI is not a whole number".into()))?;
            if told != u64::from(vni) {
                return Err(Refusal::Vni(told, vni));
            }
        }
    }
    let text = map
        .get("VtepMAC")
        .and_then(Value::as_str)
        .ok_or_else(|| Refusal::BackendData(field, "VtepMAC is missing or not a text".into()))?;
    let mac: Mac = text.parse().map_err(|error| Refusal::BackendData(field, format!("VtepMAC: {error}")))?;
    if !mac.is_unicast() {
        return Err(Refusal::NotUnicast(mac));
    }
    Ok(mac)
}

fn check_public(rules: &Rules, ip: IpAddr) -> Result<(), Refusal> {
    let problem = match ip {
        IpAddr::V4(v4) => unusable_v4(v4),
        IpAddr::V6(v6) => unusable_v6(v6),
    };
    if let Some(problem) = problem {
        return Err(Refusal::PublicIp(ip, problem));
    }
    if rules.local_addresses.contains(&ip) {
        return Err(Refusal::PublicIp(ip, "it is an address of this node"));
    }
    let inside = |family: Family| rules.network.range(family).is_some_and(|range| range.network.contains(&ip));
    if Family::ALL.into_iter().any(inside) {
        return Err(Refusal::PublicIp(ip, "it is inside of the overlay network"));
    }
    Ok(())
}

fn unusable_v4(ip: Ipv4Addr) -> Option<&'static str> {
    match ip {
        _ if ip.octets()[0] == 0 => Some("it is unspecified"),
        _ if ip.is_loopback() => Some("it is a loopback address"),
        _ if ip.is_multicast() => Some("it is a multicast address"),
        _ if ip.is_link_local() => Some("it is a link-local address"),
        _ if ip.octets()[0] >= 240 => Some("it is reserved or the broadcast address"),
        _ => None,
    }
}

fn unusable_v6(ip: Ipv6Addr) -> Option<&'static str> {
    match ip {
        _ if ip.is_unspecified() => Some("it is unspecified"),
        _ if ip.is_loopback() => Some("it is a loopback address"),
        _ if ip.is_multicast() => Some("it is a multicast address"),
        _ if ip.is_unicast_link_local() => Some("it is a link-local address"),
        _ if ip.to_ipv4_mapped().is_some() => Some("it is an IPv4 address in disguise"),
        _ => None,
    }
}

fn overlap(a: &IpNet, b: &IpNet) -> bool {
    a.contains(b) || b.contains(a)
}

/// Deepest bracket nesting outside of strings. Counts before parsing, so that a parser never
/// has to recurse into what somebody piled up.
fn depth(json: &[u8]) -> usize {
    let (mut deepest, mut now, mut in_string, mut escaped) = (0_usize, 0_usize, false, false);
    for byte in json {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => {
                now += 1;
                deepest = deepest.max(now);
            }
            b'}' | b']' if !in_string => now = now.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

#[cfg(test)]
#[path = "inspect_tests.rs"]
mod tests;
