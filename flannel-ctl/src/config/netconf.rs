//! PURE: flannel's network config JSON, with its rules, defaults and every problem at once.
//!
//! Strict where flannel accepts what cannot work (loopback or multicast ranges, a first subnet
//! behind the last), otherwise the rules of its `pkg/subnet/config.go`.

mod backend;
mod range;
#[cfg(test)]
mod tests;

use ipnet::IpNet;
use serde_json::{Map, Value};

use super::{
    ConfigErrors, Problem,
    json::{Json, Object},
};
use crate::model::{AddressRange, Backend, Family, Network};

/// A config larger than this is an accident or an attack: a real one has a few hundred bytes.
pub const LARGEST: usize = 64 * 1024;

/// Reads the value of `<prefix>/config`, or the text of a net-conf file.
pub fn parse(text: &[u8]) -> Result<Network, ConfigErrors> {
    let whole = |rule: String| ConfigErrors(vec![Problem::new("config", preview(text), rule)]);
    if text.len() > LARGEST {
        return Err(whole(format!("has {} bytes, more than the {LARGEST} allowed", text.len())));
    }
    let members = match serde_json::from_slice(text) {
        Ok(Json::Object(members)) => members,
        Ok(_) => return Err(whole("must be a JSON object".into())),
        Err(error) => return Err(whole(format!("is not JSON: {error}"))),
    };

    let mut problems = Vec::new();
    let mut object = Object { prefix: "", members: &members, problems: &mut problems };
    let v4 = range::parse(&mut object, Family::V4);
    let v6 = range::parse(&mut object, Family::V6);
    if !v4.enabled && !v6.enabled {
        object.problems.push(Problem::new("EnableIPv4", "false", "one of EnableIPv4 and EnableIPv6 must be true"));
    }
    let nftables = object.bool("EnableNFTables").unwrap_or(false);
    let backend = backend::parse(&mut object, v4.enabled, v6.enabled);

    match backend {
        Some(backend) if problems.is_empty() => Ok(Network { v4: v4.range, v6: v6.range, nftables, backend }),
        _ => Err(ConfigErrors(problems)),
    }
}

/// The config in force, defaults filled in, in flannel's spelling. [`parse`] reads it back.
pub fn to_json(network: &Network) -> Value {
    let mut map = Map::new();
    map.insert("EnableIPv4".into(), network.v4.is_some().into());
    map.insert("EnableIPv6".into(), network.v6.is_some().into());
    map.insert("EnableNFTables".into(), network.nftables.into());
    for (prefix, range) in [("", network.v4), ("IPv6", network.v6)] {
        let Some(AddressRange { network, subnet_len, min, max }) = range else { continue };
        map.insert(format!("{prefix}Network"), network.to_string().into());
        map.insert(format!("{prefix}SubnetLen"), subnet_len.into());
        map.insert(format!("{prefix}SubnetMin"), min.addr().to_string().into());
        map.insert(format!("{prefix}SubnetMax"), max.addr().to_string().into());
    }
    map.insert("Backend".into(), backend::to_json(&network.backend));
    Value::Object(map)
}

/// Ranges of the node itself that the network swallows or lies in: packets to them would go
/// into the tunnel, and with them the way to peers and store. `local` are the on-link ranges
/// of interfaces that are not ours.
pub fn overlaps(network: &Network, local: &[IpNet]) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (key, range) in [("Network", network.v4), ("IPv6Network", network.v6)] {
        let Some(range) = range else { continue };
        for net in local.iter().filter(|net| overlap(&range.network, net)) {
            let rule = format!("overlaps {net}, which this node is attached to");
            problems.push(Problem::new(key, range.network.to_string(), rule));
        }
    }
    problems
}

fn overlap(a: &IpNet, b: &IpNet) -> bool {
    a.contains(&b.network()) || b.contains(&a.network())
}

fn preview(text: &[u8]) -> String {
    String::from_utf8_lossy(&text[..text.len().min(64)]).into_owned()
}

/// Does the backend carry that family at all?
fn carries(backend: &Backend, family: Family) -> bool {
    match backend {
        Backend::Vxlan(_) | Backend::HostGw | Backend::Alloc => true,
        Backend::Udp { .. } => family == Family::V4,
    }
}
