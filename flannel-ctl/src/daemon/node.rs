//! The node around the loop: interfaces, subnet.env, what our lease says.

use std::path::PathBuf;

use tokio::sync::watch;

use super::{heap, uplink};
use crate::{
    config::{Settings, uplink::UplinkPolicy},
    kernel::links::Links,
    model::{Family, LeaseValue, LinkInfo, Network, Uplink},
    plan::{
        Facts,
        announce::{Identity, announce},
    },
    reconcile::{Host, Surroundings},
    state::subnet_env::{Pair, SubnetEnv},
};

/// The real [`Host`].
pub(super) struct Node {
    policy: UplinkPolicy,
    subnet_file: PathBuf,
    ip_masq: bool,
    identity: Identity,
    network: Network,
    values_tx: watch::Sender<LeaseValue>,
}

impl Node {
    pub(super) fn new(
        settings: &Settings,
        policy: UplinkPolicy,
        identity: Identity,
        network: Network,
        values_tx: watch::Sender<LeaseValue>,
    ) -> Self {
        Self {
            policy,
            subnet_file: settings.paths.subnet_file.clone(),
            ip_masq: settings.filter.ip_masq(),
            identity,
            network,
            values_tx,
        }
    }
}

impl Host for Node {
    fn uplink(&mut self) -> Result<Uplink, String> {
        uplink::choose(&self.policy, &self.network).map_err(|error| error.to_string())
    }

    fn surroundings(&mut self, facts: &Facts) -> Result<Surroundings, String> {
        let links = Links::open().and_then(|mut kernel| kernel.list()).map_err(|error| error.to_string())?;
        Ok(surroundings(&links, facts))
    }

    fn publish(&mut self, facts: &Facts) -> Result<(), String> {
        let env = subnet_env(facts, self.ip_masq);
        let written = env.write(&self.subnet_file).map_err(|error| error.to_string())?;
        if written {
            tracing::info!(path = %self.subnet_file.display(), subnet = %facts.subnet, mtu = env.mtu, "wrote the subnet file");
        }
        let value = announce(&self.identity, &facts.network, &facts.uplink, facts.vteps());
        self.values_tx.send_if_modified(|current| {
            let changed = *current != value;
            if changed {
                *current = value;
            }
            changed
        });
        Ok(())
    }

    fn rest(&mut self) {
        heap::give_back();
    }
}

/// What leases can collide with: all interfaces but our own devices and our own pods' bridge.
pub(super) fn surroundings(links: &[LinkInfo], facts: &Facts) -> Surroundings {
    let own_device = |name: &str| name.starts_with("flannel.") || name.starts_with("flannel-v6.");
    let mut found = Surroundings::default();
    for link in links.iter().filter(|link| !own_device(&link.name)) {
        for address in &link.addresses {
            found.local_addresses.insert(address.ip);
            let net = address.net().trunc();
            let ours = facts.subnet.net(Family::of(&address.ip)).is_some_and(|own| own.contains(&net));
            if net.prefix_len() < net.max_prefix_len() && !ours && link.name != "lo" {
                found.local_nets.push((net, link.name.clone()));
            }
        }
    }
    found.local_nets.sort();
    found
}

/// What container runtimes read.
pub(super) fn subnet_env(facts: &Facts, ip_masq: bool) -> SubnetEnv {
    let network = |family| facts.network.range(family).map(|range| range.network);
    let v4 = match (network(Family::V4), facts.subnet.v4()) {
        (Some(ipnet::IpNet::V4(network)), Some(subnet)) => Some(Pair { network, subnet }),
        _ => None,
    };
    let v6 = match (network(Family::V6), facts.subnet.v6()) {
        (Some(ipnet::IpNet::V6(network)), Some(subnet)) => Some(Pair { network, subnet }),
        _ => None,
    };
    SubnetEnv { v4, v6, mtu: facts.pod_mtu(), ip_masq }
}
