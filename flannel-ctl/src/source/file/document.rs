//! PURE: the text of a node list.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::{
    config::netconf,
    model::{BackendData, LeaseRecord, LeaseValue, Mac, Network, Subnet},
};

/// What the file says, checked.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Document {
    pub(super) network: Option<Network>,
    /// Set in a file that is written for one node: that node's own subnet.
    pub(super) own: Option<Subnet>,
    pub(super) nodes: Vec<Node>,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Node {
    pub(super) subnet: Subnet,
    pub(super) value: LeaseValue,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawDocument {
    #[serde(default)]
    network: Option<Value>,
    #[serde(default)]
    subnet: Option<OneOrMany>,
    #[serde(default)]
    nodes: Vec<Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawNode {
    #[serde(default)]
    name: String,
    #[serde(default)]
    id: String,
    subnet: OneOrMany,
    #[serde(default)]
    public_ip: Option<Ipv4Addr>,
    #[serde(default)]
    public_ipv6: Option<Ipv6Addr>,
    #[serde(default)]
    vtep_mac: Option<String>,
    /// MAC of the IPv6 device; the same as the other's if left out.
    #[serde(default)]
    vtep_mac_v6: Option<String>,
    #[serde(default)]
    backend: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(IpNet),
    Many(Vec<IpNet>),
}

/// Reads JSON or YAML. The error has every problem.
pub(super) fn parse(text: &[u8]) -> Result<Document, Vec<String>> {
    // Whoever writes in place empties the file first, and a reader may come just then: that must
    // not look like a list without nodes, which would withdraw every peer.
    if text.trim_ascii().is_empty() {
        return Err(vec!["is empty; while it is being written, what was read before stays in force".into()]);
    }
    let raw: RawDocument = if text.trim_ascii_start().starts_with(b"{") {
        serde_json::from_slice(text).map_err(|error| vec![error.to_string()])?
    } else {
        serde_yaml_ng::from_slice(text).map_err(|error| vec![error.to_string()])?
    };
    let mut problems = Vec::new();
    let network = raw.network.and_then(|network| {
        netconf::parse(network.to_string().as_bytes()).map_err(|error| problems.push(error.to_string())).ok()
    });
    let own = raw.subnet.and_then(|nets| subnet(nets).map_err(|error| problems.push(format!("subnet: {error}"))).ok());
    let mut nodes: Vec<Node> = Vec::new();
    for (i, raw) in raw.nodes.into_iter().enumerate() {
        let label =
            raw.get("name").and_then(Value::as_str).map_or_else(|| format!("nodes[{i}]"), |n| format!("node {n}"));
        match node(raw, network.as_ref()) {
            Ok(node) => match nodes.iter().find(|other| other.subnet.overlaps(&node.subnet)) {
                Some(other) => {
                    problems.push(format!("{label}: {} overlaps {} of another node", node.subnet, other.subnet));
                }
                None => nodes.push(node),
            },
            Err(error) => problems.push(format!("{label}: {error}")),
        }
    }
    if problems.is_empty() { Ok(Document { network, own, nodes }) } else { Err(problems) }
}

/// What tells the nodes apart, best first.
pub(super) fn find<'a>(nodes: &'a [Node], us: &LeaseValue) -> Option<&'a Node> {
    let by = |same: &dyn Fn(&LeaseValue) -> bool| nodes.iter().find(|node| same(&node.value));
    by(&|value| !value.node_id.is_empty() && value.node_id == us.node_id)
        .or_else(|| by(&|value| !value.node_name.is_empty() && value.node_name == us.node_name))
        .or_else(|| by(&|value| !value.public_ip.is_unspecified() && value.public_ip == us.public_ip))
        .or_else(|| by(&|value| value.public_ipv6.is_some() && value.public_ipv6 == us.public_ipv6))
}

/// The nodes as the records that a store would have. `modified` grows from reading to reading.
pub(super) fn records(document: &Document, modified: i64) -> Vec<LeaseRecord> {
    let record = |(created, node): (i64, &Node)| LeaseRecord {
        key: node.subnet.key(),
        value: serde_json::to_vec(&node.value).expect("a lease value is plain JSON"),
        created,
        modified,
        // Entries are nodes, not reservations.
        lease_id: 1,
    };
    (1..).zip(&document.nodes).map(record).collect()
}

