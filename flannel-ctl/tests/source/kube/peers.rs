//! Other nodes come, change and go.

use super::*;

const B: &str = "10.5.2.0-24";
const C: &str = "10.5.3.0-24";

fn said(node: &Node, key: &str) -> String {
    node.leases.get(key).map(|record| String::from_utf8(record.value.clone()).unwrap()).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_come_change_and_go() {
    let lab = Lab::new();
    lab.api.add_peer("n2", "10.5.2.0/24", "192.0.2.2", MAC);
    lab.api.add_node("bare", &["10.5.200.0/24"]);
    let mut node = lab.run().await;
    node.until_listed().await;
    assert!(node.leases.contains_key(B) && node.leases.len() == 2, "a node without flannel is none");

    lab.api.add_peer("n3", "10.5.3.0/24", "192.0.2.3", "46:82:fb:f7:52:03");
    node.until("the third", |node| said(node, C).contains("46:82:fb:f7:52:03")).await;
    lab.api.annotate("n3", &[("public-ip", Some("192.0.2.33"))]);
    node.until("its new address", |node| said(node, C).contains("192.0.2.33")).await;
    let puts = node.count(|event| matches!(event, Event::Put(_)));
    for _ in 0..20 {
        lab.api.touch("n3");
    }
    lab.api.set_cidrs("n3", &["10.5.33.0/24"]);
    node.until("its new range", |node| node.leases.contains_key("10.5.33.0-24")).await;
    assert!(!node.leases.contains_key(C), "the old one is gone");
    assert_eq!(node.count(|event| matches!(event, Event::Put(_))), puts + 1, "heartbeats are no news");

    lab.api.annotate("n3", &[("kube-subnet-manager", None)]);
    node.until("flannel left it", |node| !node.leases.contains_key("10.5.33.0-24")).await;
    lab.api.remove_node("n2");
    node.until("the second is gone", |node| node.leases.len() == 1).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_dual_stack_each_half_alone_is_news() {
    let lab = Lab::new();
    let dual = r#"{"Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"fc00::/48","Backend":{"Type":"vxlan"}}"#;
    fs::write(lab.path("net-conf.json"), dual).unwrap();
    lab.api.set_cidrs("n1", &["10.5.1.0/24", "fc00:0:0:1::/64"]);
    lab.api.add_peer("n2", "10.5.2.0/24", "192.0.2.2", MAC);
    lab.api.set_cidrs("n2", &["10.5.2.0/24", "fc00:0:0:2::/64"]);
    let six = r#"{"VNI":1,"VtepMAC":"46:82:fb:f7:52:06"}"#;
    lab.api.annotate("n2", &[("public-ipv6", Some("2001:db8::2")), ("backend-v6-data", Some(six))]);
    let mut value = value("a", "192.0.2.1");
    value.public_ipv6 = Some("2001:db8::1".parse().unwrap());
    value.backend_v6_data = value.backend_data.clone();
    let mut node = run(lab.source(), value).await;
    node.until_listed().await;
    assert_eq!(node.acquired.key, "10.5.1.0-24&fc00:0:0:1::-64");
    assert_eq!(lab.api.annotation("n1", "public-ipv6").as_deref(), Some("2001:db8::1"));
    assert!(lab.api.annotation("n1", "backend-v6-data").is_some());

    let key = "10.5.2.0-24&fc00:0:0:2::-64";
    let four = r#"{"VNI":1,"VtepMAC":"46:82:fb:f7:52:44"}"#;
    lab.api.annotate("n2", &[("backend-data", Some(four))]);
    node.until("the MAC of IPv4 alone", |node| said(node, key).contains("46:82:fb:f7:52:44")).await;
    assert!(said(&node, key).contains("46:82:fb:f7:52:06"));
    lab.api.annotate("n2", &[("public-ipv6", Some("2001:db8::22"))]);
    node.until("the address of IPv6 alone", |node| said(node, key).contains("2001:db8::22")).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_with_one_range_cost_nobody_else_anything() {
    let lab = Lab::new();
    lab.api.add_peer("n2", "10.5.2.0/24", "192.0.2.2", MAC);
    lab.api.add_peer("double", "10.5.2.0/24", "192.0.2.99", "46:82:fb:f7:52:99");
    lab.api.add_peer("thief", "10.5.1.0/24", "192.0.2.98", "46:82:fb:f7:52:98");
    lab.api.add_peer("n3", "10.5.3.0/24", "192.0.2.3", "46:82:fb:f7:52:03");
    let mut node = lab.run().await;
    node.until_listed().await;
    assert!(said(&node, B).contains("192.0.2.2\"") && said(&node, C).contains("192.0.2.3\""));
    assert!(said(&node, OURS).contains("192.0.2.1\""), "ours is ours");
    let refused: Vec<_> = node.leases.keys().filter(|key| key.starts_with("node ")).cloned().collect();
    assert_eq!(refused.len(), 2, "{refused:?}");
    assert!(refused[0].starts_with("node double: its podCIDR 10.5.2.0-24 belongs to another node"), "{refused:?}");
    lab.api.remove_node("n2");
    node.until("the heir", |node| said(node, B).contains("192.0.2.99")).await;
    assert_eq!(node.leases.len(), 4, "{:?}", node.leases.keys());
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_cluster_comes_in_pages() {
    let lab = Lab::new();
    for i in 0..1234 {
        let name = format!("peer-{i:04}");
        lab.api.add_peer(&name, &format!("10.5.{}.{}/28", 16 + i / 16, i % 16 * 16), "192.0.2.2", MAC);
    }
    let mut node = lab.run().await;
    node.until_listed().await;
    assert_eq!(node.leases.len(), 1235);
    assert!(lab.api.count("list nodes") >= 5);
    node.stop().await;
}
