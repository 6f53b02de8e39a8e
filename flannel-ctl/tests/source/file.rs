//! The part of the suite that a file can give: list, change, refusal, our own entry.

use std::{fs, path::Path};

use flannel_ctl::source::{Event, FileSource, LeaseRequest, LeaseSource};
use tempfile::TempDir;

use crate::node::{Node, value};

const HEAD: &str = "network: {Network: 10.5.0.0/16, Backend: {Type: vxlan}}\nnodes:\n";
const OURS: &str = "  - {name: host-a, subnet: 10.5.1.0/24, public_ip: 192.0.2.1, vtep_mac: '46:82:fb:f7:52:6d'}\n";
const OTHER: &str = "  - {name: host-b, subnet: 10.5.2.0/24, public_ip: 192.0.2.2, vtep_mac: '46:82:fb:f7:52:6e'}\n";

/// As careful writers do it.
fn replace(path: &Path, text: &str) {
    let next = path.with_extension("next");
    fs::write(&next, text).unwrap();
    fs::rename(next, path).unwrap();
}

async fn start(path: &Path) -> Node {
    let mut source = LeaseSource::File(Box::new(FileSource::new(path.into(), None)));
    let network = source.network().await;
    let request = LeaseRequest { network, value: value("a", "192.0.2.1"), previous: None, refused_by: None };
    let lease = source.acquire(request).await.unwrap();
    Node::run(source, lease, value("a", "192.0.2.1"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_list_is_read_again_and_a_bad_one_changes_nothing() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("nodes.yaml");
    fs::write(&path, format!("{HEAD}{OURS}")).unwrap();
    let mut node = start(&path).await;
    assert_eq!(node.acquired.key, "10.5.1.0-24");
    node.until_listed().await;
    assert_eq!(node.own.as_ref(), Some(&node.acquired));

    replace(&path, &format!("{HEAD}{OURS}{OTHER}"));
    node.until("the other node", |node| node.leases.len() == 2).await;
    fs::write(&path, format!("{HEAD}{OURS}{OTHER}  - {{name: bad}}\n  - 7\n")).unwrap();
    let trouble = |node: &Node| {
        node.heard.iter().rev().find_map(|event| match event {
            Event::Disconnected(text) => Some(text.clone()),
            _ => None,
        })
    };
    node.until("the refusal", |node| trouble(node).is_some_and(|text| text.contains("nodes[3]"))).await;
    assert!(trouble(&node).unwrap().contains("node bad: missing field `subnet`"), "every problem at once");
    assert_eq!(node.leases.len(), 2);
    let connects = node.count(|event| matches!(event, Event::Connected));
    replace(&path, &format!("{HEAD}{OURS}{OTHER}"));
    node.until("connected", |node| node.count(|event| matches!(event, Event::Connected)) > connects).await;

    replace(&path, &format!("{HEAD}{}", OURS.replace("10.5.1.0", "10.5.9.0")));
    node.until("the new subnet", |node| node.own.as_ref().is_some_and(|own| own.key == "10.5.9.0-24")).await;
    assert_eq!(node.count(|event| matches!(event, Event::Lost { .. })), 1);
    node.until("the other node is gone", |node| node.leases.len() == 1).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_file_and_a_missing_entry_are_waited_for() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("nodes.json");
    let waiting = tokio::spawn({
        let path = path.clone();
        async move { start(&path).await.acquired.key.clone() }
    });
    replace(&path, &format!("{HEAD}{OTHER}"));
    replace(&path, &format!("{HEAD}{OTHER}{OURS}"));
    assert_eq!(waiting.await.unwrap(), "10.5.1.0-24");
}
