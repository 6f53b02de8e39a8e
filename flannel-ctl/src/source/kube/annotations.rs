//! PURE: flannel's node annotations, by name, and what ours shall say.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use crate::model::{Family, LeaseValue, Mac, Subnet};

/// Annotations by name.
pub(super) type Annotations = BTreeMap<String, String>;

/// What an administrator may write about the addresses of a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    pub v4: Option<Ipv4Addr>,
    pub v6: Option<Ipv6Addr>,
}

/// The full names, for one prefix (`pkg/subnet/kube/annotations.go`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    pub(super) subnet_manager: String,
    pub(super) backend_type: String,
    pub(super) backend_data: String,
    pub(super) backend_v6_data: String,
    pub(super) public_ip: String,
    pub(super) public_ipv6: String,
    overwrite: [String; 2],
    node_public: [String; 2],
}

impl Names {
    /// `prefix` ends in what stands before the names: `config::read::annotation_prefix` completes it.
    pub fn new(prefix: &str) -> Self {
        let full = |suffix: &str| format!("{prefix}{suffix}");
        Self {
            subnet_manager: full("kube-subnet-manager"),
            backend_type: full("backend-type"),
            backend_data: full("backend-data"),
            backend_v6_data: full("backend-v6-data"),
            public_ip: full("public-ip"),
            public_ipv6: full("public-ipv6"),
            overwrite: [full("public-ip-overwrite"), full("public-ipv6-overwrite")],
            node_public: [full("node-public-ip"), full("node-public-ipv6")],
        }
    }

    /// What peers shall dial instead of the uplink's address.
    pub(super) fn overwrite(&self, annotations: &Annotations) -> Result<Addresses, String> {
        addresses(&self.overwrite, annotations)
    }

    /// What stands for `--public-ip` and `--public-ipv6`.
    pub(super) fn node_public(&self, annotations: &Annotations) -> Result<Addresses, String> {
        addresses(&self.node_public, annotations)
    }

    /// The address of the VXLAN device of this family and VNI, as the annotations tell peers.
    pub(super) fn vtep(&self, annotations: &Annotations, family: Family, vni: u32) -> Option<Mac> {
        let name = match family {
            Family::V4 => &self.backend_data,
            Family::V6 => &self.backend_v6_data,
        };
        if annotations.get(&self.backend_type).map(String::as_str) != Some("vxlan") {
            return None;
        }
        let data: serde_json::Value = serde_json::from_str(annotations.get(name)?).ok()?;
        // Old versions of flannel left the VNI out.
        let same = data.get("VNI").is_none_or(|told| told.as_u64() == Some(vni.into()));
        let mac: Mac = data.get("VtepMAC").filter(|_| same)?.as_str()?.parse().ok()?;
        mac.is_unicast().then_some(mac)
    }

    /// What `value` looks like on the node that has `subnet`.
    pub(super) fn of_lease(&self, value: &LeaseValue, subnet: &Subnet) -> Annotations {
        let data = |data: &Option<serde_json::Value>| data.as_ref().map_or("null".to_owned(), ToString::to_string);
        let mut wanted = Annotations::new();
        let mut say = |name: &String, text: String| drop(wanted.insert(name.clone(), text));
        say(&self.subnet_manager, "true".into());
        say(&self.backend_type, value.backend_type.clone());
        if subnet.v4().is_some() {
            say(&self.backend_data, data(&value.backend_data));
            say(&self.public_ip, value.public_ip.to_string());
        }
        if let (Some(_), Some(ip)) = (subnet.v6(), value.public_ipv6) {
            say(&self.backend_v6_data, data(&value.backend_v6_data));
            say(&self.public_ipv6, ip.to_string());
        }
        wanted
    }
}

/// Those of `wanted` that are not so.
pub(super) fn differing(wanted: &Annotations, there: &Annotations) -> Annotations {
    wanted
        .iter()
        .filter(|(name, text)| there.get(*name) != Some(*text))
        .map(|(name, text)| (name.clone(), text.clone()))
        .collect()
}

fn addresses([v4, v6]: &[String; 2], annotations: &Annotations) -> Result<Addresses, String> {
    Ok(Addresses { v4: address(v4, annotations)?, v6: address(v6, annotations)? })
}

fn address<T: FromStr>(name: &str, annotations: &Annotations) -> Result<Option<T>, String> {
    let Some(text) = annotations.get(name).filter(|text| !text.is_empty()) else { return Ok(None) };
    let shown: String = text.chars().take(64).flat_map(char::escape_debug).collect();
    text.parse().map(Some).map_err(|_| format!("the annotation {name} is {shown:?}, which is not such an address"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_as_flannel_writes_it() {
        let names = Names::new("flannel.alpha.coreos.com/");
        let text = r#"{"PublicIP":"192.0.2.1","PublicIPv6":"2001:db8::1","BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"46:82:fb:f7:52:6d"},"BackendV6Data":{"VNI":1,"VtepMAC":"46:82:fb:f7:52:6e"}}"#;
        let value: LeaseValue = serde_json::from_str(text).unwrap();
        let both = Subnet::from_key("10.5.1.0-24&fc00::-64").unwrap();
        let said: Vec<_> = names.of_lease(&value, &both).into_iter().collect();
        let domain = "flannel.alpha.coreos.com/";
        let expected = [
            ("backend-data", r#"{"VNI":1,"VtepMAC":"46:82:fb:f7:52:6d"}"#),
            ("backend-type", "vxlan"),
            ("backend-v6-data", r#"{"VNI":1,"VtepMAC":"46:82:fb:f7:52:6e"}"#),
            ("kube-subnet-manager", "true"),
            ("public-ip", "192.0.2.1"),
            ("public-ipv6", "2001:db8::1"),
        ];
        assert_eq!(said, expected.map(|(name, text)| (format!("{domain}{name}"), text.to_owned())));
        let plain: LeaseValue = serde_json::from_str(r#"{"PublicIP":"192.0.2.1","BackendType":"host-gw"}"#).unwrap();
        let said = names.of_lease(&plain, &Subnet::from_key("10.5.1.0-24").unwrap());
        assert_eq!(said[&format!("{domain}backend-data")], "null", "the literal, as flannel has it");
        assert_eq!(said.len(), 4);
        assert_eq!(differing(&said, &said), Annotations::new());
    }

    #[test]
    fn an_address_that_is_none_is_named() {
        let names = Names::new("f.example/");
        let told = |name: &str, text: &str| Annotations::from([(format!("f.example/{name}"), text.to_owned())]);
        let v4 = names.overwrite(&told("public-ip-overwrite", "198.51.100.7")).unwrap();
        assert_eq!(v4, Addresses { v4: Some([198, 51, 100, 7].into()), v6: None });
        let error = names.node_public(&told("node-public-ip", "\u{1b}[2J")).unwrap_err();
        assert!(error.contains("f.example/node-public-ip") && !error.contains('\u{1b}'), "{error}");
        assert!(names.overwrite(&told("public-ipv6-overwrite", "192.0.2.1")).is_err(), "another family's");
    }
}
