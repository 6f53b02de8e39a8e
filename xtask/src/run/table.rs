//! The table of nodes.

use std::{fmt::Write as _, time::Duration};

use xtask::lab::{Cluster, Family, Mesh, Node};

/// One line per node, columns as wide as they need to be.
pub(crate) fn render(cluster: &Cluster, mesh: &Mesh) -> String {
    let mut rows =
        vec![["NODE", "SUBNET", "DATAPATH", "STATE", "PEERS", "PACKETS IN", "OUT", "LATENCY"].map(String::from)];
    rows.extend(cluster.nodes().iter().map(|node| row(node, cluster.families(), mesh)));
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..rows[0].len()).map(width).collect();
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            write!(line, "{cell:width$}  ").expect("writing to a string");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn row(node: &Node, families: &[Family], mesh: &Mesh) -> [String; 8] {
    let status = node.status().unwrap_or_default();
    let text = |pointer: &str| status.pointer(pointer).and_then(|v| v.as_str()).unwrap_or("-").to_owned();
    let number = |pointer: &str| status.pointer(pointer).map_or_else(|| "-".to_owned(), ToString::to_string);
    let env = node.subnet_env().ok();
    let subnet = |family: &Family| env.as_ref().and_then(|env| env.subnet(*family)).unwrap_or("-").to_owned();
    let (received, sent) = node.netns().packets("flannel").unwrap_or_default();
    [
        node.netns().name().to_owned(),
        families.iter().map(subnet).collect::<Vec<_>>().join(" "),
        text("/datapath/kind"),
        text("/state"),
        format!("{}/{}", number("/peers/programmed"), number("/peers/total")),
        received.to_string(),
        sent.to_string(),
        mesh.median(Some(node.number())).map_or_else(|| "-".to_owned(), millis),
    ]
}

/// Says of every node with a missing path how it sees the world.
pub(crate) fn explain(cluster: &Cluster, mesh: &Mesh) {
    for node in cluster.nodes() {
        if mesh.missing().any(|path| path.from == node.number() || path.to == node.number()) {
            let log = node.log();
            let from = log.lines().count().saturating_sub(15);
            let tail: Vec<_> = log.lines().skip(from).collect();
            println!("\n{}: its daemon's log ends:\n{}", node.netns().name(), tail.join("\n"));
        }
    }
}

/// `0.123 ms`
pub(crate) fn millis(time: Duration) -> String {
    format!("{:.3} ms", time.as_secs_f64() * 1000.0)
}
