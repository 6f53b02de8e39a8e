//! `deploy/kubernetes/flannel-ctl.yml` is what the daemon needs, and no more.

#![allow(clippy::unwrap_used, reason = "a test says by its panic what went wrong")]

use std::collections::{BTreeMap, BTreeSet};

use clap::Parser as _;
use flannel_ctl::{cli::Cli, config::netconf, source::kube::Right};
use serde::Deserialize as _;
use serde_json::Value;

fn documents() -> Vec<Value> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/kubernetes/flannel-ctl.yml");
    let text = std::fs::read_to_string(path).unwrap();
    serde_yaml_ng::Deserializer::from_str(&text).map(|document| Value::deserialize(document).unwrap()).collect()
}

fn of_kind(kind: &str) -> Value {
    let mut found: Vec<_> = documents().into_iter().filter(|document| document["kind"] == kind).collect();
    assert_eq!(found.len(), 1, "{kind}");
    found.remove(0)
}

fn texts(value: &Value) -> Vec<&str> {
    value.as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect()
}

#[test]
fn the_role_grants_what_is_asked_for_and_nothing_else() {
    let role = of_kind("ClusterRole");
    let mut granted = BTreeSet::new();
    for rule in role["rules"].as_array().unwrap() {
        assert_eq!(texts(&rule["apiGroups"]), [""]);
        for resource in texts(&rule["resources"]) {
            granted.extend(texts(&rule["verbs"]).into_iter().map(|verb| (verb.to_owned(), resource.to_owned())));
        }
    }
    let needed = Right::NEEDED.map(|right| (right.verb.to_owned(), right.resource.to_owned()));
    assert_eq!(granted, BTreeSet::from(needed));

    let binding = of_kind("ClusterRoleBinding");
    assert_eq!(binding["roleRef"]["name"], role["metadata"]["name"]);
    let account = of_kind("ServiceAccount");
    let pod = of_kind("DaemonSet")["spec"]["template"]["spec"].clone();
    for name in [&binding["subjects"][0]["name"], &pod["serviceAccountName"]] {
        assert_eq!(*name, account["metadata"]["name"]);
    }
    assert_eq!(binding["subjects"][0]["namespace"], account["metadata"]["namespace"]);
}

#[test]
fn the_config_is_flannels_and_good() {
    let data = of_kind("ConfigMap")["data"].clone();
    let network = netconf::parse(data["net-conf.json"].as_str().unwrap().as_bytes()).unwrap();
    assert_eq!(network.backend.vni(), Some(1));
    let cni: Value = serde_json::from_str(data["cni-conf.json"].as_str().unwrap()).unwrap();
    assert_eq!(cni["plugins"][0]["type"], "flannel");
}

#[test]
fn the_pod_can_start() {
    let set = of_kind("DaemonSet");
    let template = &set["spec"]["template"];
    assert_eq!(set["spec"]["selector"]["matchLabels"], template["metadata"]["labels"]);
    let pod = &template["spec"];
    assert_eq!(pod["hostNetwork"], true);
    let daemon = &pod["containers"][0];
    let args = texts(&daemon["args"]);
    assert!(args.contains(&"--source=kube"));
    Cli::try_parse_from([texts(&daemon["command"]), args.clone()].concat()).unwrap();
    for probe in ["livenessProbe", "readinessProbe"] {
        let port = format!("--healthz-port={}", daemon[probe]["httpGet"]["port"]);
        assert!(args.contains(&port.as_str()), "{probe}: {port}");
    }
    assert_eq!(daemon["env"][0]["name"], "NODE_NAME");

    let volumes: BTreeMap<_, _> =
        pod["volumes"].as_array().unwrap().iter().map(|volume| (volume["name"].as_str().unwrap(), volume)).collect();
    let mut mounted = BTreeSet::new();
    let containers = ["initContainers", "containers"].map(|kind| pod[kind].as_array().unwrap());
    for mount in containers.into_iter().flatten().flat_map(|one| one["volumeMounts"].as_array().unwrap()) {
        let name = mount["name"].as_str().unwrap();
        assert!(volumes.contains_key(name), "{name}");
        // What outlives the pod is found again at the same place.
        if let Some(path) = volumes[name]["hostPath"]["path"].as_str() {
            assert_eq!(mount["mountPath"], path);
        }
        mounted.insert(name);
    }
    assert_eq!(mounted.len(), volumes.len(), "no volume is idle");
    assert_eq!(volumes["config"]["configMap"]["name"], of_kind("ConfigMap")["metadata"]["name"]);
    for namespaced in ["ServiceAccount", "ConfigMap", "DaemonSet"] {
        assert_eq!(of_kind(namespaced)["metadata"]["namespace"], of_kind("Namespace")["metadata"]["name"]);
    }
}
