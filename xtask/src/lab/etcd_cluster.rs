//! A cluster on an etcd that tests can hurt.

use std::{
    net::IpAddr,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::{Builder, Cluster, Etcd, EtcdOptions, Etcdctl, Family, Picture, StoreKind, plain_vxlan, wait};

/// etcd ends before the namespace that it runs in.
#[derive(Debug)]
pub struct EtcdCluster {
    pub etcd: Etcd,
    pub cluster: Cluster,
}

impl EtcdCluster {
    /// Starts etcd, then the nodes on it, and waits until the whole mesh works.
    pub fn start(builder: Builder, members: usize, options: EtcdOptions) -> Result<Self> {
        let lab = Self::prepare(builder, &Etcd::endpoints(members, false), members, |_| Ok(options))?;
        lab.ctl().publish(&plain_vxlan(lab.cluster.families()))?;
        lab.cluster.bring_up()?;
        lab.whole()?;
        Ok(lab)
    }

    /// Only etcd runs, and it is empty. `endpoints` is what the daemons are told; `options` gets a directory for
    /// the files that it may need.
    pub fn prepare(
        builder: Builder,
        endpoints: &str,
        members: usize,
        options: impl FnOnce(&Path) -> Result<EtcdOptions>,
    ) -> Result<Self> {
        let cluster = builder.store(StoreKind::Given(endpoints.to_owned())).prepare()?;
        let options = options(cluster.dir())?;
        let etcd = Etcd::start(cluster.underlay().netns(), cluster.dir(), members, options)?;
        Ok(Self { etcd, cluster })
    }

    /// A client for its etcd.
    pub fn ctl(&self) -> &Etcdctl {
        self.etcd.ctl()
    }

    /// Fails unless every pod reaches every other soon.
    pub fn whole(&self) -> Result<()> {
        let mesh = self.cluster.wait_mesh(wait::SHORT)?;
        ensure!(mesh.whole(), "{mesh}");
        Ok(())
    }

    /// Waits until a node's status is as asked; how long that took. On failure the last status is in the error.
    pub fn wait_status(
        &self,
        node: usize,
        what: &str,
        limit: Duration,
        is: impl Fn(&Value) -> bool,
    ) -> Result<Duration> {
        let start = Instant::now();
        self.cluster.node(node).wait_status(what, limit, is)?;
        Ok(start.elapsed())
    }

    /// The key of a node's own lease.
    pub fn own_key(&self, node: usize) -> Result<String> {
        let status = self.cluster.node(node).status()?;
        Ok(status["lease"]["key"].as_str().with_context(|| format!("a lease in {status}"))?.to_owned())
    }

    /// Keys that no lease has, lowest first.
    pub fn free_keys(&self) -> Result<Vec<String>> {
        let taken: Vec<_> = self.ctl().leases()?.into_iter().map(|lease| lease.key).collect();
        let all = (1..255).map(|third| format!("10.244.{third}.0-24"));
        Ok(all.filter(|key| !taken.iter().any(|taken| taken.starts_with(key.as_str()))).collect())
    }

    /// Waits until a node's kernel has, or has not, a route to the subnet of this key; how long that took.
    pub fn wait_route(&self, node: usize, key: &str, there: bool, limit: Duration) -> Result<Duration> {
        let start = Instant::now();
        let text = format!("route {}", key.replacen('-', "/", 1));
        let netns = self.cluster.node(node).netns();
        wait::until(&format!("{text} on node {node}: {there}"), limit, || {
            (Picture::of_kernel(netns).ok()?.has(&text) == there).then_some(())
        })?;
        Ok(start.elapsed())
    }

    /// Waits until every node's kernel is what the leases in etcd ask for; how long that took.
    pub fn wait_pictures(&self, limit: Duration) -> Result<Duration> {
        let start = Instant::now();
        let leases = self.ctl().leases()?;
        for node in self.cluster.nodes() {
            let IpAddr::V4(own) = node.address(Family::V4) else { continue };
            Picture::of_leases(&leases, own)?.wait_for(node.netns(), limit)?;
        }
        Ok(start.elapsed())
    }
}

/// The value of a made-up node's lease, as flannel's daemon writes it: a public address and a VTEP of its own.
pub fn stranger(number: usize) -> String {
    let [high, low] = u16::try_from(number).unwrap_or(u16::MAX).to_be_bytes();
    format!(
        r#"{{"PublicIP":"192.168.{}.{low}","PublicIPv6":null,"BackendType":"vxlan","BackendData":{{"VNI":1,"VtepMAC":"06:00:00:00:{high:02x}:{low:02x}"}}}}"#,
        100 + u16::from(high)
    )
}
