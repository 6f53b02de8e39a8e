//! What stands for a node's containers: one namespace behind the bridge `cni0`.

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::Path,
    sync::Mutex,
};

use anyhow::{Context as _, Result};

use super::{Family, Netns};

/// The lines of subnet.env.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubnetEnv(BTreeMap<String, String>);

impl SubnetEnv {
    /// Reads the file.
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        let pairs = text.lines().filter_map(|line| line.split_once('='));
        Ok(Self(pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()))
    }

    /// A value by the part of its key after `FLANNEL_`.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(&format!("FLANNEL_{key}")).map(String::as_str)
    }

    /// The node's subnet in a family, as written: the bridge's address and the length.
    pub fn subnet(&self, family: Family) -> Option<&str> {
        self.get(match family {
            Family::V4 => "SUBNET",
            Family::V6 => "IPV6_SUBNET",
        })
    }
}

/// A pod: `eth0` in a namespace of its own, the second address of the node's subnet in each family.
#[derive(Debug)]
pub struct Pod {
    netns: Netns,
    wired: Mutex<Addresses>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Addresses {
    v4: Option<Ipv4Addr>,
    v6: Option<Ipv6Addr>,
}

impl Pod {
    pub(super) fn create(name: &str) -> Result<Self> {
        let netns = Netns::create(name)?;
        Ok(Self { netns, wired: Mutex::default() })
    }

    /// The pod's namespace.
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// The pod's address in a family, once wired.
    pub fn address(&self, family: Family) -> Option<IpAddr> {
        let wired = *self.wired.lock().expect("no panic while wiring");
        match family {
            Family::V4 => wired.v4.map(IpAddr::V4),
            Family::V6 => wired.v6.map(IpAddr::V6),
        }
    }

    /// Builds bridge and veth pair as the bridge CNI plugin would from subnet.env; again after a change of subnet.
    pub(super) fn wire(&self, node: &Netns, env: &SubnetEnv) -> Result<()> {
        let mtu = env.get("MTU").context("subnet.env has no FLANNEL_MTU")?;
        if self.is_wired() {
            node.ip("link del veth0\nlink del cni0\n")?;
        }
        node.ip(&format!(
            "link add cni0 mtu {mtu} type bridge\nlink set cni0 up\n\
             link add veth0 mtu {mtu} type veth peer name eth0 mtu {mtu} netns {}\n\
             link set veth0 master cni0 up\n",
            self.netns.name()
        ))?;
        self.netns.ip("link set eth0 up\n")?;
        let mut addresses = Addresses::default();
        if let Some(gateway) = env.subnet(Family::V4) {
            let (bridge, length) = parse::<Ipv4Addr>(gateway)?;
            let pod = Ipv4Addr::from_bits(bridge.to_bits() + 1);
            self.address_both(node, gateway, &bridge.to_string(), &format!("{pod}/{length}"))?;
            addresses.v4 = Some(pod);
        }
        if let Some(gateway) = env.subnet(Family::V6) {
            let (bridge, length) = parse::<Ipv6Addr>(gateway)?;
            let pod = Ipv6Addr::from_bits(bridge.to_bits() + 1);
            self.address_both(node, gateway, &bridge.to_string(), &format!("{pod}/{length}"))?;
            addresses.v6 = Some(pod);
        }
        *self.wired.lock().expect("no panic while wiring") = addresses;
        Ok(())
    }

    fn is_wired(&self) -> bool {
        [Family::V4, Family::V6].into_iter().any(|family| self.address(family).is_some())
    }

    fn address_both(&self, node: &Netns, on_bridge: &str, gateway: &str, on_pod: &str) -> Result<()> {
        node.ip(&format!("address add {on_bridge} dev cni0\n"))?;
        self.netns.ip(&format!("address add {on_pod} dev eth0\nroute add default via {gateway} dev eth0\n"))
    }
}

/// `ADDRESS/LENGTH`
fn parse<Address: std::str::FromStr>(text: &str) -> Result<(Address, u8)> {
    let parsed = text.split_once('/').and_then(|(a, l)| Some((a.parse().ok()?, l.parse().ok()?)));
    parsed.with_context(|| format!("{text} is not an address with a prefix length"))
}
