//! Our own node: found, annotated as flannel does it, and kept so.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use super::*;

fn conditions(api: &KubeApi) -> Vec<serde_json::Value> {
    let node = api.node("n1").unwrap();
    let all = node["status"]["conditions"].as_array().unwrap().clone();
    all.into_iter().filter(|condition| condition["type"] == "NetworkUnavailable").collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_node_says_what_flannel_would_have_it_say() {
    let lab = Lab::new();
    let mut node = lab.run().await;
    assert_eq!(node.acquired.key, OURS);
    let said = lab.api.node("n1").unwrap()["metadata"]["annotations"].clone();
    let expected = BTreeMap::from([
        ("flannel.alpha.coreos.com/backend-data", r#"{"VNI":1,"VtepMAC":"46:82:fb:f7:52:6d"}"#),
        ("flannel.alpha.coreos.com/backend-type", "vxlan"),
        ("flannel.alpha.coreos.com/kube-subnet-manager", "true"),
        ("flannel.alpha.coreos.com/public-ip", "192.0.2.1"),
    ]);
    assert_eq!(said, serde_json::to_value(expected).unwrap());
    node.until_listed().await;
    assert_eq!(node.own.as_ref(), Some(&node.acquired));
    assert!(node.leases.contains_key(OURS), "the list is complete");

    lab.until("the condition", |api| !conditions(api).is_empty()).await;
    let told = conditions(&lab.api);
    assert_eq!((&told[0]["status"], &told[0]["reason"]), (&"False".into(), &"FlannelIsUp".into()));
    assert_eq!(told[0]["message"], "Flannel is running on this node");
    let time = told[0]["lastTransitionTime"].as_str().unwrap();
    assert!(time.len() == 20 && time.ends_with('Z'), "{time}");
    node.stop().await;

    // Nothing is left to write at the next start.
    let before = lab.api.count("patch");
    let mut node = lab.run().await;
    node.until_listed().await;
    node.stop().await;
    assert_eq!(lab.api.count("patch"), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_network_is_called_available_only_once_the_node_is_ready() {
    let lab = Lab::new();
    let (ready, is_ready) = tokio::sync::oneshot::channel::<()>();
    let source = lab.source().available_when(async move { drop(is_ready.await) });
    let mut node = run(source, value("a", "192.0.2.1")).await;
    node.until_listed().await;
    assert_eq!(conditions(&lab.api).len(), 0);
    ready.send(()).unwrap();
    lab.until("the condition", |api| !conditions(api).is_empty()).await;
    node.stop().await;

    let lab = Lab::new();
    let quiet = KubeSettings { set_node_network_unavailable: false, ..settings(&lab.path("kubeconfig")) };
    let source = KubeSource::new(quiet, lab.path("net-conf.json"), Some("n1".into()));
    let mut node = run(source, value("a", "192.0.2.1")).await;
    node.until_listed().await;
    lab.api.annotate("n1", &[("public-ip", None)]);
    lab.until_annotated("public-ip", "192.0.2.1").await;
    assert_eq!(conditions(&lab.api).len(), 0, "--set-node-network-unavailable=false");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn annotations_that_others_change_are_regained() {
    let lab = Lab::new();
    let mut node = lab.run().await;
    node.until_listed().await;
    let began = Instant::now();
    lab.api.annotate("n1", &[("public-ip", Some("198.51.100.66")), ("kube-subnet-manager", None)]);
    lab.until_annotated("public-ip", "192.0.2.1").await;
    lab.until_annotated("kube-subnet-manager", "true").await;
    println!("regained after {:?}", began.elapsed());
    let conflict = |node: &Node| {
        node.count(
            |event| matches!(event, Event::Conflict { key, reason } if key == OURS && reason.contains("public-ip")),
        )
    };
    node.until("the conflict is told", |node| conflict(node) == 1).await;
    lab.api.annotate("n1", &[("backend-data", Some("null"))]);
    lab.until_annotated("backend-data", r#"{"VNI":1,"VtepMAC":"46:82:fb:f7:52:6d"}"#).await;
    assert_eq!(node.count(|event| matches!(event, Event::Lost { .. })), 0);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_value_and_an_administrators_word_are_published() {
    let lab = Lab::new();
    let mut node = lab.run().await;
    node.until_listed().await;
    node.values.send_replace(value("a", "192.0.2.7"));
    lab.until_annotated("public-ip", "192.0.2.7").await;
    lab.api.annotate("n1", &[("public-ip-overwrite", Some("203.0.113.9"))]);
    lab.until_annotated("public-ip", "203.0.113.9").await;
    let own = |node: &Node| node.own.as_ref().map(|own| own.value.public_ip.to_string());
    node.until("our own lease says so", |node| own(node).as_deref() == Some("203.0.113.9")).await;
    lab.api.annotate("n1", &[("public-ip-overwrite", None)]);
    lab.until_annotated("public-ip", "192.0.2.7").await;
    assert_eq!(node.count(|event| matches!(event, Event::Conflict { .. })), 0, "none of that is a quarrel");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn words_that_count_at_the_start_are_read() {
    let lab = Lab::new();
    lab.api.annotate(
        "n1",
        &[
            ("node-public-ip", Some("192.0.2.200")),
            ("backend-type", Some("vxlan")),
            ("backend-data", Some(r#"{"VNI":1,"VtepMAC":"46:82:fb:f7:52:99"}"#)),
        ],
    );
    let mut source = lab.source();
    source.network().await;
    let words = source.words().unwrap();
    assert_eq!(words.public.v4.unwrap().to_string(), "192.0.2.200");
    assert_eq!(words.vteps[0].unwrap().to_string(), "46:82:fb:f7:52:99");
    assert_eq!(words.vteps[1], None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_missing_is_waited_for_and_told_once() {
    let lab = Lab::new();
    lab.api.remove_node("n1");
    let told = Arc::new(Mutex::new(Vec::<String>::new()));
    let source = {
        let told = Arc::clone(&told);
        lab.source().telling(move |text| told.lock().unwrap().push(text.to_owned()))
    };
    fs::remove_file(lab.path("net-conf.json")).unwrap();
    let waiting = tokio::spawn(run(source, value("a", "192.0.2.1")));
    let heard = |what: &'static str| {
        let told = Arc::clone(&told);
        move |_: &KubeApi| told.lock().unwrap().iter().any(|text| text.contains(what))
    };
    lab.until("the missing file", heard("read the network config")).await;
    fs::write(lab.path("net-conf.json"), NETWORK).unwrap();
    lab.until("the missing node", heard("nodes \\\"n1\\\" not found; its name must be the one")).await;
    lab.api.add_node("n1", &[]);
    lab.until("the missing range", heard("--allocate-node-cidrs")).await;
    lab.api.set_cidrs("n1", &["10.6.1.0/24"]);
    lab.until("the range outside", heard("10.6.1.0/24 is outside of the network config's 10.5.0.0/16")).await;
    lab.api.set_cidrs("n1", &["10.5.1.0/24"]);
    let node = waiting.await.unwrap();
    assert_eq!(node.acquired.key, OURS);
    node.stop().await;
    let told = told.lock().unwrap().clone();
    assert_eq!(told.len(), 5, "each once, and the end of it: {told:#?}");
    assert_eq!(told.last().unwrap(), "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_range_for_our_node_is_ours_at_once() {
    let lab = Lab::new();
    let mut node = lab.run().await;
    node.until_listed().await;
    lab.api.set_cidrs("n1", &["10.5.77.0/24"]);
    node.until("the new range", |node| node.own.as_ref().is_some_and(|own| own.key == "10.5.77.0-24")).await;
    assert_eq!(node.count(|event| matches!(event, Event::Lost { .. })), 1);
    node.until("the old one is gone", |node| !node.leases.contains_key(OURS)).await;

    // Registered anew without a range: what is there stays, until there is another.
    lab.api.remove_node("n1");
    node.until("the complaint", |node| trouble(node).is_some_and(|text| text.contains("not there any more"))).await;
    lab.api.add_node("n1", &[]);
    node.until("the next complaint", |node| trouble(node).is_some_and(|text| text.contains("--allocate-node"))).await;
    assert!(node.own.is_some());
    lab.api.set_cidrs("n1", &["10.5.77.0/24"]);
    lab.until_annotated("public-ip", "192.0.2.1").await;
    node.until("content again", |node| trouble(node).is_none()).await;
    lab.until("the condition of the new object", |api| !conditions(api).is_empty()).await;
    assert_eq!(node.count(|event| matches!(event, Event::Lost { .. })), 1);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_network_config_is_told() {
    let lab = Lab::new();
    let mut node = lab.run().await;
    node.until_listed().await;
    let told = |node: &Node| {
        node.heard.iter().rev().find_map(|event| match event {
            Event::NetworkChanged(text) => Some(text.clone()),
            _ => None,
        })
    };
    fs::write(lab.path("next"), r#"{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan","VNI":7}}"#).unwrap();
    fs::rename(lab.path("next"), lab.path("net-conf.json")).unwrap();
    node.until("the change", |node| told(node).is_some_and(|text| text.contains("changed"))).await;
    fs::write(lab.path("net-conf.json"), "{").unwrap();
    node.until("the mistake", |node| told(node).is_some_and(|text| text.contains("is not JSON"))).await;
    fs::write(lab.path("net-conf.json"), NETWORK).unwrap();
    node.until("the end of it", |node| told(node).as_deref() == Some("")).await;
    node.stop().await;
}
