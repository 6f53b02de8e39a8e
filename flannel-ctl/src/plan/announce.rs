//! What our own lease says.

use std::net::Ipv4Addr;

use crate::model::{Backend, BackendData, LeaseValue, Mac, Network, Uplink};

/// Who the node is, whatever its addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub node_id: String,
    pub node_name: String,
}

/// The lease's value, in the form that flannel's own daemon reads.
pub fn announce(identity: &Identity, network: &Network, uplink: &Uplink, mac_v4: Mac, mac_v6: Mac) -> LeaseValue {
    let data = |mac| match &network.backend {
        Backend::Vxlan(vxlan) => Some(BackendData { vni: Some(vxlan.vni), vtep_mac: mac }.to_json()),
        Backend::HostGw | Backend::Udp { .. } | Backend::Alloc => None,
    };
    LeaseValue {
        public_ip: network.v4.and(uplink.public_v4).unwrap_or(Ipv4Addr::UNSPECIFIED),
        public_ipv6: network.v6.and(uplink.public_v6),
        backend_type: network.backend.lease_type().to_owned(),
        backend_data: network.v4.and_then(|_| data(mac_v4)),
        backend_v6_data: network.v6.and_then(|_| data(mac_v6)),
        node_id: identity.node_id.clone(),
        node_name: identity.node_name.clone(),
        other: serde_json::Map::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::fixtures::{facts, mac, value};

    #[test]
    fn a_dual_stack_vxlan_node_says_both_of_everything() {
        let facts = facts(true);
        let identity = Identity { node_id: "node-1".into(), node_name: String::new() };
        let said = announce(&identity, &facts.network, &facts.uplink, mac(1), mac(1));
        let mut expected = value(1, true);
        expected.public_ip = [10, 200, 1, 2].into();
        assert_eq!(said, expected);
    }

    #[test]
    fn an_ipv6_only_node_carries_the_unspecified_address() {
        let mut facts = facts(true);
        facts.network.v4 = None;
        let identity = Identity { node_id: String::new(), node_name: String::new() };
        let said = announce(&identity, &facts.network, &facts.uplink, mac(1), mac(1));
        assert_eq!(said.public_ip, Ipv4Addr::UNSPECIFIED);
        assert_eq!(said.backend_data, None);
        assert!(said.backend_v6_data.is_some());
    }

    #[test]
    fn host_gw_has_no_backend_data() {
        let mut facts = facts(false);
        facts.network.backend = Backend::HostGw;
        let identity = Identity { node_id: "n".into(), node_name: "n".into() };
        let said = announce(&identity, &facts.network, &facts.uplink, mac(1), mac(1));
        assert_eq!((said.backend_type.as_str(), said.backend_data), ("host-gw", None));
    }
}
