//! What the kernel should hold: a function of this node's facts and of the peers.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{
    facts::{Facts, FastOptions, Guard, local_address},
    userspace,
};
use crate::model::{
    AddressRange, Backend, Device, Family, FastFamily, FastPathPolicy, FilterPolicy, Forward, GuardPolicy, Key, Mac,
    Masquerade, Object, Peer, Place, Route, Setting, State, Via, VxlanConfig,
};

/// Everything: this node's own part and every peer's.
pub fn desire<'a>(facts: &Facts, peers: impl Iterator<Item = &'a Peer>) -> State {
    // The map is built in one go, which takes less time and half the room, and sorts what it is given: in next to no time if
    // that consists of long runs in order, as the first objects of all peers are, then the second ones.
    let mut peers: Vec<&Peer> = peers.collect();
    peers.sort_unstable_by_key(|peer| peer.subnet);
    let mut runs: Vec<Vec<(Key, Object)>> = Vec::new();
    for peer in &peers {
        let mut place = 0;
        desire_peer(facts, peer, &mut |key, object| {
            if place == runs.len() {
                runs.push(Vec::with_capacity(peers.len()));
            }
            runs[place].push((key, object));
            place += 1;
        });
    }
    desire_own(facts).into_iter().chain(runs.into_iter().flatten()).collect()
}

/// What is wanted with no peer at all: devices, addresses, settings, rules.
pub fn desire_own(facts: &Facts) -> State {
    let mut state = State::new();
    if facts.in_userspace() {
        userspace::desire_own(facts, &mut state);
    } else if let Backend::Vxlan(vxlan) = &facts.network.backend {
        for (family, _, net) in facts.families() {
            let Some(local) = local_address(&facts.uplink, family) else { continue };
            state.insert(Key::Device(family), Object::Device(Box::new(device(facts, vxlan, family, local))));
            state.insert(Key::Setting(family, Setting::AcceptRa), Object::Setting(false));
            if let Some(on) = facts.options.tx_checksum.wanted() {
                state.insert(Key::Setting(family, Setting::TxChecksum), Object::Setting(on));
            }
            state.insert(Key::Address(family, IpNet::from(net.addr())), Object::Address);
        }
    }
    if let (Backend::Vxlan(vxlan), Some(options)) = (&facts.network.backend, facts.options.fast_path) {
        state.insert(Key::LiberalConntrack, Object::Setting(true));
        state.insert(Key::FastPath, Object::FastPath(Box::new(fast_path(facts, vxlan, options))));
        if facts.no_fast_path().is_none() {
            let uplink = Key::Attachment(Place::Uplink(facts.uplink.index));
            state.insert(uplink, Object::Attachment { mtu: 0 });
        }
        for (family, _, _) in facts.families().filter(|(family, _, _)| local_address(&facts.uplink, *family).is_some())
        {
            state.insert(Key::Attachment(Place::Vtep(family)), Object::Attachment { mtu: 0 });
        }
        state.extend(desire_pods(facts));
    }
    if facts.options.blackhole {
        for (_, _, net) in facts.families() {
            state.insert(Key::Route(net), Object::Route(Route::ours(Via::Blackhole)));
        }
    }
    if let Some(policy) = filter_policy(facts) {
        state.insert(Key::Filter, Object::Filter(Box::new(policy)));
    }
    state
}

/// What one peer adds. Calls `put` for each object.
pub fn desire_peer(facts: &Facts, peer: &Peer, put: &mut impl FnMut(Key, Object)) {
    for (family, _, _) in facts.families() {
        let (Some(net), Some(public)) = (peer.subnet.net(family), peer.public(family)) else { continue };
        match &facts.network.backend {
            Backend::Vxlan(vxlan) if facts.options.userspace => {
                let Some(mac) = peer.vtep(family) else { continue };
                put(Key::Forward(net), Object::Forward(Forward { public, mac }));
                let direct = is_direct(facts, vxlan, public);
                let via = if direct { Via::Direct { gateway: public } } else { Via::Device };
                put(Key::Route(net), Object::Route(Route::ours(via)));
            }
            Backend::Vxlan(vxlan) => {
                let Some(mac) = peer.vtep(family) else { continue };
                if facts.guards() {
                    put(Key::Guard(public, net), Object::Guard);
                }
                if facts.options.fast_path.is_some() {
                    let zero_checksum = peer.takes_zero_checksum(family);
                    put(Key::FastPeer(net), Object::FastPeer { outer: public, zero_checksum });
                }
                // Tunnel packets may still come in from a peer that we reach directly, but
                // nothing goes out to it through the tunnel.
                if is_direct(facts, vxlan, public) {
                    put(Key::Route(net), Object::Route(Route::ours(Via::Direct { gateway: public })));
                } else {
                    overlay_route(facts, net, mac, public, family, put);
                }
            }
            Backend::HostGw => put(Key::Route(net), Object::Route(Route::ours(Via::Direct { gateway: public }))),
            // One route leads to all of them.
            Backend::Udp { .. } => {
                put(Key::Forward(net), Object::Forward(Forward { public, mac: Mac::ZERO }));
            }
            Backend::Alloc => {}
        }
    }
}

