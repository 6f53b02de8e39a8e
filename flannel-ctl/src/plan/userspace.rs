//! What the userspace datapath wants of a node: TUN devices, their addresses, the engines that read them.

use std::net::IpAddr;

use ipnet::IpNet;

use super::facts::{Facts, local_address};
use crate::model::{Backend, EnginePolicy, Family, Key, Object, Route, Setting, State, Tun, Via, Wire};

pub(super) fn desire_own(facts: &Facts, state: &mut State) {
    for (family, range, net) in facts.families() {
        let Some(local) = local_address(&facts.uplink, family) else { continue };
        let Some(engine) = engine(facts, family, local) else { continue };
        state.insert(
            Key::Device(family),
            Object::Tun(Tun { name: engine.device.clone(), mtu: device_mtu(facts, family), up: true }),
        );
        state.insert(Key::Setting(family, Setting::AcceptRa), Object::Setting(false));
        state.insert(Key::Address(family, IpNet::from(net.addr())), Object::Address);
        if matches!(engine.wire, Wire::Raw { .. }) {
            state.insert(Key::Route(range.network), Object::Route(Route::ours(Via::Device)));
        }
        state.insert(Key::Engine(family), Object::Engine(Box::new(engine)));
    }
}

fn device_mtu(facts: &Facts, family: Family) -> u32 {
    match &facts.network.backend {
        Backend::Vxlan(vxlan) => facts.device_mtu(vxlan, family),
        Backend::Udp { .. } | Backend::HostGw | Backend::Alloc => facts.pod_mtu(),
    }
}

fn engine(facts: &Facts, family: Family, local: IpAddr) -> Option<EnginePolicy> {
    match (&facts.network.backend, family) {
        (Backend::Vxlan(vxlan), _) => Some(EnginePolicy {
            wire: Wire::Vxlan { vni: vxlan.vni, port: vxlan.port, mac: facts.mac(family) },
            device: Facts::device_name(vxlan.vni, family),
            mtu: facts.pod_mtu(),
            local,
        }),
        (Backend::Udp { port }, Family::V4) => Some(EnginePolicy {
            wire: Wire::Raw { port: *port },
            device: Facts::UDP_DEVICE.to_owned(),
            mtu: facts.pod_mtu(),
            local,
        }),
        // Its wire has IPv4 alone; a config that wants more is refused before.
        (Backend::Udp { .. }, Family::V6) | (Backend::HostGw | Backend::Alloc, _) => None,
    }
}
