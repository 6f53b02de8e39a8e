//! The `Backend` block.

use serde_json::{Map, Value, json};

use super::{Json, Object, Problem, carries};
use crate::model::{Backend, Family, VxlanConfig};

/// flannel's port for its own UDP format.
const UDP_PORT: u16 = 8285;
/// VXLAN network identifiers have 24 bits.
const LARGEST_VNI: u64 = (1 << 24) - 1;
const LARGEST_MTU: u64 = 65_535;
/// Smallest MTU that every IPv4 host must take (RFC 791), and IPv6's (RFC 8200) inside VXLAN.
const LEAST_MTU_V4: u64 = 576;
const LEAST_MTU_V6: u64 = 1280 + 70;

/// Types of flannel's that are refused by name, and why.
const REFUSED: [(&str, &str); 8] = [
    ("wireguard", "not supported; vxlan, host-gw, udp and alloc are"),
    ("ipip", "not supported; vxlan, host-gw, udp and alloc are"),
    ("ipsec", "not supported; vxlan, host-gw, udp and alloc are"),
    ("extension", "refused: commands from the network config are never run"),
    ("tencent-vpc", "cloud backends are not supported; use the cloud provider's own network or vxlan"),
    ("ali-vpc", "cloud backends are not supported; use the cloud provider's own network or vxlan"),
    ("aws-vpc", "cloud backends are not supported; use the cloud provider's own network or vxlan"),
    ("gce", "cloud backends are not supported; use the cloud provider's own network or vxlan"),
];

/// An absent block means udp: flannel's rule, whatever its documentation says.
pub(super) fn parse(object: &mut Object<'_>, v4: bool, v6: bool) -> Option<Backend> {
    let block = object.last("Backend").cloned();
    let backend = match &block {
        None => Some(Backend::Udp { port: UDP_PORT }),
        Some(Json::Object(members)) => {
            let mut inner = Object { prefix: "Backend.", members, problems: object.problems };
            typed(&mut inner, v6)
        }
        Some(other) => object.refuse("Backend", other, "must be an object such as {\"Type\": \"vxlan\"}"),
    }?;
    for (family, enabled) in [(Family::V4, v4), (Family::V6, v6)] {
        if enabled && !carries(&backend, family) {
            let hint = if block.is_none() { ", and it is what an absent Backend means" } else { "" };
            let rule = format!("carries no {family}{hint}; vxlan and host-gw do");
            object.problems.push(Problem::new("Backend.Type", "\"udp\"", rule));
        }
    }
    Some(backend)
}

pub(super) fn to_json(backend: &Backend) -> Value {
    match backend {
        Backend::Vxlan(vxlan) => {
            let mut map = Map::new();
            map.insert("Type".into(), "vxlan".into());
            map.insert("VNI".into(), vxlan.vni.into());
            map.insert("Port".into(), vxlan.port.into());
            if let Some(mtu) = vxlan.mtu {
                map.insert("MTU".into(), mtu.into());
            }
            map.insert("GBP".into(), vxlan.gbp.into());
            map.insert("Learning".into(), vxlan.learning.into());
            map.insert("DirectRouting".into(), vxlan.direct_routing.into());
            Value::Object(map)
        }
        Backend::HostGw => json!({ "Type": "host-gw" }),
        Backend::Udp { port } => json!({ "Type": "udp", "Port": port }),
        Backend::Alloc => json!({ "Type": "alloc" }),
    }
}

fn typed(object: &mut Object<'_>, v6: bool) -> Option<Backend> {
    let before = object.problems.len();
    let Some(name) = object.parsed::<String>("Type", "the name of a backend") else {
        if object.problems.len() == before {
            let rule = "a Backend block must say which: vxlan, host-gw, udp or alloc";
            object.problems.push(Problem::missing("Backend.Type", rule));
        }
        return None;
    };
    let backend = match name.to_lowercase().as_str() {
        "vxlan" => Backend::Vxlan(vxlan(object, v6)),
        "host-gw" => Backend::HostGw,
        "udp" => Backend::Udp { port: object.uint("Port", 1..=u64::from(u16::MAX)).map_or(UDP_PORT, truncated) },
        "alloc" => Backend::Alloc,
        other => {
            let rule = REFUSED
                .iter()
                .find(|(refused, _)| *refused == other)
                .map_or("unknown; vxlan, host-gw, udp and alloc are supported", |(_, why)| why);
            return object.refuse("Type", &Json::String(name.clone()), rule);
        }
    };
    (object.problems.len() == before).then_some(backend)
}

fn vxlan(object: &mut Object<'_>, v6: bool) -> VxlanConfig {
    let default = VxlanConfig::default();
    let port = object.uint("Port", 0..=u64::from(u16::MAX)).map_or(0, truncated);
    VxlanConfig {
        vni: object.uint("VNI", 0..=LARGEST_VNI).map_or(default.vni, truncated),
        port: if port == 0 { default.port } else { port },
        mtu: mtu(object, v6),
        gbp: object.bool("GBP").unwrap_or(default.gbp),
        learning: object.bool("Learning").unwrap_or(default.learning),
        direct_routing: object.bool("DirectRouting").unwrap_or(default.direct_routing),
    }
}

/// 0 stands for the uplink's.
fn mtu(object: &mut Object<'_>, v6: bool) -> Option<u32> {
    let least = if v6 { LEAST_MTU_V6 } else { LEAST_MTU_V4 };
    let mtu = object.uint("MTU", 0..=LARGEST_MTU).filter(|mtu| *mtu != 0)?;
    if mtu < least {
        let rule = format!("the underlay's MTU must be at least {least} to leave room for packets inside VXLAN");
        return object.refuse("MTU", &Json::Unsigned(mtu), &rule);
    }
    Some(truncated(mtu))
}

/// The caller has checked the value against `T`'s range.
fn truncated<T: TryFrom<u64> + Default>(value: u64) -> T {
    T::try_from(value).unwrap_or_default()
}
