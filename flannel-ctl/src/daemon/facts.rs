//! What this node is, as its settings, the network and its lease say it.

use std::collections::BTreeMap;

use super::{StartError, datapath, node, vtep};
use crate::{
    config::{
        Settings,
        settings::{FilterChoice, GuardMode},
        uplink::UplinkPolicy,
    },
    kernel::{filter::Choice, links::Links},
    model::{Backend, Family, FilterPolicy, Key, Mac, Network, Object, Subnet, Uplink},
    plan::{
        Facts, Rules,
        announce::{Identity, Vteps},
        desire::desire_own,
        facts::{Guard, Options},
    },
    source::{OwnLease, kube::Words},
    state::{NodeId, node_id},
};

pub(super) fn identity(settings: &Settings, node_id: NodeId) -> Identity {
    Identity { node_id: node_id.to_string(), node_name: settings.node_name.clone().unwrap_or_else(node_id::host_name) }
}

/// How the uplink is chosen, with an administrator's words in place of the options.
pub(crate) fn told_policy(policy: &UplinkPolicy, words: &Words) -> UplinkPolicy {
    UplinkPolicy {
        public_v4: words.public.v4.or(policy.public_v4),
        public_v6: words.public.v6.or(policy.public_v6),
        ..policy.clone()
    }
}

pub(crate) fn filter_choice(flavour: FilterChoice) -> Choice {
    match flavour {
        FilterChoice::Auto => Choice::Auto,
        FilterChoice::Nftables => Choice::Nft,
        FilterChoice::Iptables => Choice::Iptables,
    }
}

/// The VXLAN devices as far as the lease tells of them; zero where there is none.
/// `published`: what the node's last lease said.
pub(super) fn vteps(
    settings: &Settings,
    network: &Network,
    node: NodeId,
    published: [Option<Mac>; 2],
    remember: bool,
) -> Result<Vteps, StartError> {
    let Backend::Vxlan(vxlan) = &network.backend else { return Ok(Vteps::NONE) };
    let mac = |family: Family| match network.range(family) {
        Some(_) => {
            let [v4, v6] = published;
            let published = if family == Family::V4 { v4 } else { v6 };
            vtep::choose(&settings.paths.state_dir, node, vxlan.vni, family, published, remember)
        }
        None => Ok(Mac::ZERO),
    };
    let zero_checksum_v6 = network.v6.is_some() && vtep::takes_zero_checksum(vxlan.vni)?;
    Ok(Vteps { mac_v4: mac(Family::V4)?, mac_v6: mac(Family::V6)?, zero_checksum_v6 })
}

pub(super) fn facts(
    settings: &Settings,
    network: &Network,
    uplink: Uplink,
    vteps: Vteps,
    subnet: Subnet,
    nexthops: bool,
) -> Facts {
    Facts {
        network: network.clone(),
        subnet,
        uplink,
        mac_v4: vteps.mac_v4,
        mac_v6: vteps.mac_v6,
        zero_checksum_v6: vteps.zero_checksum_v6,
        options: Options {
            tx_checksum: settings.tx_checksum,
            masquerade_v4: settings.filter.masquerade_v4,
            masquerade_v6: settings.filter.masquerade_v6,
            masquerade_exclude: settings.filter.exclude.clone(),
            masquerade_fully_random: settings.filter.fully_random,
            forward: settings.filter.forward_rules,
            guard: match settings.guard {
                GuardMode::Drop => Some(Guard::Drop),
                GuardMode::Count => Some(Guard::Count),
                GuardMode::Off => None,
            },
            blackhole: settings.ip_blackhole_route,
            nexthops,
            fast_path: None,
            userspace: false,
        },
        pods: BTreeMap::new(),
        on_link: BTreeMap::new(),
    }
}

/// The packet filter rules that a node of this network gets, whatever its subnet.
pub(crate) fn filter_policy(settings: &Settings, network: &Network) -> Option<FilterPolicy> {
    let net = |family| network.range(family).map(|range| range.min);
    let v4 = net(Family::V4).and_then(|net| if let ipnet::IpNet::V4(net) = net { Some(net) } else { None });
    let v6 = net(Family::V6).and_then(|net| if let ipnet::IpNet::V6(net) = net { Some(net) } else { None });
    let nowhere = Uplink {
        index: 0,
        name: String::new(),
        mtu: 0,
        ethernet: true,
        filtered: false,
        v4: None,
        v6: None,
        public_v4: None,
        public_v6: None,
    };
    let mut facts = facts(settings, network, nowhere, Vteps::NONE, Subnet::new(v4, v6)?, false);
    facts.options.userspace = datapath::in_userspace(settings, network);
    match desire_own(&facts).remove(&Key::Filter) {
        Some(Object::Filter(policy)) => Some(*policy),
        _ => None,
    }
}

pub(super) fn rules(facts: &Facts, lease: &OwnLease, identity: &Identity) -> Result<Rules, StartError> {
    let surroundings = node::surroundings(&Links::open()?.list()?, facts);
    Ok(Rules {
        network: facts.network.clone(),
        own_key: lease.key.clone(),
        own_subnet: lease.subnet,
        own_node: identity.node_id.clone(),
        own_macs: [facts.mac_v4, facts.mac_v6].into_iter().filter(|mac| !mac.is_zero()).collect(),
        local_addresses: surroundings.local_addresses,
        local_nets: surroundings.local_nets,
    })
}
