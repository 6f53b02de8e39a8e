//! Clusters with userspace nodes, and what is asked of them.

use std::time::Duration;

use serde_json::Value;
use xtask::lab::{Cluster, Family, Launch, Node};

/// No divisor of any power of two: what is displaced does not look right.
pub(crate) const CHUNK: usize = 251_003;
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

pub(crate) fn launch(datapath: &str) -> Launch {
    Launch { args: vec!["--datapath".into(), datapath.into()], ..Launch::default() }
}

/// A dual-stack node for each datapath.
pub(crate) fn cluster(prefix: &str, datapaths: &[&str]) -> Cluster {
    let launches = datapaths.iter().map(|datapath| launch(datapath)).collect();
    let cluster = Cluster::builder(prefix).nodes(datapaths.len()).dual_stack().launches(launches).start().unwrap();
    let mesh = cluster.wait_mesh(Duration::from_secs(20)).unwrap();
    assert!(mesh.whole(), "{mesh}");
    for node in cluster.nodes() {
        node.wait_converged().unwrap();
    }
    cluster
}

/// What the engine of that family counts.
pub(crate) fn count(node: &Node, family: Family, counter: &str) -> u64 {
    let status = node.status().unwrap();
    let engines = status["userspace"].as_array().unwrap().clone();
    let engine = engines.iter().find(|engine| engine["family"] == family.to_string());
    engine.map_or(Value::Null, |engine| engine["counters"][counter].clone()).as_u64().unwrap_or(0)
}

/// Datagrams that the engine of that family, or the kernel before it, did not take.
pub(crate) fn received_drops(node: &Node, family: Family) -> u64 {
    let status = node.status().unwrap();
    let engines = status["userspace"].as_array().unwrap().clone();
    let engine = engines.iter().find(|engine| engine["family"] == family.to_string()).unwrap();
    let fine = ["packets", "bytes", "calls", "writes"].map(|what| format!("received_{what}"));
    let counters = engine["counters"].as_object().unwrap().iter();
    let drops = counters.filter(|(name, _)| name.starts_with("received_") && !fine.contains(name));
    drops.map(|(_, count)| count.as_u64().unwrap()).sum()
}
