//! Nodes that find each other through an API server.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use xtask::lab::{Cluster, Family, GATEWAY_V4, KubeApi, KubeApiOptions, Launch, StoreKind, certificates, plain_vxlan};

pub(crate) const TOOLS: [&str; 3] = ["ip", "nft", "openssl"];
/// Ten thousand nodes, on a machine that does other things as well.
const PATIENCE: Duration = Duration::from_mins(3);
const PORT: u16 = 6443;
const TOKEN: &str = "lab-token-that-nobody-may-see";

/// Daemons, their API server with TLS and a token, and the files that they are given.
pub(crate) struct Site {
    pub api: KubeApi,
    pub cluster: Cluster,
}

impl Site {
    /// Nodes with podCIDRs `10.244.N.0/24`, and `fd10:244:0:N::/64` beside it in dual stack.
    pub(crate) fn prepare(prefix: &str, nodes: usize, families: &[Family]) -> Self {
        let dir = PathBuf::from(format!("{}/flannel-lab-{prefix}", std::env::temp_dir().display()));
        let path = |name: &str| dir.join(name).display().to_string();
        let launch = Launch { args: source_args(&dir), ..Launch::default() };
        let builder = Cluster::builder(prefix).nodes(nodes).families(families).launches(vec![launch]);
        let cluster = builder.store(StoreKind::Given("http://127.0.0.1:1".into())).prepare().unwrap();
        assert_eq!(cluster.dir(), dir);
        let pki = dir.join("pki");
        certificates(&pki).unwrap();
        let options = KubeApiOptions { tls: Some(pki.clone()), client_certificates: false };
        let address = SocketAddr::from((GATEWAY_V4, PORT));
        let api = KubeApi::start(Some(cluster.underlay().netns()), address, &options).unwrap();
        api.accept(&[TOKEN]);
        fs::write(dir.join("token"), TOKEN).unwrap();
        fs::write(dir.join("net-conf.json"), plain_vxlan(families)).unwrap();
        let ca = format!("certificate-authority: {}", pki.join("ca.pem").display());
        api.kubeconfig_with(&dir.join("kubeconfig"), &ca, &format!("tokenFile: {}", path("token"))).unwrap();
        for node in cluster.nodes() {
            let (four, six) = (format!("10.244.{}.0/24", node.number()), format!("fd10:244:0:{}::/64", node.number()));
            let both = [(Family::V4, four.as_str()), (Family::V6, six.as_str())];
            let cidrs: Vec<_> =
                both.iter().filter(|(family, _)| families.contains(family)).map(|(_, cidr)| *cidr).collect();
            api.add_node(node.netns().name(), &cidrs);
        }
        Self { api, cluster }
    }

    pub(crate) fn start(prefix: &str, nodes: usize, families: &[Family]) -> Self {
        let site = Self::prepare(prefix, nodes, families);
        site.cluster.bring_up().unwrap();
        site.cluster.assert_whole();
        site
    }

    /// What says where leases come from.
    pub(crate) fn source_args(&self) -> Vec<String> {
        source_args(self.cluster.dir())
    }

    /// The name under which a node is registered.
    pub(crate) fn name(&self, number: usize) -> String {
        self.cluster.node(number).netns().name().to_owned()
    }

    pub(crate) fn wait_peers(&self, number: usize, peers: u64) {
        let node = self.cluster.node(number);
        node.wait_status("the number of peers", PATIENCE, |status| status["peers"]["total"] == peers).unwrap();
    }

    /// Nothing that a daemon wrote has the token in it.
    pub(crate) fn assert_discreet(&self) {
        for node in self.cluster.nodes() {
            assert!(!node.log().contains(TOKEN), "node {}", node.number());
            assert!(!node.status().unwrap().to_string().contains(TOKEN), "node {}", node.number());
        }
    }
}

fn source_args(dir: &Path) -> Vec<String> {
    let path = |name: &str| dir.join(name).display().to_string();
    vec![
        "--source=kube".into(),
        format!("--kubeconfig-file={}", path("kubeconfig")),
        format!("--net-config-path={}", path("net-conf.json")),
    ]
}
