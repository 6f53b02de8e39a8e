//! Two nodes with real daemons, a wire between them, a pod on each, and what answers the loads.

use std::{
    env,
    net::{IpAddr, Ipv4Addr},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use xtask::lab::{Cluster, Family, Launch, Netns, Node, Process, SecondPod, plain_vxlan, run, wait};

use super::{
    cpu::SERVER,
    mode::{Mode, SiteKind, Wire},
    path::{Counters, NodeTraffic},
};
use crate::load::{Port, READY};

/// The interface of either node that carries the tunnel. The lab's own `eth0` leads to the store alone.
const WIRE: &str = "wire0";
/// Where the packets of a tunnel are counted.
const TUNNEL: &str = "flannel.1";
const WIRE_MTU: u32 = 1500;
/// In all modes, plain routes too: the same segments, whatever carries them.
const POD_MTU: u32 = 1450;
/// What the client's node translates to the server's pod.
const SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
const MESH: Duration = Duration::from_secs(30);

/// A cluster that packets are carried by in one way.
#[derive(Debug)]
pub(super) struct Site {
    /// First, so that they end before their namespaces go.
    servers: Vec<Process>,
    /// What clients of a service run in, and what stands behind the service: not the pods of the direct loads, whose ports would
    /// collide with theirs in connection tracking.
    service: Option<[SecondPod; 2]>,
    /// What carries packets on either node, where no daemon does.
    tunnels: Vec<Process>,
    kind: SiteKind,
    cluster: Cluster,
}

impl SiteKind {
    /// Namespaces are named after it.
    fn prefix(self) -> &'static str {
        match self {
            Self::Vxlan => "dpvx",
            Self::VxlanBare => "dpbare",
            Self::HostGw => "dpgw",
            Self::Ebpf => "dpbpf",
            Self::EbpfOff => "dpoff",
            Self::Userspace => "dpus",
            Self::UserspacePlain => "dpone",
            Self::Blocking => "dploop",
        }
    }

    fn network(self) -> String {
        match self {
            Self::HostGw => r#"{"Network":"10.244.0.0/16","Backend":{"Type":"host-gw"}}"#.to_owned(),
            Self::UserspacePlain | Self::Blocking => {
                r#"{"Network":"10.244.0.0/16","Backend":{"Type":"alloc"}}"#.to_owned()
            }
            Self::Vxlan | Self::VxlanBare | Self::Ebpf | Self::EbpfOff | Self::Userspace => plain_vxlan(&[Family::V4]),
        }
    }

    /// flannel has no guard against strangers, so its stand-ins run without ours, and what is compared to them. The fast path runs with
    /// everything on.
    fn launch(self, packet_filter: &str) -> Launch {
        let more: &[&str] = match self {
            Self::Vxlan => &["--datapath", "vxlan", "--peer-guard", "off"],
            Self::VxlanBare => {
                &["--datapath", "vxlan", "--peer-guard", "off", "--ip-masq=false", "--iptables-forward-rules=false"]
            }
            Self::Userspace => &["--datapath", "userspace", "--peer-guard", "off"],
            Self::HostGw | Self::UserspacePlain | Self::Blocking => &["--peer-guard", "off"],
            Self::Ebpf => &["--datapath", "ebpf"],
            Self::EbpfOff => &["--datapath", "ebpf", "--fast-path", "off", "--peer-guard", "off"],
        };
        let everywhere = ["--iface", WIRE, "--packet-filter", packet_filter];
        Launch { args: more.iter().chain(&everywhere).map(ToString::to_string).collect(), ..Launch::default() }
    }
}

