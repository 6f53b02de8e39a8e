//! Nodes that find each other through a real API server.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Result;
use serde_json::Value;
use xtask::lab::{Cluster, Family, GATEWAY_V4, Launch, StoreKind, plain_vxlan, skip_unless, wait};

use crate::{
    pki,
    server::{PORT, Server, is_there},
};

const TOOLS: [&str; 7] = ["ip", "nft", "openssl", "etcd", "etcdctl", "curl", "unshare"];
const PATIENCE: Duration = Duration::from_mins(3);
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
pub(crate) const MANIFEST: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/kubernetes/flannel-ctl.yml");

/// True if the test must return now.
pub(crate) fn skip() -> bool {
    !is_there() || skip_unless(&TOOLS)
}

/// Daemons and their API server. Nodes with an odd number come as pods do, with a service account; the others with a
/// client certificate.
pub(crate) struct Site {
    pub(crate) server: Server,
    pub(crate) cluster: Cluster,
}

impl Site {
    /// The manifest is applied; nodes are registered, and get their podCIDRs from Kubernetes.
    pub(crate) fn prepare(prefix: &str, nodes: usize, families: &[Family]) -> Self {
        let dir = PathBuf::from(format!("{}/flannel-lab-{prefix}", std::env::temp_dir().display()));
        let launches = (1..=nodes).map(|number| if number % 2 == 1 { in_pod(&dir) } else { by_certificate(&dir) });
        let builder = Cluster::builder(prefix).nodes(nodes).families(families).launches(launches.collect());
        let cluster = builder.store(StoreKind::Given("http://127.0.0.1:1".into())).prepare().unwrap();
        assert_eq!(cluster.dir(), dir);
        fs::write(dir.join("net-conf.json"), plain_vxlan(families)).unwrap();
        let server = Server::start(cluster.underlay().netns(), &dir).unwrap();
        server.kubectl(&["apply", "-f", MANIFEST]).unwrap();
        // A user by certificate with the rights of the manifest, and no more.
        pki::certificate(&server.dir, "daemon", "/CN=daemon").unwrap();
        pki::kubeconfig(&dir.join("kubeconfig"), &Server::url(), &server.dir, "daemon").unwrap();
        server
            .kubectl(&["create", "clusterrolebinding", "daemon", "--clusterrole=flannel-ctl", "--user=daemon"])
            .unwrap();
        let site = Self { server, cluster };
        site.mount(&site.server.token(None).unwrap()).unwrap();
        let both = ["10.244.0.0/16", "fd10:244::/48"];
        let cidrs: Vec<_> =
            [Family::V4, Family::V6].iter().zip(both).filter(|(family, _)| families.contains(family)).collect();
        site.server.manage(&cidrs.iter().map(|(_, cidr)| *cidr).collect::<Vec<_>>().join(",")).unwrap();
        for node in site.cluster.nodes() {
            site.server.register(node.netns().name(), &[]).unwrap();
        }
        for node in site.cluster.nodes() {
            site.cidrs(node.netns().name());
        }
        site
    }

    pub(crate) fn start(prefix: &str, nodes: usize, families: &[Family]) -> Self {
        let site = Self::prepare(prefix, nodes, families);
        site.cluster.bring_up().unwrap();
        site.cluster.assert_whole();
        site
    }

    /// What Kubernetes gave a node, once it did.
    pub(crate) fn cidrs(&self, name: &str) -> Vec<String> {
        wait::until("a podCIDR", PATIENCE, || {
            let node = self.server.get(&["node", name]).ok()?;
            let cidrs = node["spec"]["podCIDRs"].as_array()?;
            Some(cidrs.iter().filter_map(Value::as_str).map(str::to_owned).collect())
        })
        .unwrap()
    }

    /// Puts another token where pods find theirs, in kubelet's way: all files of a directory at once.
    pub(crate) fn mount(&self, token: &str) -> Result<()> {
        let account = self.cluster.dir().join("account");
        let name = format!("..{}", fs::read_dir(&account).map_or(0, Iterator::count));
        let dir = account.join(&name);
        fs::create_dir_all(&dir)?;
        fs::write(dir.join("token"), token)?;
        fs::write(dir.join("namespace"), "flannel-ctl")?;
        fs::copy(self.server.dir.join("ca.pem"), dir.join("ca.crt"))?;
        symlink(&name, account.join("..next"))?;
        fs::rename(account.join("..next"), account.join("..data"))?;
        for file in ["token", "namespace", "ca.crt"] {
            if fs::symlink_metadata(account.join(file)).is_err() {
                symlink(format!("..data/{file}"), account.join(file))?;
            }
        }
        Ok(())
    }

    /// The name under which a node is registered.
    pub(crate) fn name(&self, number: usize) -> String {
        self.cluster.node(number).netns().name().to_owned()
    }

    /// The daemon's last word on its API server; empty for connected.
    pub(crate) fn trouble(&self, number: usize) -> String {
        let status = self.cluster.node(number).status().unwrap_or_default();
        if status["source"]["connected"] == true { String::new() } else { status["source"].to_string() }
    }

    pub(crate) fn wait_trouble(&self, number: usize, part: &str) {
        wait::until(part, PATIENCE, || self.trouble(number).contains(part).then_some(()))
            .unwrap_or_else(|error| panic!("{error}: {}\n{}", self.trouble(number), self.cluster.node(number).log()));
    }

    pub(crate) fn wait_peers(&self, number: usize, peers: u64) {
        let node = self.cluster.node(number);
        node.wait_status("the number of peers", PATIENCE, |status| status["peers"]["total"] == peers).unwrap();
    }

    /// A peer that is nothing but a node object.
    pub(crate) fn ghost(&self, name: &str, cidr: &str, ip: &str, mac: &str) {
        self.server.register(name, &[cidr]).unwrap();
        let data = format!(r#"backend-data={{"VNI":1,"VtepMAC":"{mac}"}}"#);
        let ip = format!("public-ip={ip}");
        self.server.annotate(name, &["kube-subnet-manager=true", "backend-type=vxlan", &data, &ip]).unwrap();
    }
}

/// As kubelet starts a container: the service account is there, and where the API server is.
fn in_pod(dir: &Path) -> Launch {
    let script = format!(
        "mount -t tmpfs none /var/run && mkdir -p {ACCOUNT} && mount --bind {} {ACCOUNT} && exec \"$0\" \"$@\"",
        dir.join("account").display()
    );
    Launch {
        args: vec!["--source=kube".into(), format!("--net-config-path={}", dir.join("net-conf.json").display())],
        wrapper: ["unshare", "--mount", "sh", "-c", &script].map(str::to_owned).to_vec(),
        env: vec![
            ("KUBERNETES_SERVICE_HOST".into(), GATEWAY_V4.to_string()),
            ("KUBERNETES_SERVICE_PORT".into(), PORT.to_string()),
        ],
        ..Launch::default()
    }
}

fn by_certificate(dir: &Path) -> Launch {
    Launch { args: source_args(dir), ..Launch::default() }
}

pub(crate) fn source_args(dir: &Path) -> Vec<String> {
    let path = |name: &str| dir.join(name).display().to_string();
    vec![
        "--source=kube".into(),
        format!("--kubeconfig-file={}", path("kubeconfig")),
        format!("--net-config-path={}", path("net-conf.json")),
    ]
}
