//! PURE: a Node object as the API server tells it, and the lease that it amounts to.

use ipnet::IpNet;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::annotations::{Annotations, Names};
use crate::{
    model::{Family, LeaseRecord, Network, Subnet},
    source::MAX_VALUE,
};

/// What is read of a Node; the rest, most of it, is not kept.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Node {
    pub metadata: Metadata,
    pub spec: Spec,
    pub status: Status,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Metadata {
    pub name: String,
    pub resource_version: String,
    pub creation_timestamp: Option<String>,
    pub annotations: Option<Annotations>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Spec {
    #[serde(rename = "podCIDR")]
    pub pod_cidr: Option<String>,
    #[serde(rename = "podCIDRs")]
    pub pod_cidrs: Option<Vec<String>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Status {
    pub conditions: Option<Vec<Condition>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Condition {
    #[serde(rename = "type")]
    pub kind: String,
    pub status: String,
    pub reason: String,
}

impl Node {
    pub(super) fn annotations(&self) -> &Annotations {
        static NONE: Annotations = Annotations::new();
        self.metadata.annotations.as_ref().unwrap_or(&NONE)
    }

    /// An earlier state of the same object.
    pub(super) fn is_older_than(&self, other: &Self) -> bool {
        is_earlier(&self.metadata.resource_version, &other.metadata.resource_version)
    }

    /// The node's own range or ranges.
    pub fn subnet(&self) -> Result<Subnet, String> {
        let one = self.spec.pod_cidr.as_slice();
        let texts = self.spec.pod_cidrs.as_deref().filter(|texts| !texts.is_empty()).unwrap_or(one);
        let (mut v4, mut v6) = (None, None);
        for text in texts {
            let shown: String = text.chars().take(50).flat_map(char::escape_debug).collect();
            match text.parse() {
                Ok(net) if IpNet::trunc(&net) != net => {
                    return Err(format!("podCIDR {shown} has bits set beyond its prefix length"));
                }
                Ok(IpNet::V4(net)) if v4.is_none() => v4 = Some(net),
                Ok(IpNet::V6(net)) if v6.is_none() => v6 = Some(net),
                Ok(_) => return Err("podCIDRs has two ranges of one family".into()),
                Err(_) => return Err(format!("podCIDR {shown:?} is no range")),
            }
        }
        Subnet::new(v4, v6).ok_or_else(|| "has no podCIDR".into())
    }

    /// What is said of its network.
    pub(super) fn availability(&self) -> Option<&Condition> {
        self.status.conditions.iter().flatten().find(|condition| condition.kind == "NetworkUnavailable")
    }

    /// NetworkUnavailable is False, and for the reason that we would give.
    pub(super) fn is_called_available(&self) -> bool {
        self.availability().is_some_and(|condition| condition.status == "False" && condition.reason == REASON)
    }
}

/// Whether one resource version comes before another. Versions of one resource are numbers that rise, wherever they can be
/// read as such (KEP-5504).
pub(super) fn is_earlier(version: &str, other: &str) -> bool {
    version.parse::<u64>().ok().zip(other.parse().ok()).is_some_and(|(version, other)| version < other)
}

/// flannel's word for it.
pub(super) const REASON: &str = "FlannelIsUp";

/// The network with the subnets that Kubernetes cuts: the file's own `SubnetLen`, `SubnetMin` and
/// `SubnetMax` say nothing here.
pub fn cut_by(network: &Network, subnet: &Subnet) -> Result<Network, String> {
    let mut network = network.clone();
    for (family, range) in [(Family::V4, &mut network.v4), (Family::V6, &mut network.v6)] {
        let Some(range) = range else { continue };
        let net = subnet.net(family).ok_or_else(|| {
            format!("the network config enables {family}, but the node's podCIDRs {subnet} have no {family} range")
        })?;
        if !range.network.contains(&net) {
            return Err(format!("the node's podCIDR {net} is outside of the network config's {}", range.network));
        }
        let at = |ip| IpNet::new(ip, net.prefix_len()).map(|net| net.trunc()).map_err(|error| error.to_string());
        range.subnet_len = net.prefix_len();
        range.min = at(range.network.network())?;
        range.max = at(range.network.broadcast())?;
    }
    Ok(network)
}

/// Which families of a subnet a network uses.
pub(super) fn enabled(network: &Network, subnet: &Subnet) -> Option<Subnet> {
    Subnet::new(subnet.v4().filter(|_| network.v4.is_some()), subnet.v6().filter(|_| network.v6.is_some()))
}

/// The lease that a node's annotations amount to; `None` for a node that flannel does not run on.
/// Texts that make no sense are passed on as they are, for the one judge of all leases to refuse.
pub(super) fn record(node: &Node, names: &Names) -> Option<LeaseRecord> {
    let annotations = node.annotations();
    let text = |name: &String| annotations.get(name).map(String::as_str).filter(|text| !text.is_empty());
    if text(&names.subnet_manager) != Some("true") {
        return None;
    }
    let (key, subnet) = match node.subnet() {
        Ok(subnet) => (subnet.key(), Some(subnet)),
        Err(reason) => (strange_key(&node.metadata.name, &reason), None),
    };
    let mut value = Map::new();
    let v4 = text(&names.public_ip).or(subnet.filter(|subnet| subnet.v4().is_none()).map(|_| "0.0.0.0"));
    value.extend(v4.map(|ip| ("PublicIP".to_owned(), ip.into())));
    value.insert("PublicIPv6".into(), text(&names.public_ipv6).into());
    value.extend(text(&names.backend_type).map(|kind| ("BackendType".to_owned(), kind.into())));
    for (field, name) in [("BackendData", &names.backend_data), ("BackendV6Data", &names.backend_v6_data)] {
        let data = text(name).filter(|text| text.len() <= MAX_VALUE);
        let data = data.map(|text| serde_json::from_str(text).unwrap_or_else(|_| Value::from(text)));
        value.extend(data.filter(|data| !data.is_null()).map(|data| (field.to_owned(), data)));
    }
    value.insert("NodeName".into(), node.metadata.name.chars().take(253).collect::<String>().into());
    let mut value = Value::Object(value).to_string().into_bytes();
    value.truncate(MAX_VALUE + 1);
    // Any number but zero: what hangs on no etcd lease would pass for a reservation.
    Some(LeaseRecord { key, value, created: created(node), modified: 0, lease_id: 1 })
}

/// No key of a subnet, so that it is refused, and says of whom and why.
pub(super) fn strange_key(name: &str, reason: &str) -> String {
    let name: String = name.chars().take(253).flat_map(char::escape_debug).collect();
    format!("node {name}: {reason}")
}

/// Who came first: the digits of 2026-11-22T09:30:00Z in a row; whoever does not say came last.
fn created(node: &Node) -> i64 {
    let text = node.metadata.creation_timestamp.as_deref().unwrap_or_default();
    let digits: String = text.chars().take(19).filter(char::is_ascii_digit).collect();
    if digits.len() == 14 { digits.parse().unwrap_or(i64::MAX) } else { i64::MAX }
}

#[cfg(test)]
#[path = "node_tests.rs"]
mod tests;
