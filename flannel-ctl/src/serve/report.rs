//! How the daemon is doing, as plain data: what `/status` and `status --output json` say.
//!
//! Field names are an interface: they may be added to, never renamed. Times are seconds since
//! the Unix epoch (fields end in `_unix`) and are for people; nothing is decided by them.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// Everything about this node except the peers one by one ([`PeerReport`]).
/// Absent fields read as their defaults, so that a new `status` understands an older daemon.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Report {
    pub version: String,
    pub pid: u32,
    pub node: NodeReport,
    /// The options that decide what this node gets, where they are not the defaults; `None`: not known.
    pub options: Option<BTreeMap<String, Vec<String>>>,
    pub state: Condition,
    /// What is wrong or still awaited, for people; empty when converged.
    pub reason: String,
    /// Since when `state` has been what it is.
    pub since_unix: u64,
    pub started_unix: u64,
    /// What readiness still waits for. Filled in when served.
    pub awaited: Vec<String>,
    /// Since the reconcile loop last came round. Filled in when served.
    pub heartbeat_age_ms: u64,
    pub source: SourceReport,
    /// `None` until the network config has been read.
    pub network: Option<NetworkReport>,
    /// `None` until a subnet is ours.
    pub lease: Option<OwnLeaseReport>,
    pub datapath: DatapathReport,
    /// `None`: this node has no BPF fast path.
    pub fast_path: Option<FastPathReport>,
    /// One for each family whose packets are carried in user space.
    pub userspace: Vec<EngineReport>,
    pub uplink: Option<UplinkReport>,
    pub peers: PeerCounts,
    pub kernel: KernelReport,
    /// At most [`Report::LIST_LIMIT`]; `peers.refused` has their number.
    pub refused: Vec<RefusedLease>,
    pub filter: FilterReport,
    pub counters: Counters,
    /// The last full comparison with the kernel that no notice had asked for.
    pub last_sweep_unix: Option<u64>,
    /// From the change to the last object in place, of the latest pass that changed anything.
    pub last_convergence_ms: Option<f64>,
}

/// The four conditions of a daemon.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Condition {
    /// No whole pass has been made yet.
    #[default]
    Starting,
    /// Everything wanted is in place.
    Converged,
    /// Changes are under way; nothing has failed.
    Converging,
    /// Something failed, or the source is out of reach; the rest works.
    Degraded,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeReport {
    pub id: String,
    pub name: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SourceReport {
    /// `etcd`, `kube` or `file`.
    pub kind: String,
    pub connected: bool,
    /// What is tried and what was answered, when not connected.
    pub detail: String,
    pub last_event_unix: Option<u64>,
}

/// The network config as meant.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NetworkReport {
    pub ipv4: Option<IpNet>,
    pub ipv6: Option<IpNet>,
    /// `vxlan`, `host-gw`, `udp` or `alloc`.
    pub backend: String,
    pub vni: Option<u32>,
    pub port: Option<u16>,
    /// A newer config that is not in force, and why.
    pub problem: Option<String>,
}

/// The lease that this node holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct OwnLeaseReport {
    pub key: String,
    pub ipv4: Option<IpNet>,
    pub ipv6: Option<IpNet>,
    pub public_ip: Option<Ipv4Addr>,
    pub public_ipv6: Option<Ipv6Addr>,
    pub expires_unix: Option<u64>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DatapathReport {
    /// `ebpf`, `vxlan`, `userspace`, `host-gw` or `none`.
    pub kind: String,
    /// Why this one.
    pub why: String,
    /// `flannel.1`, `flannel-v6.1`
    pub devices: Vec<String>,
    /// Largest inner IP packet, in bytes: what subnet.env says.
    pub mtu: u32,
}

/// How much of the pods' traffic takes the fast path.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct FastPathReport {
    /// `--fast-path`.
    pub enabled: bool,
    /// Pods' interfaces that the programs are attached to.
    pub pods: u64,
    /// Pods' interfaces that are left to the kernel path, at most [`Report::LIST_LIMIT`].
    pub spared: Vec<SparedPod>,
    pub sent: HitRate,
    pub received: HitRate,
    /// Packets by what the programs decided: `flannel-ctl counters` says what each means.
    pub decisions: BTreeMap<String, u64>,
    /// How long the recent numbers were counted for.
    pub window_secs: u64,
    /// When the counters were read. An idle loop reads them every 10 s.
    pub read_unix: Option<u64>,
    /// Why they could not be read.
    pub problem: Option<String>,
}

/// One engine of the userspace datapath.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EngineReport {
    /// `IPv4` or `IPv6`.
    pub family: String,
    /// What makes one call carry many packets, as far as this kernel has it.
    pub offloads: Vec<String>,
    /// As far as it has not.
    pub missing: Vec<String>,
    /// Threads in each direction.
    pub queues: u64,
    /// By name, since the daemon started the engine.
    pub counters: BTreeMap<String, u64>,
}

