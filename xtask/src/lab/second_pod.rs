//! One more pod on a node, beside the lab's own: third address of the node's subnet, on the same bridge.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpStream},
    time::Duration,
};

use super::{Family, Netns, Node, wait};
use anyhow::{Context as _, Result};

/// Its host side.
const HOST_SIDE: &str = "veth1";

/// Goes away with the value.
#[derive(Debug)]
pub struct SecondPod {
    netns: Netns,
    address: Ipv4Addr,
}

impl SecondPod {
    /// Wires it to `cni0`, which the lab's pod has made.
    pub fn create(node: &Node, mtu: u32) -> Result<Self> {
        let env = node.subnet_env()?;
        let subnet = env.subnet(Family::V4).context("subnet.env has no IPv4 subnet")?;
        let (bridge, length) = subnet.split_once('/').context("a subnet without a length")?;
        let bridge: Ipv4Addr = bridge.parse().with_context(|| format!("{subnet} in subnet.env"))?;
        let address = Ipv4Addr::from_bits(bridge.to_bits() + 2);
        let netns = Netns::create(format!("{}-pod2", node.netns().name()))?;
        node.netns().ip(&format!(
            "link add {HOST_SIDE} mtu {mtu} type veth peer name eth0 mtu {mtu} netns {}\nlink set {HOST_SIDE} master cni0 up\n",
            netns.name()
        ))?;
        netns.ip(&format!(
            "link set eth0 up\naddress add {address}/{length} dev eth0\nroute add default via {bridge} dev eth0\n"
        ))?;
        Ok(Self { netns, address })
    }

    /// The pod's namespace.
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// The pod's address.
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// Until it reaches a server.
    pub fn wait_for(&self, server: SocketAddr) -> Result<()> {
        wait::until(&format!("{} to reach {server}", self.netns.name()), wait::SHORT, || {
            self.netns.enter(|| TcpStream::connect_timeout(&server, Duration::from_secs(1))).ok()?.ok()
        })
        .map(drop)
    }
}
