use super::*;

fn names() -> Names {
    Names::new("flannel.alpha.coreos.com/")
}

fn node(text: &str) -> Node {
    serde_json::from_str(text).unwrap()
}

/// As flannel leaves it in dual stack.
const FLANNEL: &str = r#"{
    "metadata": {"name": "n2", "resourceVersion": "77", "creationTimestamp": "2026-11-22T09:30:00Z", "labels": {"a": "b"},
        "annotations": {
            "flannel.alpha.coreos.com/backend-data": "{\"VNI\":1,\"VtepMAC\":\"46:82:fb:f7:52:6d\"}",
            "flannel.alpha.coreos.com/backend-v6-data": "{\"VNI\":1,\"VtepMAC\":\"46:82:fb:f7:52:6e\"}",
            "flannel.alpha.coreos.com/backend-type": "vxlan",
            "flannel.alpha.coreos.com/kube-subnet-manager": "true",
            "flannel.alpha.coreos.com/public-ip": "192.0.2.2",
            "flannel.alpha.coreos.com/public-ipv6": "2001:db8::2",
            "kubeadm.alpha.kubernetes.io/cri-socket": "/run/x.sock"}},
    "spec": {"podCIDR": "10.5.2.0/24", "podCIDRs": ["10.5.2.0/24", "fc00:0:0:2::/64"], "taints": []},
    "status": {"images": [{"names": ["x"], "sizeBytes": 7}]}}"#;

fn told(node: &Node) -> (String, String) {
    let record = record(node, &names()).unwrap();
    (record.key, String::from_utf8(record.value).unwrap())
}

fn with(node: &Node, name: &str, text: Option<&str>) -> Node {
    let mut node = node.clone();
    let annotations = node.metadata.annotations.get_or_insert_default();
    let name = format!("flannel.alpha.coreos.com/{name}");
    match text {
        Some(text) => drop(annotations.insert(name, text.into())),
        None => drop(annotations.remove(&name)),
    }
    node
}

#[test]
fn a_node_of_flannels_is_a_lease() {
    let node = node(FLANNEL);
    let value = r#"{"PublicIP":"192.0.2.2","PublicIPv6":"2001:db8::2","BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"46:82:fb:f7:52:6d"},"BackendV6Data":{"VNI":1,"VtepMAC":"46:82:fb:f7:52:6e"},"NodeName":"n2"}"#;
    assert_eq!(told(&node), ("10.5.2.0-24&fc00:0:0:2::-64".into(), value.into()));
    assert_eq!(record(&node, &names()).unwrap().created, 20_261_122_093_000);
    for nobody in [with(&node, "kube-subnet-manager", None), with(&node, "kube-subnet-manager", Some("yes"))] {
        assert_eq!(record(&nobody, &names()), None);
    }
    assert_eq!(record(&node, &Names::new("other.example/")), None, "of another overlay");
}

#[test]
fn a_changed_half_is_a_changed_lease() {
    let before = node(FLANNEL);
    let changed = r#"{"VNI":1,"VtepMAC":"46:82:fb:f7:52:01"}"#;
    for (name, text) in [("backend-data", changed), ("backend-v6-data", changed), ("public-ip", "192.0.2.9")] {
        assert_ne!(told(&with(&before, name, Some(text))), told(&before), "{name}");
    }
}

#[test]
fn nonsense_is_passed_on_to_be_refused_and_stays_small() {
    let good = node(FLANNEL);
    let (_, value) = told(&with(&good, "backend-data", Some("{\"VNI\":")));
    assert!(value.contains(r#""BackendData":"{\"VNI\":""#), "{value}");
    let (_, value) = told(&with(&good, "backend-data", Some("null")));
    assert!(!value.contains("\"BackendData\""), "{value}");
    let (_, value) = told(&with(&good, "backend-data", Some(&"[".repeat(100_000))));
    assert!(value.len() < MAX_VALUE, "{}", value.len());
    let (_, value) = told(&with(&good, "public-ip", Some(&"9".repeat(100_000))));
    assert_eq!(value.len(), MAX_VALUE + 1, "too long for any lease");
}

#[test]
fn a_strange_range_is_refused_by_the_nodes_name() {
    let mut strange = node(FLANNEL);
    for (cidrs, reason) in [
        (vec!["10.5.2.1/24"], "has bits set"),
        (vec!["10.5.2.0/24", "10.5.3.0/24"], "two ranges of one family"),
        (vec!["10.5.2.0/33\u{1b}[2J"], "is no range"),
    ] {
        strange.spec.pod_cidrs = Some(cidrs.into_iter().map(str::to_owned).collect());
        let (key, _) = told(&strange);
        assert!(key.starts_with("node n2: podCIDR") && key.contains(reason) && !key.contains('\u{1b}'), "{key}");
        assert!(Subnet::from_key(&key).is_err());
    }
    strange.spec = Spec { pod_cidr: None, pod_cidrs: None };
    assert_eq!(told(&strange).0, "node n2: has no podCIDR");
}

#[test]
fn a_node_with_ipv6_alone() {
    let mut six = with(&node(FLANNEL), "public-ip", None);
    six.spec.pod_cidrs = Some(vec!["fc00:0:0:2::/64".into()]);
    let (key, value) = told(&six);
    assert_eq!(key, "fc00:0:0:2::-64");
    assert!(value.starts_with(r#"{"PublicIP":"0.0.0.0","PublicIPv6":"2001:db8::2""#), "{value}");
}

#[test]
fn what_is_said_of_its_network() {
    let mut node = node(FLANNEL);
    assert!(node.availability().is_none());
    let say = |status: &str, reason: &str| Condition {
        kind: "NetworkUnavailable".into(),
        status: status.into(),
        reason: reason.into(),
    };
    node.status.conditions = Some(vec![Condition::default(), say("False", "RouteCreated")]);
    assert!(node.availability().is_some() && !node.is_called_available());
    node.status.conditions = Some(vec![say("False", "FlannelIsUp")]);
    assert!(node.is_called_available());
}
