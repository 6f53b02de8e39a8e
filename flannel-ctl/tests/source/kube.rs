//! The Kubernetes source against a fake API server.

mod entry;
mod faults;
mod peers;
mod secure;

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use flannel_ctl::{
    config::settings::KubeSettings,
    model::{LeaseValue, Network},
    source::{Event, KubeSource, LeaseRequest, LeaseSource},
};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};
use xtask::lab::{KubeApi, KubeApiOptions};

use crate::node::{Node, value};

const NETWORK: &str = r#"{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}"#;
const OURS: &str = "10.5.1.0-24";
const MAC: &str = "46:82:fb:f7:52:01";

/// An API server with one node, `n1`, and what its daemon is given.
struct Lab {
    api: KubeApi,
    dir: TempDir,
}

impl Lab {
    fn new() -> Self {
        Self::with(&KubeApiOptions::default())
    }

    fn with(options: &KubeApiOptions) -> Self {
        let api = KubeApi::start(None, SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), options).unwrap();
        let dir = TempDir::new().unwrap();
        fs::write(dir.path().join("net-conf.json"), NETWORK).unwrap();
        api.add_node("n1", &["10.5.1.0/24"]);
        api.kubeconfig(&dir.path().join("kubeconfig"), "").unwrap();
        Self { api, dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn source(&self) -> KubeSource {
        KubeSource::new(settings(&self.path("kubeconfig")), self.path("net-conf.json"), Some("n1".into()))
    }

    async fn run(&self) -> Node {
        run(self.source(), value("a", "192.0.2.1")).await
    }

    /// `text` is the annotation, soon.
    async fn until_annotated(&self, name: &str, text: &str) {
        self.until(name, |api| api.annotation("n1", name).as_deref() == Some(text)).await;
    }

    async fn until(&self, what: &str, so: impl Fn(&KubeApi) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !so(&self.api) {
            assert!(
                Instant::now() < deadline,
                "waited in vain for {what}: {:#}",
                self.api.node("n1").unwrap_or_default()
            );
            sleep(Duration::from_millis(5)).await;
        }
    }
}

fn settings(kubeconfig: &Path) -> KubeSettings {
    KubeSettings {
        api_url: None,
        kubeconfig: Some(kubeconfig.into()),
        annotation_prefix: "flannel.alpha.coreos.com/".into(),
        set_node_network_unavailable: true,
    }
}

async fn run(mut source: KubeSource, value: LeaseValue) -> Node {
    let network: Network = source.network().await;
    let mut source = LeaseSource::Kube(Box::new(source));
    let request = LeaseRequest { network, value: value.clone(), previous: None, refused_by: None };
    let lease = source.acquire(request).await.unwrap();
    Node::run(source, lease, value)
}

/// What the source complained of last, if it still does.
fn trouble(node: &Node) -> Option<&str> {
    node.heard.iter().rev().find_map(|event| match event {
        Event::Connected => Some(None),
        Event::Disconnected(text) => Some(Some(text.as_str())),
        _ => None,
    })?
}
