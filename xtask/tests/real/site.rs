//! Clusters in which some nodes run flannel's own daemon.

use std::{os::unix::fs::symlink, path::PathBuf, process::Command};

use tempfile::TempDir;
use xtask::lab::{Builder, Cluster, Launch, Node, StoreKind, flannel_ctl, given_program, skip_unless, transfer};

const TOOLS: [&str; 6] = ["ip", "nft", "etcd", "etcdctl", "iptables", "tshark"];
const OCTETS: usize = 8 << 20;

/// flannel's own daemon, and ours under its name.
pub(crate) struct Daemons {
    theirs: PathBuf,
    ours: PathBuf,
    /// Removed on drop.
    _dir: TempDir,
}

impl Daemons {
    /// None where the test is skipped.
    pub(crate) fn given() -> Option<Self> {
        if skip_unless(&TOOLS) {
            return None;
        }
        let theirs = given_program("FLANNEL_REAL_FLANNELD", "flannel's own daemon")?;
        let dir = tempfile::tempdir().unwrap();
        let ours = dir.path().join("flanneld");
        symlink(flannel_ctl().unwrap(), &ours).unwrap();
        Some(Self { theirs, ours, _dir: dir })
    }

    /// flannel's own.
    pub(crate) fn flannel(&self) -> Launch {
        Launch { flanneld: Some(self.theirs.clone()), ..Launch::default() }
    }

    /// Ours as `flanneld`, with flannel's options alone. The environment says which datapath.
    pub(crate) fn in_its_place(&self, datapath: &str) -> Launch {
        let env = vec![("FLANNELD_DATAPATH".to_owned(), datapath.to_owned())];
        Launch { flanneld: Some(self.ours.clone()), env, ..Launch::default() }
    }
}

/// Ours as itself.
pub(crate) fn ours(datapath: &str) -> Launch {
    Launch { args: vec!["--datapath".into(), datapath.into()], ..Launch::default() }
}

/// With real etcd, nothing started yet.
pub(crate) fn builder(prefix: &str, launches: Vec<Launch>) -> Builder {
    Cluster::builder(prefix).nodes(launches.len()).store(StoreKind::Etcd).launches(launches)
}

/// Starts a node and wires its pod.
pub(crate) fn start(cluster: &Cluster, number: usize) {
    let node = cluster.node(number);
    node.start().unwrap();
    node.wait_ready().unwrap();
    node.wire_pod().unwrap();
    node.netns().settle("cni0").unwrap();
    node.pod().netns().settle("eth0").unwrap();
}

/// Much data from each pod to each other, in every family.
pub(crate) fn bulk_everywhere(cluster: &Cluster) {
    for family in cluster.families() {
        for from in cluster.nodes() {
            for to in cluster.nodes().iter().filter(|to| to.number() != from.number()) {
                let address = to.pod().address(*family).unwrap();
                transfer(from.pod().netns(), to.pod().netns(), address, OCTETS)
                    .unwrap_or_else(|error| panic!("{} to {}: {error:#}", from.number(), to.number()));
            }
        }
    }
}

/// All keys and values below flannel's prefix.
pub(crate) fn leases(cluster: &Cluster) -> String {
    cluster.etcdctl(&["get", "--prefix", "/coreos.com/network/"]).unwrap()
}

/// A verb of ours on a node whose daemon was started with flannel's options.
pub(crate) fn command(node: &Node, verb: &[&str]) -> Command {
    let mut command = node.netns().command(flannel_ctl().unwrap());
    command.args(verb).arg("--run-dir").arg(node.run_dir());
    command
}
