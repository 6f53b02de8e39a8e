//! A lease as it stands in the store.

use std::net::{Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::Mac;

/// One key of `<prefix>/subnets/`, exactly as read. Nothing in it has been believed yet:
/// [`crate::plan::inspect`] decides which records become peers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseRecord {
    /// The part of the key behind `subnets/`.
    pub key: String,
    pub value: Vec<u8>,
    /// etcd's create revision: who came first.
    pub created: i64,
    /// etcd's mod revision: what a compare-and-set compares.
    pub modified: i64,
    /// etcd lease that the key hangs on; 0 is none, which makes it a reservation.
    pub lease_id: i64,
}

/// The JSON value of a lease: flannel's `lease.LeaseAttrs` field for field, in its order
/// (`pkg/lease/lease.go`), plus [`Self::node_id`], which old readers ignore.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LeaseValue {
    /// What peers dial. An IPv6-only lease carries `0.0.0.0`, as flannel writes it.
    #[serde(rename = "PublicIP")]
    pub public_ip: Ipv4Addr,
    /// Always written, `null` if there is none.
    #[serde(rename = "PublicIPv6", default)]
    pub public_ipv6: Option<Ipv6Addr>,
    /// Absent for flannel's udp and alloc.
    #[serde(rename = "BackendType", default, skip_serializing_if = "String::is_empty")]
    pub backend_type: String,
    #[serde(rename = "BackendData", default, skip_serializing_if = "Option::is_none")]
    pub backend_data: Option<Value>,
    #[serde(rename = "BackendV6Data", default, skip_serializing_if = "Option::is_none")]
    pub backend_v6_data: Option<Value>,
    /// Ours: the node that owns the lease, whatever its address.
    #[serde(rename = "NodeID", default, skip_serializing_if = "String::is_empty")]
    pub node_id: String,
    /// Ours: the node's host name, for people.
    #[serde(rename = "NodeName", default, skip_serializing_if = "String::is_empty")]
    pub node_name: String,
    /// Fields of others, kept on rewrite.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// `BackendData` of a vxlan lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackendData {
    /// Absent in leases of old flannel versions.
    pub vni: Option<u32>,
    pub vtep_mac: Mac,
    /// Ours, of IPv6 alone: the device takes tunnel packets whose UDP checksum is zero (RFC 6935). flannel's readers
    /// ignore it.
    pub zero_checksum: bool,
}

impl BackendData {
    /// Name of the field behind [`Self::zero_checksum`], which is there only if it is true.
    pub const ZERO_CHECKSUM: &str = "ZeroChecksum";

    /// flannel's form and field order: `{"VNI":1,"VtepMAC":"46:82:fb:f7:52:6d"}`.
    pub fn to_json(self) -> Value {
        let mut map = Map::new();
        if let Some(vni) = self.vni {
            map.insert("VNI".into(), vni.into());
        }
        map.insert("VtepMAC".into(), self.vtep_mac.to_string().into());
        if self.zero_checksum {
            map.insert(Self::ZERO_CHECKSUM.into(), true.into());
        }
        Value::Object(map)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_as_flannel_writes_it() {
        let text = r#"{"PublicIP":"10.99.0.1","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"46:82:fb:f7:52:6d"}}"#;
        let value: LeaseValue = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&value).unwrap(), text);
        let mac = "46:82:fb:f7:52:6d".parse().unwrap();
        let data = BackendData { vni: Some(1), vtep_mac: mac, zero_checksum: false };
        assert_eq!(value.backend_data, Some(data.to_json()));
    }

    #[test]
    fn what_the_device_takes_comes_behind_what_flannel_reads() {
        let data = BackendData { vni: Some(1), vtep_mac: "46:82:fb:f7:52:6d".parse().unwrap(), zero_checksum: true };
        let expected = r#"{"VNI":1,"VtepMAC":"46:82:fb:f7:52:6d","ZeroChecksum":true}"#;
        assert_eq!(data.to_json().to_string(), expected);
    }

    #[test]
    fn unknown_fields_survive_a_rewrite() {
        let text = r#"{"PublicIP":"10.99.0.1","PublicIPv6":"fd99::1","Rack":{"row":7}}"#;
        let value: LeaseValue = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&value).unwrap(), text);
    }
}
