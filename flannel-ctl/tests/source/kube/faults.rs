//! The API server fails, forgets, refuses, and comes back.

use super::*;

fn disconnects(node: &Node) -> usize {
    node.count(|event| matches!(event, Event::Disconnected(_)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_happened_while_the_server_was_away_is_made_up_for() {
    let lab = Lab::new();
    lab.api.add_peer("n2", "10.5.2.0/24", "192.0.2.2", MAC);
    lab.api.add_peer("n3", "10.5.3.0/24", "192.0.2.3", "46:82:fb:f7:52:03");
    let mut node = lab.run().await;
    node.until_listed().await;
    assert_eq!(node.leases.len(), 3);
    for compacted in [false, true] {
        lab.api.stop();
        node.until("the outage", |node| trouble(node).is_some_and(|text| text.contains("Connection refused"))).await;
        assert_eq!(node.leases.len(), 3, "nobody is forgotten meanwhile");
        lab.api.remove_node("n2");
        lab.api.annotate("n1", &[("public-ip", Some("198.51.100.66"))]);
        if compacted {
            lab.api.compact();
        }
        lab.api.again().unwrap();
        node.until("the removal", |node| node.leases.len() == 2).await;
        node.until("connected", |node| trouble(node).is_none()).await;
        lab.until_annotated("public-ip", "192.0.2.1").await;
        lab.api.add_peer("n2", "10.5.2.0/24", "192.0.2.2", MAC);
        node.until("n2 again", |node| node.leases.len() == 3).await;
    }
    assert_eq!(node.count(|event| matches!(event, Event::Lost { .. })), 0);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_that_breaks_goes_on_where_it_broke() {
    let lab = Lab::new();
    let mut node = lab.run().await;
    node.until_listed().await;
    let lists = lab.api.count("list");
    for i in 2..5 {
        lab.api.cut_watches();
        lab.api.add_peer(&format!("n{i}"), &format!("10.5.{i}.0/24"), &format!("192.0.2.{i}"), MAC);
        node.until("the next peer", |node| node.leases.contains_key(&format!("10.5.{i}.0-24"))).await;
    }
    assert_eq!((lab.api.count("list"), disconnects(&node)), (lists, 0), "no list was needed, and nobody was alarmed");

    // With its history gone, the list is the truth again.
    lab.api.remove_node("n4");
    node.until("n4 is gone", |node| !node.leases.contains_key("10.5.4.0-24")).await;
    lab.api.cut_watches();
    lab.api.remove_node("n3");
    lab.api.compact();
    node.until("n3 is gone", |node| !node.leases.contains_key("10.5.3.0-24")).await;
    assert_eq!((lab.api.count("list") > lists, disconnects(&node)), (true, 0));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_was_restored_from_a_backup_is_listed_anew() {
    let lab = Lab::new();
    lab.api.add_peer("n2", "10.5.2.0/24", "192.0.2.2", MAC);
    let mut node = lab.run().await;
    node.until_listed().await;
    let backup = lab.api.back_up();
    for i in 0..20 {
        lab.api.touch("n2");
        lab.api.add_peer(&format!("m{i}"), &format!("10.5.{}.0/24", 30 + i), "192.0.2.30", MAC);
    }
    node.until("all of them", |node| node.leases.len() == 22).await;
    lab.api.stop();
    node.until("the outage", |node| trouble(node).is_some_and(|text| text.contains("Connection refused"))).await;
    lab.api.restore(backup);
    lab.api.add_peer("n3", "10.5.3.0/24", "192.0.2.3", "46:82:fb:f7:52:03");
    lab.api.again().unwrap();
    // A watch from the future would tell neither.
    node.until("what is there now", |node| node.leases.len() == 3 && node.leases.contains_key("10.5.3.0-24")).await;
    assert_eq!(node.count(|event| matches!(event, Event::Lost { .. })), 0);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_names_the_rule_that_is_missing() {
    let lab = Lab::new();
    let mut node = lab.run().await;
    node.until_listed().await;
    lab.api.refuse("patch", "nodes/status");
    node.values.send_replace(value("a", "192.0.2.7"));
    let names = |node: &Node, rule: &str| trouble(node).is_some_and(|text| text.contains(rule));
    node.until("the rule", |node| names(node, "the verb patch on nodes/status")).await;
    lab.api.allow();
    lab.until_annotated("public-ip", "192.0.2.7").await;
    node.until("connected", |node| trouble(node).is_none()).await;
    lab.api.refuse("watch", "nodes");
    lab.api.cut_watches();
    node.until("the other rule", |node| names(node, "the verb watch on nodes")).await;
    assert!(trouble(&node).unwrap().contains("403 nodes"), "{:?}", trouble(&node));
    let connected = |node: &Node| node.count(|event| matches!(event, Event::Connected));
    let (before, tries) = (connected(&node), lab.api.count("watch nodes"));
    lab.until("more tries", |api| api.count("watch nodes") >= tries + 3).await;
    lab.api.allow();
    lab.api.add_peer("n2", "10.5.2.0/24", "192.0.2.2", MAC);
    node.until("a peer", |node| node.leases.contains_key("10.5.2.0-24") && trouble(node).is_none()).await;
    assert_eq!(connected(&node), before + 1, "who can list alone is not connected");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_rotates_is_read_again() {
    let lab = Lab::new();
    lab.api.accept(&["first-token"]);
    fs::write(lab.path("token"), "first-token").unwrap();
    lab.api.kubeconfig(&lab.path("kubeconfig"), &format!("tokenFile: {}", lab.path("token").display())).unwrap();
    let mut node = lab.run().await;
    node.until_listed().await;
    // The old one ends before the new one is there.
    lab.api.accept(&["second-token"]);
    lab.api.cut_watches();
    node.until("the refusal", |node| trouble(node).is_some_and(|text| text.contains("401"))).await;
    assert!(!trouble(&node).unwrap().contains("first-token"));
    fs::write(lab.path("token"), "second-token").unwrap();
    node.until("connected", |node| trouble(node).is_none()).await;
    lab.api.add_peer("n2", "10.5.2.0/24", "192.0.2.2", MAC);
    node.until("a peer", |node| node.leases.contains_key("10.5.2.0-24")).await;
    node.stop().await;
}