/// A pod's interface that is left to the kernel path.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SparedPod {
    pub interface: String,
    pub why: String,
}

/// Packets of pods through the tunnel in one direction. Others, to the internet or a pod of the same node, do not count.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct HitRate {
    /// Of a hundred recent packets, how many were fast; `None`: there were none.
    pub percent: Option<f64>,
    pub recent_fast: u64,
    pub recent_kernel: u64,
    /// Why most of the recent ones took the kernel path.
    pub leading_reason: Option<String>,
    /// Since the maps were made.
    pub fast: u64,
    /// Since the maps were made, by why they took the kernel path.
    pub kernel: BTreeMap<String, u64>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct UplinkReport {
    pub name: String,
    pub index: u32,
    pub mtu: u32,
    pub addresses: Vec<IpAddr>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PeerCounts {
    /// Leases of other nodes that were believed.
    pub total: u64,
    /// Of these, all of whose kernel objects are in place.
    pub programmed: u64,
    /// Leases that were not believed; not in `total`.
    pub refused: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct KernelReport {
    pub wanted: u64,
    pub in_place: u64,
    /// All that fail; the list below may be shorter.
    pub failing_total: u64,
    /// At most [`Report::LIST_LIMIT`], oldest first.
    pub failing: Vec<FailingObject>,
}

/// A kernel object that could not be put in place or removed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FailingObject {
    /// `route 10.5.48.0/24`
    pub object: String,
    /// What was tried: `add route 10.5.48.0/24 via flannel.1`
    pub attempt: String,
    /// What was answered, and what usually explains it.
    pub error: String,
    pub since_secs: u64,
    pub tries: u64,
    pub next_try_secs: u64,
}

/// A lease that was not believed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RefusedLease {
    pub key: String,
    pub reason: String,
    pub since_unix: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FilterReport {
    /// `nftables`, `iptables` or `none`.
    pub flavour: String,
    /// Why this one.
    pub why: String,
    /// What this flavour cannot do here, and anything of others in the way.
    pub limits: Vec<String>,
    /// Packets by rule, as named by the flavour: `guard-v4`, `masquerade-v4`...
    pub counters: BTreeMap<String, u64>,
    /// When they were read. An idle loop reads them every 10 s.
    pub read_unix: Option<u64>,
}

/// Totals since the start of the daemon.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Counters {
    /// From the source.
    pub events: u64,
    /// Notices from the kernel that woke the loop.
    pub notices: u64,
    /// Times that the loop compared wanted with observed.
    pub passes: u64,
    pub sweeps: u64,
    /// Changes carried out in the kernel.
    pub changes: u64,
    /// Changes that mended what somebody else had broken.
    pub repairs: u64,
    pub retries: u64,
    /// By kind of object: `route`, `fdb`, `neighbour`, `device`, `filter`...
    pub kernel_errors: BTreeMap<String, u64>,
    pub renewals: u64,
    pub source_disconnects: u64,
    /// Our subnet was claimed by another node.
    pub own_subnet_conflicts: u64,
    /// Tunnel packets that were dropped (or, counting only, would have been) by the guard.
    pub guard_drops: u64,
}

/// One other node, as `peers` lists it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PeerReport {
    /// Its host name, if its lease says one.
    pub node: String,
    /// Of its lease.
    pub key: String,
    pub ipv4: Option<IpNet>,
    pub ipv6: Option<IpNet>,
    pub public_ip: Option<Ipv4Addr>,
    pub public_ipv6: Option<Ipv6Addr>,
    /// `46:82:fb:f7:52:6d`
    pub vtep_mac: Option<String>,
    pub vtep_mac_v6: Option<String>,
    pub via: PeerVia,
    pub state: PeerState,
    /// Of the first object of this peer that fails.
    pub error: Option<String>,
}

/// How packets reach a peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PeerVia {
    #[default]
    Overlay,
    /// A plain route.
    Direct,
}

/// Whether a peer can be reached, as far as this node's kernel goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PeerState {
    #[default]
    Pending,
    Ok,
    Failing,
}

impl Report {
    /// Lists in a report are cut here; totals stand beside them.
    pub const LIST_LIMIT: usize = 100;
}

impl Condition {
    pub const ALL: [Self; 4] = [Self::Starting, Self::Converged, Self::Converging, Self::Degraded];

    pub fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Converged => "converged",
            Self::Converging => "converging",
            Self::Degraded => "degraded",
        }
    }
}

impl PeerVia {
    pub fn name(self) -> &'static str {
        match self {
            Self::Overlay => "overlay",
            Self::Direct => "direct",
        }
    }
}

impl PeerState {
    pub fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Ok => "ok",
            Self::Failing => "failing",
        }
    }
}
