//! What our own lease says.

use std::net::Ipv4Addr;

use crate::model::{Backend, BackendData, LeaseValue, Mac, Network, Uplink};

/// Who the node is, whatever its addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub node_id: String,
    pub node_name: String,
}

/// What the lease of a vxlan network says of our devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vteps {
    pub mac_v4: Mac,
    pub mac_v6: Mac,
    /// The IPv6 device takes tunnel packets whose UDP checksum is zero.
    pub zero_checksum_v6: bool,
}

impl Vteps {
    /// There are no such devices.
    pub const NONE: Self = Self { mac_v4: Mac::ZERO, mac_v6: Mac::ZERO, zero_checksum_v6: false };
}

/// The lease's value, in the form that flannel's own daemon reads.
pub fn announce(identity: &Identity, network: &Network, uplink: &Uplink, vteps: Vteps) -> LeaseValue {
    let data = |vtep_mac, zero_checksum| match &network.backend {
        Backend::Vxlan(vxlan) => Some(BackendData { vni: Some(vxlan.vni), vtep_mac, zero_checksum }.to_json()),
        Backend::HostGw | Backend::Udp { .. } | Backend::Alloc => None,
    };
    LeaseValue {
        public_ip: network.v4.and(uplink.public_v4).unwrap_or(Ipv4Addr::UNSPECIFIED),
        public_ipv6: network.v6.and(uplink.public_v6),
        backend_type: network.backend.lease_type().to_owned(),
        backend_data: network.v4.and_then(|_| data(vteps.mac_v4, false)),
        backend_v6_data: network.v6.and_then(|_| data(vteps.mac_v6, vteps.zero_checksum_v6)),
        node_id: identity.node_id.clone(),
        node_name: identity.node_name.clone(),
        other: serde_json::Map::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::fixtures::{facts, value};

    #[test]
    fn a_dual_stack_vxlan_node_says_both_of_everything() {
        let facts = facts(true);
        let identity = Identity { node_id: "node-1".into(), node_name: String::new() };
        let said = announce(&identity, &facts.network, &facts.uplink, facts.vteps());
        let mut expected = value(1, true);
        expected.public_ip = [10, 200, 1, 2].into();
        assert_eq!(said, expected);
    }

    #[test]
    fn an_ipv6_only_node_carries_the_unspecified_address() {
        let mut facts = facts(true);
        facts.network.v4 = None;
        let identity = Identity { node_id: String::new(), node_name: String::new() };
        let said = announce(&identity, &facts.network, &facts.uplink, facts.vteps());
        assert_eq!(said.public_ip, Ipv4Addr::UNSPECIFIED);
        assert_eq!(said.backend_data, None);
        assert!(said.backend_v6_data.is_some());
    }

    #[test]
    fn only_the_ipv6_device_says_that_it_takes_zero_checksums() {
        let mut facts = facts(true);
        facts.zero_checksum_v6 = true;
        let identity = Identity { node_id: String::new(), node_name: String::new() };
        let said = announce(&identity, &facts.network, &facts.uplink, facts.vteps());
        let tells = |data: Option<serde_json::Value>| data.unwrap().get(BackendData::ZERO_CHECKSUM).cloned();
        assert_eq!(tells(said.backend_data), None);
        assert_eq!(tells(said.backend_v6_data), Some(true.into()));
    }

    #[test]
    fn host_gw_has_no_backend_data() {
        let mut facts = facts(false);
        facts.network.backend = Backend::HostGw;
        let identity = Identity { node_id: "n".into(), node_name: "n".into() };
        let said = announce(&identity, &facts.network, &facts.uplink, facts.vteps());
        assert_eq!((said.backend_type.as_str(), said.backend_data), ("host-gw", None));
    }
}
