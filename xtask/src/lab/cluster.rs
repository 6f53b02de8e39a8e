//! Store, underlay, nodes and pods as one value.

use std::{
    fs::{self, DirBuilder, File},
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};

use super::{
    Family, Launch, Mesh, Netns, Node, Ping, Stopwatch, Store, StoreKind, Underlay, binary, missing_root, netns, wait,
};

/// A running cluster; everything of it is removed on drop, in a panic too.
///
/// Fields are dropped in this order: daemons and pods, store, underlay, files, lock.
#[derive(Debug)]
pub struct Cluster {
    nodes: Vec<Node>,
    store: Store,
    underlay: Underlay,
    families: Vec<Family>,
    files: Files,
}

/// What a cluster shall be; see [`Cluster::builder`].
#[derive(Clone, Debug)]
pub struct Builder {
    prefix: String,
    nodes: usize,
    families: Vec<Family>,
    store: StoreKind,
    network: Option<String>,
    mtu: u32,
    launches: Vec<Launch>,
}

impl Cluster {
    /// A cluster of three IPv4 nodes with the embedded store, until told otherwise.
    ///
    /// `prefix` names it: namespaces are `<prefix>1`, `<prefix>1-pod`, ..., `<prefix>-net`. What a crashed
    /// lab of the same prefix left behind is removed first; a second one at the same time is refused.
    pub fn builder(prefix: &str) -> Builder {
        Builder {
            prefix: prefix.to_owned(),
            nodes: 3,
            families: vec![Family::V4],
            store: StoreKind::default(),
            network: None,
            mtu: 1500,
            launches: Vec::new(),
        }
    }

    /// A node by its number, from 1.
    pub fn node(&self, number: usize) -> &Node {
        &self.nodes[number - 1]
    }

    /// All nodes, in order.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The store.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Starts the store again after [`Store::stop`] or [`Store::kill`].
    pub fn start_store(&self) -> Result<()> {
        self.store.start(self.underlay.netns())
    }

    /// The underlay: unplug nodes, capture, or reach the store from its namespace.
    pub fn underlay(&self) -> &Underlay {
        &self.underlay
    }

    /// The overlay's address families.
    pub fn families(&self) -> &[Family] {
        &self.families
    }

    /// Where logs and state are; gone with the cluster.
    pub fn dir(&self) -> &Path {
        &self.files.dir
    }

    /// One ping along every path in every family.
    pub fn mesh(&self) -> Result<Mesh> {
        Mesh::round(&self.nodes, &self.families)
    }

    /// Repeats [`Cluster::mesh`] until it is whole or the time is up; the last round either way.
    pub fn wait_mesh(&self, limit: Duration) -> Result<Mesh> {
        let watch = Stopwatch::start();
        loop {
            let mesh = self.mesh()?;
            if mesh.whole() || watch.is_over(limit) || wait::interrupted() {
                return Ok(mesh);
            }
        }
    }

    /// Fails the test unless soon every pod reaches every other; the round in which they did.
    #[track_caller]
    pub fn assert_whole(&self) -> Mesh {
        let mesh = self.wait_mesh(wait::LONG).unwrap_or_else(|error| panic!("{error:#}"));
        assert!(mesh.whole(), "{mesh}");
        mesh
    }

    /// A 1 ms ping from the pod of one node to the pod of another.
    pub fn ping(&self, from: usize, to: usize, family: Family) -> Result<Ping> {
        let address = self.node(to).pod().address(family);
        let address = address.with_context(|| format!("node {to} has no {family} pod address"))?;
        Ping::start(self.node(from).pod().netns(), address, Duration::from_millis(1))
    }

    /// Writes the network config to the store, as an operator would; a bad one is refused.
    pub fn publish(&self, network: &str) -> Result<()> {
        let file = self.files.dir.join("network.json");
        fs::write(&file, network)?;
        let mut command = self.underlay.netns().command(binary::flannel_ctl()?);
        command.args(["config", "publish"]).arg(&file).args(["--etcd-endpoints", &self.store.endpoint()]);
        netns::run(&mut command).map(drop)
    }

    /// etcdctl on the cluster's store: `etcdctl(&["put", "/coreos.com/network/config", "{"])`; its standard output.
    pub fn etcdctl(&self, arguments: &[&str]) -> Result<String> {
        let mut command = self.underlay.netns().command("etcdctl");
        command.env("ETCDCTL_API", "3").args(["--endpoints", &self.store.endpoint()]);
        netns::run(command.args(arguments))
    }

    /// Starts every daemon, waits until each is ready, and wires the pods.
    pub fn bring_up(&self) -> Result<()> {
        for node in &self.nodes {
            node.start()?;
        }
        for node in &self.nodes {
            node.wait_ready()?;
            node.wire_pod()?;
        }
        for node in &self.nodes {
            node.netns().settle("cni0")?;
            node.pod().netns().settle("eth0")?;
        }
        Ok(())
    }
}

impl Builder {
    /// How many nodes.
    #[must_use]
    pub fn nodes(mut self, nodes: usize) -> Self {
        self.nodes = nodes;
        self
    }

    /// IPv6 beside IPv4.
    #[must_use]
    pub fn dual_stack(mut self) -> Self {
        self.families = vec![Family::V4, Family::V6];
        self
    }

