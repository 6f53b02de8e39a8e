//! More nodes than a page holds, each as large as real ones.

use std::fs;

use serde_json::json;
use xtask::lab::{Family, Memory, Stopwatch};

use crate::site::{Site, skip};

const NODES: usize = 1200;
/// Images and labels of a node in use.
const BYTES: usize = 8_000;

#[test]
fn more_than_a_thousand_nodes_come_in_pages() {
    if skip() {
        return;
    }
    let site = Site::prepare("rklarge", 1, &[Family::V4]);
    let network = r#"{"Network":"10.240.0.0/12","Backend":{"Type":"vxlan"}}"#;
    fs::write(site.cluster.dir().join("net-conf.json"), network).unwrap();
    let watch = Stopwatch::start();
    create(&site);
    println!("{NODES} nodes made after {watch}");
    let node = site.cluster.node(1);
    let watch = Stopwatch::start();
    node.start().unwrap();
    site.wait_peers(1, u64::try_from(NODES).unwrap());
    site.cluster.node(1).wait_converged().unwrap();
    println!("{NODES} nodes after {watch}");
    println!("{:?}", Memory::of(node.pid().unwrap()).unwrap());
    site.server.kubectl(&["delete", "node", "peer-0007", "--wait=false"]).unwrap();
    site.wait_peers(1, u64::try_from(NODES - 1).unwrap());
}

/// By one connection of curl's.
fn create(site: &Site) {
    let dir = site.cluster.dir().join("nodes");
    fs::create_dir(&dir).unwrap();
    let requests = (0..NODES).map(|i| {
        let (high, low) = (245 + i / 250, i % 250);
        let cidr = format!("10.{high}.{low}.0/24");
        let name = |what: &str| format!("flannel.alpha.coreos.com/{what}");
        let data = format!(r#"{{"VNI":1,"VtepMAC":"46:82:fb:f7:{:02x}:{low:02x}"}}"#, i / 250);
        let node = json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {"name": format!("peer-{i:04}"), "annotations": {
                name("kube-subnet-manager"): "true", name("backend-type"): "vxlan", name("backend-data"): data,
                name("public-ip"): format!("172.16.{}.{}", i / 250, 1 + low),
            }},
            "spec": {"podCIDR": cidr, "podCIDRs": [cidr]},
            "status": {"images": [{"names": ["x".repeat(BYTES)], "sizeBytes": 1}]},
        });
        let file = dir.join(i.to_string());
        fs::write(&file, node.to_string()).unwrap();
        let pem = |name: &str| site.server.dir.join(name).display().to_string();
        let next = if i == 0 { "" } else { "next\n" };
        format!(
            "{next}url = \"{}/api/v1/nodes\"\ncacert = \"{}\"\ncert = \"{}\"\nkey = \"{}\"\nheader = \"Content-Type: \
             application/json\"\ndata-binary = \"@{}\"\noutput = /dev/null\nsilent\nfail\n",
            crate::server::Server::url(),
            pem("ca.pem"),
            pem("admin.pem"),
            pem("admin.key"),
            file.display()
        )
    });
    let path = site.cluster.dir().join("curl.conf");
    fs::write(&path, requests.collect::<String>()).unwrap();
    let mut curl = site.server.inside(std::path::Path::new("curl"));
    xtask::lab::run(curl.arg("--config").arg(path)).unwrap();
}
