use super::*;
use crate::{config::netconf, model::Subnet};

fn names() -> Names {
    Names::new("flannel.alpha.coreos.com/")
}

fn network(text: &str) -> Network {
    let subnet = Subnet::from_key("10.5.1.0-24&fc00:0:0:1::-64").unwrap();
    cut_by(&netconf::parse(text.as_bytes()).unwrap(), &subnet).unwrap()
}

fn node(spec: &str, annotations: &[(&str, &str)]) -> Node {
    let full = |name: &str| format!("flannel.alpha.coreos.com/{name}");
    let annotations: Annotations = annotations.iter().map(|(name, text)| (full(name), (*text).to_owned())).collect();
    let text = json!({"metadata": {"name": "n1", "annotations": annotations}, "spec": serde_json::from_str::<Value>(spec).unwrap()});
    serde_json::from_value(text).unwrap()
}

fn wish() -> LeaseValue {
    let text = r#"{"PublicIP":"192.0.2.1","PublicIPv6":"2001:db8::1","BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"46:82:fb:f7:52:6d"},"BackendV6Data":{"VNI":1,"VtepMAC":"46:82:fb:f7:52:6e"},"NodeID":"a"}"#;
    serde_json::from_str(text).unwrap()
}

const PLAIN: &str = r#"{"Network":"10.5.0.0/16"}"#;
const DUAL: &str =
    r#"{"Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"fc00::/48","Backend":{"Type":"vxlan"}}"#;

fn said(node: &Node, network: &Network) -> (OwnLease, Annotations) {
    let Standing { lease, wrong } = judge("n1", Some(node), &wish(), network, &names()).unwrap();
    (lease, wrong)
}

#[test]
fn only_what_is_wrong_is_written() {
    let bare = node(r#"{"podCIDR":"10.5.1.0/24"}"#, &[]);
    let (lease, wrong) = said(&bare, &network(PLAIN));
    assert_eq!((lease.key.as_str(), wrong.len()), ("10.5.1.0-24", 4));
    let most = [
        ("kube-subnet-manager", "true"),
        ("backend-type", "vxlan"),
        ("backend-data", r#"{"VNI":1,"VtepMAC":"46:82:fb:f7:52:6d"}"#),
        ("public-ip", "192.0.2.9"),
    ];
    let (_, wrong) = said(&node(r#"{"podCIDR":"10.5.1.0/24"}"#, &most), &network(PLAIN));
    assert_eq!(wrong, Annotations::from([("flannel.alpha.coreos.com/public-ip".into(), "192.0.2.1".into())]));
}

#[test]
fn families_that_the_network_has_not_are_left_out() {
    let both = r#"{"podCIDR":"10.5.1.0/24","podCIDRs":["10.5.1.0/24","fc00:0:0:1::/64"]}"#;
    let (lease, wrong) = said(&node(both, &[]), &network(PLAIN));
    assert_eq!((lease.key.as_str(), lease.subnet.v6()), ("10.5.1.0-24&fc00:0:0:1::-64", None), "the key is the node's");
    assert_eq!(wrong.len(), 4);
    let (lease, wrong) = said(&node(both, &[]), &network(DUAL));
    assert!(lease.subnet.v6().is_some());
    assert_eq!(wrong.len(), 6);
}

#[test]
fn an_administrator_says_where_peers_dial() {
    let told = [("public-ip-overwrite", "198.51.100.7"), ("public-ipv6-overwrite", "2001:db8::7")];
    let (lease, wrong) = said(&node(r#"{"podCIDR":"10.5.1.0/24"}"#, &told), &network(PLAIN));
    assert_eq!(lease.value.public_ip.to_string(), "198.51.100.7");
    assert_eq!(lease.value.public_ipv6.unwrap().to_string(), "2001:db8::1", "there is no IPv6 here");
    assert_eq!(wrong["flannel.alpha.coreos.com/public-ip"], "198.51.100.7");
    let nonsense = [("public-ip-overwrite", "everywhere")];
    let (lease, _) = said(&node(r#"{"podCIDR":"10.5.1.0/24"}"#, &nonsense), &network(PLAIN));
    assert_eq!(lease.value.public_ip.to_string(), "192.0.2.1");
}

#[test]
fn what_cannot_be_used_is_named() {
    let reason = |node: Option<&Node>, network: &Network| judge("n1", node, &wish(), network, &names()).unwrap_err();
    let plain = network(PLAIN);
    assert!(reason(None, &plain).contains("not there any more"));
    let none = reason(Some(&node("{}", &[])), &plain);
    assert!(none.contains("--allocate-node-cidrs") && none.contains("--pod-network-cidr"), "{none}");
    let outside = reason(Some(&node(r#"{"podCIDR":"10.6.1.0/24"}"#, &[])), &plain);
    assert!(outside.contains("10.6.1.0/24") && outside.contains("10.5.0.0/16"), "{outside}");
    let half = reason(Some(&node(r#"{"podCIDR":"10.5.1.0/24"}"#, &[])), &network(DUAL));
    assert!(half.contains("IPv6"), "{half}");
    let longer = reason(Some(&node(r#"{"podCIDR":"10.5.1.0/25"}"#, &[])), &plain);
    assert!(longer.contains("restart"), "{longer}");
}