    /// Exactly these families.
    #[must_use]
    pub fn families(mut self, families: &[Family]) -> Self {
        self.families = families.to_vec();
        self
    }

    /// Which store.
    #[must_use]
    pub fn store(mut self, store: StoreKind) -> Self {
        self.store = store;
        self
    }

    /// The network config to publish, instead of plain VXLAN in the chosen families.
    #[must_use]
    pub fn network(mut self, json: impl Into<String>) -> Self {
        self.network = Some(json.into());
        self
    }

    /// The underlay's MTU.
    #[must_use]
    pub fn mtu(mut self, mtu: u32) -> Self {
        self.mtu = mtu;
        self
    }

    /// How daemons are started: node 1 by the first, node 2 by the second, and round again.
    #[must_use]
    pub fn launches(mut self, launches: Vec<Launch>) -> Self {
        self.launches = launches;
        self
    }

    /// Builds everything and waits until every node is ready and its pod wired.
    pub fn start(self) -> Result<Cluster> {
        let cluster = self.prepare()?;
        cluster.bring_up()?;
        Ok(cluster)
    }

    /// Builds everything, store running and config published, but starts no daemon.
    pub fn prepare(self) -> Result<Cluster> {
        if let Some(reason) = missing_root() {
            bail!(reason);
        }
        wait::catch_signals()?;
        ensure!(self.nodes > 0, "a cluster has at least one node");
        let files = Files::claim(&self.prefix)?;
        remove_leftovers(&self.prefix)?;
        let underlay = Underlay::create(&format!("{}-net", self.prefix), self.mtu)?;
        let store = Store::start_in(underlay.netns(), self.store.clone(), &files.dir)?;
        let mut cluster = Cluster { nodes: Vec::new(), store, underlay, families: self.families.clone(), files };
        if !cluster.store.is_given() {
            cluster.publish(&self.network.clone().unwrap_or_else(|| plain_vxlan(&self.families)))?;
        }
        for number in 1..=self.nodes {
            let launch = self.launches.iter().cycle().nth(number - 1).cloned().unwrap_or_default();
            let (dir, endpoint) = (&cluster.files.dir, cluster.store.endpoint());
            let node = Node::create(&self.prefix, number, &cluster.underlay, dir, endpoint, launch)?;
            cluster.nodes.push(node);
        }
        for node in &cluster.nodes {
            node.netns().settle("eth0")?;
        }
        Ok(cluster)
    }
}

/// flannel's network config for VXLAN in these families.
pub fn plain_vxlan(families: &[Family]) -> String {
    let v4 = families.contains(&Family::V4);
    let mut config = serde_json::json!({"EnableIPv4": v4, "Backend": {"Type": "vxlan"}});
    if v4 {
        config["Network"] = "10.244.0.0/16".into();
    }
    if families.contains(&Family::V6) {
        config["EnableIPv6"] = true.into();
        config["IPv6Network"] = "fd10:244::/48".into();
    }
    config.to_string()
}

/// Removes the namespaces of an earlier lab with this prefix, and what runs in them.
pub fn remove_leftovers(prefix: &str) -> Result<()> {
    for name in Netns::list() {
        let Some(rest) = name.strip_prefix(prefix) else { continue };
        let number = ["-pod", "-pod2"].into_iter().find_map(|pod| rest.strip_suffix(pod)).unwrap_or(rest);
        if rest == "-net" || (!number.is_empty() && number.bytes().all(|b| b.is_ascii_digit())) {
            Netns::remove(&name)?;
        }
    }
    Ok(())
}

/// The lab's directory and the lock that makes the prefix ours.
#[derive(Debug)]
struct Files {
    dir: PathBuf,
    lock: PathBuf,
    _held: File,
}

impl Files {
    fn claim(prefix: &str) -> Result<Self> {
        let simple =
            !prefix.is_empty() && prefix.len() <= 10 && prefix.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        ensure!(simple, "{prefix:?} is no prefix for a lab: letters, digits and dashes, at most 10");
        let path = PathBuf::from(format!("/run/flannel-lab-{prefix}.lock"));
        let lock = File::create(&path).with_context(|| format!("creating {}", path.display()))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => bail!("another lab named {prefix} is running"),
            Err(fs::TryLockError::Error(error)) => bail!("locking {}: {error}", path.display()),
        }
        let dir = std::env::temp_dir().join(format!("flannel-lab-{prefix}"));
        if fs::symlink_metadata(&dir).is_ok() {
            fs::remove_dir_all(&dir).with_context(|| format!("removing the old {}", dir.display()))?;
        }
        DirBuilder::new().mode(0o700).create(&dir).with_context(|| format!("creating {}", dir.display()))?;
        Ok(Self { dir, lock: path, _held: lock })
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        if std::env::var_os("FLANNEL_LAB_KEEP").is_some() {
            eprintln!("lab: logs and state are kept in {}", self.dir.display());
            return;
        }
        // The lock is held until after this, so nobody can have made the prefix theirs meanwhile.
        let removed = fs::remove_dir_all(&self.dir).and_then(|()| fs::remove_file(&self.lock));
        if let Err(error) = removed {
            eprintln!("lab: {} is left behind: {error}", self.dir.display());
        }
    }
}