fn node(raw: Value, network: Option<&Network>) -> Result<Node, String> {
    let raw: RawNode = serde_json::from_value(raw).map_err(|error| error.to_string())?;
    if raw.public_ip.is_none() && raw.public_ipv6.is_none() {
        return Err("has neither public_ip nor public_ipv6".into());
    }
    let subnet = subnet(raw.subnet)?;
    let mac = |text: &Option<String>| {
        text.as_deref()
            .map(|text| text.parse::<Mac>().map_err(|_| format!("{text:?} is not a MAC address")))
            .transpose()
    };
    let v4 = mac(&raw.vtep_mac)?;
    let v6 = mac(&raw.vtep_mac_v6)?.or(v4);
    let data =
        |mac: Option<Mac>| mac.map(|vtep_mac| BackendData { vni: None, vtep_mac, zero_checksum: false }.to_json());
    let backend_type =
        raw.backend.unwrap_or_else(|| network.map_or("vxlan", |network| network.backend.lease_type()).to_owned());
    Ok(Node {
        subnet,
        value: LeaseValue {
            public_ip: raw.public_ip.unwrap_or(Ipv4Addr::UNSPECIFIED),
            public_ipv6: raw.public_ipv6,
            backend_type,
            backend_data: subnet.v4().and(data(v4)),
            backend_v6_data: subnet.v6().and(data(v6)),
            node_id: raw.id,
            node_name: raw.name,
            other: Map::new(),
        },
    })
}

fn subnet(nets: OneOrMany) -> Result<Subnet, String> {
    let nets = match nets {
        OneOrMany::One(net) => vec![net],
        OneOrMany::Many(nets) => nets,
    };
    let (mut v4, mut v6) = (None, None);
    for net in nets {
        if net.addr() != net.network() {
            return Err(format!("{net} has bits set beyond its prefix length"));
        }
        let twice = match net {
            IpNet::V4(net) => v4.replace(net).is_some(),
            IpNet::V6(net) => v6.replace(net).is_some(),
        };
        if twice {
            return Err("has two subnets of one family".into());
        }
    }
    Subnet::new(v4, v6).ok_or_else(|| "has no subnet".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn yaml_and_json_mean_the_same() {
        let yaml = b"
network: {Network: 10.5.0.0/16, Backend: {Type: vxlan}}
nodes:
  - name: one
    subnet: 10.5.1.0/24
    public_ip: 192.0.2.1
    vtep_mac: 46:82:fb:f7:52:6d
  - {name: two, subnet: [10.5.2.0/24, 'fc00:0:0:2::/64'], public_ip: 192.0.2.2, vtep_mac: '46:82:fb:f7:52:6e'}
";
        let document = parse(yaml).unwrap();
        let json = br#"{"network":{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}},"nodes":[
            {"name":"one","subnet":["10.5.1.0/24"],"public_ip":"192.0.2.1","vtep_mac":"46:82:fb:f7:52:6d"},
            {"name":"two","subnet":["10.5.2.0/24","fc00:0:0:2::/64"],"public_ip":"192.0.2.2","vtep_mac":"46:82:fb:f7:52:6e"}]}"#;
        assert_eq!(parse(json).unwrap(), document);
        let records = records(&document, 3);
        assert_eq!(records[1].key, "10.5.2.0-24&fc00:0:0:2::-64");
        assert_eq!(
            String::from_utf8(records[0].value.clone()).unwrap(),
            r#"{"PublicIP":"192.0.2.1","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VtepMAC":"46:82:fb:f7:52:6d"},"NodeName":"one"}"#
        );
        let us: LeaseValue = serde_json::from_str(r#"{"PublicIP":"192.0.2.1","NodeName":"two"}"#).unwrap();
        assert_eq!(find(&document.nodes, &us), Some(&document.nodes[1]), "a name beats an address");
    }

    #[test]
    fn every_problem_at_once() {
        let text = b"
network: {Network: 10.5.0.0/33}
nodes:
  - {name: one, subnet: 10.5.1.0/24, public_ip: 192.0.2.1}
  - {name: two, subnet: 10.5.1.128/25, public_ip: 192.0.2.2}
  - {name: three, subnet: 10.5.3.0/24}
  - {name: four, subnet: 10.5.4.1/24, public_ip: 192.0.2.4}
  - {name: five, subnet: 10.5.5.0/24, public_ip: 192.0.2.5, vtep_mac: nonsense}
  - {subnet: 10.5.6.0/24, publicip: 192.0.2.5}
";
        let problems = parse(text).unwrap_err();
        assert_eq!(problems.len(), 6, "{problems:#?}");
        assert!(problems[1].starts_with("node two: 10.5.1.128/25 overlaps 10.5.1.0/24"), "{problems:#?}");
        assert!(problems[5].starts_with("nodes[5]: unknown field `publicip`"), "{problems:#?}");
        assert_eq!(parse(b"nodes: 7").unwrap_err().len(), 1);
        assert_eq!(parse(b"{").unwrap_err().len(), 1);
    }

    #[test]
    fn an_empty_file_is_no_list() {
        for text in ["", " \n"] {
            assert!(parse(text.as_bytes()).is_err(), "{text:?}");
        }
    }
}