impl Site {
    /// Builds it and waits until every pod reaches every other.
    pub(super) fn build(kind: SiteKind, wire: Wire, packet_filter: &str) -> Result<Self> {
        let cluster = Cluster::builder(kind.prefix())
            .nodes(2)
            .network(kind.network())
            .launches(vec![kind.launch(packet_filter)])
            .prepare()?;
        join(cluster.node(1).netns(), cluster.node(2).netns(), wire)?;
        cluster.bring_up()?;
        let mut site = Self { servers: Vec::new(), service: None, tunnels: Vec::new(), kind, cluster };
        site.tunnel()?;
        for node in site.cluster.nodes() {
            node.netns().ip(&format!("link set cni0 mtu {POD_MTU}\nlink set veth0 mtu {POD_MTU}\n"))?;
            node.pod().netns().ip(&format!("link set eth0 mtu {POD_MTU}\n"))?;
            // A table of ended connections that fills up would be measured, not the datapath.
            node.netns().sysctl(&[("netfilter/nf_conntrack_tcp_timeout_time_wait", "5")])?;
        }
        let mesh = site.cluster.wait_mesh(MESH)?;
        ensure!(mesh.whole(), "pods do not reach each other: {mesh}");
        if matches!(kind, SiteKind::Vxlan | SiteKind::Ebpf) {
            let pod = |number| SecondPod::create(site.cluster.node(number), POD_MTU);
            let [_, server] = site.service.insert([pod(1)?, pod(2)?]);
            offer_service(site.cluster.node(1).netns(), server.address())?;
        }
        site.servers = site.serve()?;
        if let Some([client, _]) = &site.service {
            client.wait_for(Port::TcpEcho.of(SERVICE.into()))?;
        }
        Ok(site)
    }

    /// Where clients of this mode run.
    pub(super) fn client(&self, mode: Mode) -> &Netns {
        self.end(1, mode)
    }

    /// Where servers of this mode run.
    pub(super) fn server(&self, mode: Mode) -> &Netns {
        self.end(2, mode)
    }

    fn end(&self, number: usize, mode: Mode) -> &Netns {
        if mode == Mode::Host { self.cluster.node(number).netns() } else { self.pod(number, mode) }
    }

    /// Of the node with this number.
    fn pod(&self, number: usize, mode: Mode) -> &Netns {
        match &self.service {
            Some(pods) if mode.is_service() => pods[number - 1].netns(),
            _ => self.cluster.node(number).pod().netns(),
        }
    }

    /// What servers of this mode listen at.
    pub(super) fn server_address(&self, mode: Mode) -> Result<IpAddr> {
        if mode == Mode::Host {
            return Ok(wire_address(2).into());
        }
        if let (true, Some([_, server])) = (mode.is_service(), &self.service) {
            return Ok(server.address().into());
        }
        self.cluster.node(2).pod().address(Family::V4).context("the server's pod has no address")
    }

    /// What clients of this mode talk to.
    pub(super) fn target(&self, mode: Mode) -> Result<IpAddr> {
        if mode.is_service() { Ok(SERVICE.into()) } else { self.server_address(mode) }
    }

    /// The processes that carry packets, if any do.
    pub(super) fn carriers(&self) -> Vec<u32> {
        match self.kind {
            SiteKind::Userspace => self.cluster.nodes().iter().filter_map(Node::pid).collect(),
            _ => self.tunnels.iter().map(Process::pid).collect(),
        }
    }

    /// Tunnels of processes of their own, with device and routes as a daemon makes them.
    fn tunnel(&mut self) -> Result<()> {
        let kind = match self.kind {
            SiteKind::UserspacePlain => "plain",
            SiteKind::Blocking => "blocking",
            _ => return Ok(()),
        };
        for (here, there, number) in [(1, 2, 1_u8), (2, 1, 2)] {
            let subnet = |node: usize| -> Result<String> {
                let env = self.cluster.node(node).subnet_env()?;
                Ok(env.subnet(Family::V4).context("a lease without an IPv4 subnet")?.to_owned())
            };
            let (own, peer) = (base(&subnet(here)?)?, base(&subnet(there)?)?);
            let netns = self.cluster.node(here).netns();
            let program = env::current_exe().context("finding this program")?;
            let mut command = netns.command(program);
            command.args(["load", "tunnel", kind, "--device", TUNNEL, "--mtu", &POD_MTU.to_string()]);
            command.args(["--local", &wire_address(number).to_string(), "--subnet", &format!("{peer}/24")]);
            command.args(["--peer", &wire_address(3 - number).to_string()]);
            let process = self.start("tunnel", READY, &mut command, netns)?;
            netns.ip(&format!(
                "link set {TUNNEL} mtu {POD_MTU} up\naddress add {own}/32 dev {TUNNEL}\nroute add {peer}/24 dev {TUNNEL}\n"
            ))?;
            self.tunnels.push(process);
        }
        Ok(())
    }

