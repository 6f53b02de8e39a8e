//! Small clusters for the tests of the pure rooms.

use std::collections::{BTreeMap, BTreeSet};

use super::{Facts, Rules, facts::Options};
use crate::model::{
    AddressRange, Backend, BackendData, LeaseRecord, LeaseValue, Mac, Network, Subnet, Uplink, VxlanConfig,
};

pub(crate) fn range(network: &str, subnet_len: u8) -> AddressRange {
    let network: ipnet::IpNet = network.parse().unwrap();
    let mut subnets = network.subnets(subnet_len).unwrap();
    let min = subnets.nth(1).unwrap();
    AddressRange { network, subnet_len, min, max: min }
}

pub(crate) fn network(dual: bool) -> Network {
    Network {
        v4: Some(range("10.244.0.0/16", 24)),
        v6: dual.then(|| range("fc00::/48", 64)),
        nftables: false,
        backend: Backend::Vxlan(VxlanConfig::default()),
    }
}

pub(crate) fn mac(n: u16) -> Mac {
    let [a, b] = n.to_be_bytes();
    Mac([2, 0, 0, 0, a, b])
}

/// Node `n` owns 10.244.n.0/24 (and fc00:0:0:n::/64), answers at 10.200.n.2 and has MAC n.
pub(crate) fn subnet(n: u16, dual: bool) -> Subnet {
    let [_, low] = n.to_be_bytes();
    let v4 = format!("10.244.{low}.0/24").parse().unwrap();
    let v6 = format!("fc00:0:0:{n:x}::/64").parse().unwrap();
    Subnet::new(Some(v4), dual.then_some(v6)).unwrap()
}

pub(crate) fn value(n: u16, dual: bool) -> LeaseValue {
    let [_, low] = n.to_be_bytes();
    let data = BackendData { vni: Some(1), vtep_mac: mac(n), zero_checksum: false }.to_json();
    LeaseValue {
        public_ip: [10, 200, low, 2].into(),
        public_ipv6: dual.then(|| format!("fd00::{n:x}").parse().unwrap()),
        backend_type: "vxlan".into(),
        backend_data: Some(data.clone()),
        backend_v6_data: dual.then_some(data),
        node_id: format!("node-{n}"),
        node_name: String::new(),
        other: serde_json::Map::default(),
    }
}

pub(crate) fn record(n: u16, dual: bool) -> LeaseRecord {
    with_value(subnet(n, dual).key(), &serde_json::to_string(&value(n, dual)).unwrap(), i64::from(n))
}

pub(crate) fn with_value(key: impl Into<String>, value: &str, created: i64) -> LeaseRecord {
    LeaseRecord { key: key.into(), value: value.into(), created, modified: created, lease_id: 7 }
}

/// We are node 1.
pub(crate) fn rules(dual: bool) -> Rules {
    Rules {
        network: network(dual),
        own_key: subnet(1, dual).key(),
        own_subnet: subnet(1, dual),
        own_node: "node-1".into(),
        own_macs: BTreeSet::from([mac(1)]),
        local_addresses: BTreeSet::from(["10.200.1.2".parse().unwrap(), "fd00::1".parse().unwrap()]),
        local_nets: vec![("10.200.1.0/24".parse().unwrap(), "eth0".into())],
    }
}

pub(crate) fn facts(dual: bool) -> Facts {
    Facts {
        network: network(dual),
        subnet: subnet(1, dual),
        uplink: Uplink {
            index: 3,
            name: "eth0".into(),
            mtu: 1500,
            ethernet: true,
            filtered: false,
            v4: Some([10, 200, 1, 2].into()),
            v6: dual.then(|| "fd00::1".parse().unwrap()),
            public_v4: Some([10, 200, 1, 2].into()),
            public_v6: dual.then(|| "fd00::1".parse().unwrap()),
        },
        mac_v4: mac(1),
        mac_v6: mac(1),
        zero_checksum_v6: false,
        options: Options {
            nexthops: true,
            fast_path: None,
            guard: Some(super::facts::Guard::Drop),
            masquerade_v4: true,
            forward: true,
            ..Options::default()
        },
        pods: BTreeMap::new(),
        on_link: BTreeMap::new(),
    }
}
