//! The network that carries the tunnels: a bridge in a namespace of its own.

use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::{Result, ensure};

use super::{Netns, run};

/// The bridge's own addresses, which the nodes use as gateway and where the store listens.
pub const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(192, 168, 255, 254);
pub const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 0xffff);
/// Addresses "out in the world", behind the gateway: pods reach them only masqueraded.
pub const OUTSIDE_V4: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
pub const OUTSIDE_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 1);

/// Underlay address of node `number` (from 1).
pub(super) fn address_v4(number: usize) -> Ipv4Addr {
    let octet = |n: usize| u8::try_from(n).expect("node numbers stay below MAX_NODES");
    Ipv4Addr::new(192, 168, octet(number / 250), octet(1 + number % 250))
}

/// Underlay address of node `number` (from 1).
pub(super) fn address_v6(number: usize) -> Ipv6Addr {
    Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, u16::try_from(number).expect("node numbers stay below MAX_NODES"))
}

/// Linux bridges have at most 1,024 ports (`BR_MAX_PORTS`, net/bridge/br_private.h).
pub(super) const MAX_NODES: usize = 1000;

/// The bridge and its namespace.
#[derive(Debug)]
pub struct Underlay {
    netns: Netns,
    mtu: u32,
}

impl Underlay {
    /// Creates namespace `name` with the bridge up and addressed.
    pub fn create(name: &str, mtu: u32) -> Result<Self> {
        let netns = Netns::create(name)?;
        netns.ip(&format!(
            "link add br0 type bridge mcast_snooping 0\n\
             link set br0 mtu {mtu} up\n\
             address add {GATEWAY_V4}/16 dev br0\n\
             address add {GATEWAY_V6}/64 dev br0\n\
             address add {OUTSIDE_V4}/32 dev lo\n\
             address add {OUTSIDE_V6}/128 dev lo\n"
        ))?;
        Ok(Self { netns, mtu })
    }

    /// The bridge's namespace.
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// Plugs a node in: its end is `eth0` with addresses and default routes, ours is port `n<number>` of `br0`.
    pub fn plug(&self, node: &Netns, number: usize) -> Result<()> {
        ensure!(number <= MAX_NODES, "at most {MAX_NODES} nodes");
        let (mtu, peer) = (self.mtu, node.name());
        self.netns.ip(&format!(
            "link add n{number} mtu {mtu} type veth peer name eth0 mtu {mtu} netns {peer}\n\
             link set n{number} master br0 up\n"
        ))?;
        node.ip(&format!(
            "address add {}/16 dev eth0\naddress add {}/64 dev eth0\nlink set eth0 up\n\
             route add default via {GATEWAY_V4}\nroute add default via {GATEWAY_V6} dev eth0\n",
            address_v4(number),
            address_v6(number),
        ))
    }

    /// Takes the node's cable out: everything from and to it is lost.
    pub fn unplug(&self, number: usize) -> Result<()> {
        self.netns.ip(&format!("link set n{number} nomaster\n"))
    }

    /// Puts the cable back.
    pub fn replug(&self, number: usize) -> Result<()> {
        self.netns.ip(&format!("link set n{number} master br0\n"))
    }

    /// Drops, without a word to anybody, what a node and the gateway send each other at this TCP port of the
    /// gateway. Everything else goes on.
    pub fn cut_off(&self, number: usize, port: u16) -> Result<()> {
        let node = address_v4(number);
        for rule in [
            "add table ip cut".to_owned(),
            "add chain ip cut in { type filter hook input priority 0 ; }".to_owned(),
            "add chain ip cut out { type filter hook output priority 0 ; }".to_owned(),
            format!("add rule ip cut in ip saddr {node} tcp dport {port} drop"),
            format!("add rule ip cut out ip daddr {node} tcp sport {port} drop"),
        ] {
            run(self.netns.command("nft").args(rule.split(' ')))?;
        }
        Ok(())
    }

    /// Undoes every [`Underlay::cut_off`].
    pub fn heal(&self) -> Result<()> {
        run(self.netns.command("nft").args(["delete", "table", "ip", "cut"])).map(drop)
    }
}