    /// Of the devices that packets of this mode may pass.
    pub(super) fn counters(&self, mode: Mode) -> Result<Counters> {
        let of = |number| NodeTraffic::read(self.cluster.node(number).netns(), self.pod(number, mode), WIRE);
        Ok(Counters { client: of(1)?, server: of(2)? })
    }

    /// What the daemons have counted themselves: `flannel-ctl counters`, where the datapath has any.
    pub(super) fn own_counters(&self) -> Option<Vec<serde_json::Value>> {
        let of = |node: &Node| serde_json::from_str(&node.ctl(&["counters", "--output", "json"]).ok()?).ok();
        self.cluster.nodes().iter().map(of).collect()
    }

    /// In the servers' pods, and on their node.
    fn serve(&self) -> Result<Vec<Process>> {
        let mut servers = Vec::new();
        let behind_service = self.service.is_some().then_some(Mode::VxlanService);
        for mode in [Mode::Vxlan, Mode::Host].into_iter().chain(behind_service) {
            let (netns, address) = (self.server(mode), self.server_address(mode)?.to_string());
            let program = env::current_exe().context("finding this program")?;
            let mut answering = pinned(netns, SERVER);
            answering.arg(program).args(["load", "serve", &address]);
            servers.push(self.start("load", READY, &mut answering, netns)?);
            let mut iperf = pinned(netns, SERVER);
            iperf.args(["iperf3", "--server", "--bind", &address, "--forceflush"]);
            servers.push(self.start("iperf3", "Server listening", &mut iperf, netns)?);
        }
        Ok(servers)
    }

    fn start(&self, name: &str, up: &str, command: &mut Command, netns: &Netns) -> Result<Process> {
        let log = self.cluster.dir().join(format!("{name}-{}.log", netns.name()));
        let mut process = Process::spawn(format!("{name} in {}", netns.name()), command, &log)?;
        let ended = wait::until(&format!("{name} in {} to listen", netns.name()), wait::SHORT, || {
            if process.log().contains(up) {
                return Some(None);
            }
            process.ended().ok().flatten().map(Some)
        })?;
        match ended {
            None => Ok(process),
            Some(status) => bail!("{name} in {}: {status}: {}", netns.name(), process.log().trim()),
        }
    }
}

/// A command inside a namespace that stays on one core.
pub(super) fn pinned(netns: &Netns, core: usize) -> Command {
    let mut command = netns.command("taskset");
    command.args(["--cpu-list", &core.to_string()]);
    command
}

/// As kube-proxy translates a ClusterIP on the client's node.
fn offer_service(client: &Netns, pod: Ipv4Addr) -> Result<()> {
    for rule in [
        "add table ip service".to_owned(),
        "add chain ip service prerouting { type nat hook prerouting priority -100 ; }".to_owned(),
        format!("add rule ip service prerouting ip daddr {SERVICE} dnat to {pod}"),
    ] {
        run(client.command("nft").args(rule.split(' ')))?;
    }
    Ok(())
}

/// `10.244.7.0` of `10.244.7.1/24`
fn base(subnet: &str) -> Result<Ipv4Addr> {
    let address: Ipv4Addr = subnet.split('/').next().unwrap_or_default().parse().context("a node's subnet")?;
    let [a, b, c, _] = address.octets();
    Ok(Ipv4Addr::new(a, b, c, 0))
}

fn wire_address(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(172, 31, 255, number)
}

/// A veth pair, both ends alike.
fn join(first: &Netns, second: &Netns, wire: Wire) -> Result<()> {
    let mtu = WIRE_MTU;
    first.ip(&format!("link add {WIRE} mtu {mtu} type veth peer name {WIRE} mtu {mtu} netns {}\n", second.name()))?;
    for (netns, number) in [(first, 1), (second, 2)] {
        netns.ip(&format!("address add {}/24 dev {WIRE}\nlink set {WIRE} up\n", wire_address(number)))?;
        if !wire.offloads().is_empty() {
            run(netns.command("ethtool").args(["-K", WIRE]).args(wire.offloads()))?;
        }
    }
    first.settle(WIRE)?;
    second.settle(WIRE)
}
