//! Everything that `run` needs to know from its command line and environment, resolved.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use ipnet::IpNet;

use super::{EtcdConfig, LeaseOptions, chosen::Chosen, uplink::UplinkPolicy};
use crate::model::{Family, TxChecksum};

/// What the options mean, defaults filled in, each value valid by itself and beside the others.
#[derive(Clone, Debug)]
pub struct Settings {
    pub datapath: DatapathChoice,
    pub source: SourceChoice,
    /// Network config file of the sources that keep none themselves.
    pub net_config_path: PathBuf,
    /// `None`: the host name.
    pub node_name: Option<String>,
    pub lease: LeaseOptions,
    pub uplink: UplinkPolicy,
    pub fast_path: FastPathSettings,
    pub tx_checksum: TxChecksum,
    pub guard: GuardMode,
    /// Keep a blackhole route for our own subnet.
    pub ip_blackhole_route: bool,
    pub filter: FilterSettings,
    pub paths: Paths,
    /// `None`: serve no health over HTTP.
    pub health: Option<SocketAddr>,
    pub log: LogSettings,
    /// Called as `flanneld`.
    pub as_flanneld: bool,
    /// What the above came from.
    pub chosen: Chosen,
    /// Odd, but working: to be logged once logging is set up.
    pub warnings: Vec<String>,
}

/// Who shall carry the packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DatapathChoice {
    Auto,
    Ebpf,
    Vxlan,
    Userspace,
}

/// The BPF fast path, where there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FastPathSettings {
    /// `false`: the programs are attached and leave every packet to the kernel path.
    pub enabled: bool,
    /// How long a flow is believed before it is proved again.
    pub validity: Duration,
    /// Flows that the maps have room for, in each direction; `None`: by the machine's memory.
    pub flows: Option<u32>,
    /// Peers' subnets that it has room for, of both families; `None`: by the network's size.
    pub peers: Option<u32>,
    /// Interfaces of pods that it has room for; `None`: by the machine's memory.
    pub pods: Option<u32>,
    /// New flows that one pod may have learned in a second.
    pub pod_rate: u32,
}

/// Where leases come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceChoice {
    Etcd(EtcdConfig),
    Kube(KubeSettings),
    /// The file that lists all nodes.
    File(PathBuf),
}

/// flannel's Kubernetes options, as given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KubeSettings {
    pub api_url: Option<String>,
    pub kubeconfig: Option<PathBuf>,
    pub annotation_prefix: String,
    pub set_node_network_unavailable: bool,
}

/// What happens to tunnel packets that no peer may have sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuardMode {
    Drop,
    /// Let them in, count them.
    Count,
    Off,
}

/// Masquerading and forwarding.
#[expect(clippy::struct_excessive_bools, reason = "independent switches of the operator's")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilterSettings {
    pub flavour: FilterChoice,
    pub masquerade_v4: bool,
    pub masquerade_v6: bool,
    /// Choose source ports at random.
    pub fully_random: bool,
    /// Destinations that see the pod's own address. Host bits are zero.
    pub exclude: Vec<IpNet>,
    /// Accept the overlay's packets in FORWARD.
    pub forward_rules: bool,
    /// Period of comparing rules where no notice comes.
    pub resync: Duration,
}

impl FilterSettings {
    pub fn masquerade(&self, family: Family) -> bool {
        match family {
            Family::V4 => self.masquerade_v4,
            Family::V6 => self.masquerade_v6,
        }
    }

    /// What subnet.env's FLANNEL_IPMASQ says: container runtimes must not masquerade as well.
    pub fn ip_masq(&self) -> bool {
        self.masquerade_v4 || self.masquerade_v6
    }
}

/// Which tool holds the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FilterChoice {
    Auto,
    Nftables,
    Iptables,
}

/// The daemon's files. All absolute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    /// Lock and status socket.
    pub run_dir: PathBuf,
    pub subnet_file: PathBuf,
    /// Node identity.
    pub state_dir: PathBuf,
    /// Pinned BPF objects.
    pub bpf_dir: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogSettings {
    pub format: LogFormat,
    /// klog's `-v`.
    pub verbosity: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    Human,
    Json,
}