/// What the interfaces that lead to pods want.
pub fn desire_pods(facts: &Facts) -> impl Iterator<Item = (Key, Object)> + use<'_> {
    let wanted = facts.options.fast_path.is_some() && matches!(facts.network.backend, Backend::Vxlan(_));
    facts
        .pods
        .iter()
        .filter(move |(_, pod)| wanted && pod.spared.is_none())
        .map(|(index, pod)| (Key::Attachment(Place::Pod(*index)), Object::Attachment { mtu: pod.mtu }))
}

fn fast_path(facts: &Facts, vxlan: &VxlanConfig, options: FastOptions) -> FastPathPolicy {
    let family = |wanted: Family| {
        let (_, range, _) = facts.families().find(|(family, _, _)| *family == wanted)?;
        Some(FastFamily {
            local: local_address(&facts.uplink, wanted)?,
            subnet_len: range.subnet_len,
            mtu: facts.device_mtu(vxlan, wanted),
            mac: facts.mac(wanted),
        })
    };
    FastPathPolicy {
        enabled: options.enabled && facts.no_fast_path().is_none(),
        vni: vxlan.vni,
        port: vxlan.port,
        drop_forged: facts.options.guard == Some(Guard::Drop),
        validity: options.validity,
        pod_rate: options.pod_rate,
        v4: family(Family::V4),
        v6: family(Family::V6),
    }
}

/// This peer is reached without the tunnel.
pub fn is_direct(facts: &Facts, vxlan: &VxlanConfig, public: IpAddr) -> bool {
    vxlan.direct_routing && facts.on_link.get(&public).copied().unwrap_or(false)
}

fn overlay_route(
    facts: &Facts,
    net: IpNet,
    mac: Mac,
    public: IpAddr,
    family: Family,
    put: &mut impl FnMut(Key, Object),
) {
    put(Key::Neighbour(net.addr()), Object::Neighbour(mac));
    put(Key::Fdb(family, mac), Object::Fdb(public));
    // IPv6 routes do not share route info objects, so only IPv4 insertion grows with their number.
    let nexthop = match net.addr() {
        IpAddr::V4(gateway) if facts.options.nexthops => {
            put(Key::Nexthop(gateway), Object::Nexthop);
            true
        }
        IpAddr::V4(_) | IpAddr::V6(_) => false,
    };
    put(Key::Route(net), Object::Route(Route::ours(Via::Overlay { nexthop })));
}

fn device(facts: &Facts, vxlan: &VxlanConfig, family: Family, local: IpAddr) -> Device {
    Device {
        name: Facts::device_name(vxlan.vni, family),
        vni: vxlan.vni,
        port: vxlan.port,
        mac: facts.mac(family),
        mtu: facts.device_mtu(vxlan, family),
        uplink: facts.uplink.index,
        local,
        learning: vxlan.learning,
        gbp: vxlan.gbp,
        up: true,
    }
}

fn filter_policy(facts: &Facts) -> Option<FilterPolicy> {
    let options = &facts.options;
    let mut policy = FilterPolicy::default();
    for (family, range, subnet) in facts.families() {
        let masquerade = match family {
            Family::V4 => options.masquerade_v4,
            Family::V6 => options.masquerade_v6,
        };
        if masquerade {
            policy.masquerade.push(Masquerade {
                network: range.network,
                subnet,
                exclude: options
                    .masquerade_exclude
                    .iter()
                    .filter(|net| Family::of_net(net) == family)
                    .copied()
                    .collect(),
                fully_random: options.masquerade_fully_random,
            });
        }
        if options.forward {
            policy.forward.push(range.network);
        }
    }
    let tunnel = match &facts.network.backend {
        Backend::Vxlan(vxlan) => Some((vxlan.port, Some(vxlan.vni))),
        Backend::Udp { port } => Some((*port, None)),
        Backend::HostGw | Backend::Alloc => None,
    };
    if let (Some((port, vni)), Some(guard)) = (tunnel, options.guard) {
        // An engine looks itself at who sent what.
        let judged = |range: Option<AddressRange>| range.filter(|_| facts.guards()).map(|range| range.subnet_len);
        policy.guard = Some(GuardPolicy {
            port,
            vni,
            count_only: guard == Guard::Count,
            v4_len: judged(facts.network.v4),
            v6_len: judged(facts.network.v6),
            pods: facts.network.families().filter_map(|family| Some(facts.network.range(family)?.network)).collect(),
        });
    }
    (policy != FilterPolicy::default()).then_some(policy)
}

#[cfg(test)]
#[path = "desire_tests.rs"]
mod tests;
