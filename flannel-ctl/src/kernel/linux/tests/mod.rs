//! Against the real kernel, each test in a network namespace of its own.

mod adoption;
mod convergence;
mod devices;
mod foreign;
mod notices;
mod routes;
mod scale;
mod sweep;
mod told;
mod tun;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::{LinuxKernel, Scope};
use crate::{
    kernel::{
        Kernel,
        links::Links,
        netlink::namespace::{ip, isolated},
    },
    model::{AddressRange, Device, Family, Key, Mac, Object, Op, Route, Setting, State, Subnet, Via},
    plan::diff,
};

const VNI: u32 = 7;
const OWN_V4: Ipv4Addr = Ipv4Addr::new(192, 168, 200, 1);

/// An uplink `up0` with addresses of both families, and a kernel that looks at VNI 7 in
/// 10.0.0.0/8 and fc00::/32. Our own subnet is number 40000.
struct Lab {
    kernel: LinuxKernel,
    uplink: u32,
}

fn lab() -> Lab {
    ip("link add up0 mtu 1500 up type veth peer name up0far");
    ip("link set up0far up");
    ip("addr add 192.168.200.1/16 dev up0");
    ip("addr add fd00::1:0:1/64 dev up0 nodad");
    let uplink = Links::open().unwrap().list().unwrap().into_iter().find(|link| link.name == "up0").unwrap().index;
    let range = |network: &str, subnet_len, min: IpNet| AddressRange {
        network: network.parse().unwrap(),
        subnet_len,
        min,
        max: min,
    };
    let scope = Scope {
        vni: Some(VNI),
        udp: false,
        uplink,
        v4: Some(range("10.0.0.0/8", 24, v4(1))),
        v6: Some(range("fc00::/32", 64, v6(1))),
        own: Subnet::new(Some(v4_net(40000)), None),
    };
    Lab { kernel: LinuxKernel::new(scope).unwrap(), uplink }
}

impl Lab {
    fn device(&self, family: Family) -> Device {
        let v4 = family == Family::V4;
        Device {
            name: if v4 { "flannel.7".into() } else { "flannel-v6.7".into() },
            vni: VNI,
            port: 8472,
            mac: Mac([2, 0, 0, 0, 0xff, u8::from(v4)]),
            mtu: if v4 { 1450 } else { 1430 },
            uplink: self.uplink,
            local: if v4 { OWN_V4.into() } else { "fd00::1:0:1".parse().unwrap() },
            learning: false,
            gbp: false,
            up: true,
        }
    }

    /// Devices, their settings and addresses.
    fn own(&self, families: &[Family]) -> State {
        let mut state = State::new();
        for family in families {
            let base = if *family == Family::V4 { v4(40000) } else { v6(40000) };
            state.insert(Key::Device(*family), Object::Device(Box::new(self.device(*family))));
            state.insert(Key::Setting(*family, Setting::AcceptRa), Object::Setting(false));
            state.insert(Key::Address(*family, IpNet::from(base.addr())), Object::Address);
        }
        state
    }

    /// Makes it so, and proves that it is so.
    fn converge(&mut self, wanted: &State) -> Vec<Op> {
        let observed = self.kernel.observe(wanted).unwrap();
        let ops = diff(wanted, &observed, true);
        for (op, outcome) in ops.iter().zip(self.kernel.apply(&ops)) {
            outcome.unwrap_or_else(|error| panic!("{error}\n{op:?}"));
        }
        let observed = self.kernel.observe(wanted).unwrap();
        similar_asserts(&observed, wanted);
        ops
    }

    fn apply_one(&mut self, key: Key, from: Option<Object>, to: Option<Object>) -> Result<(), super::KernelError> {
        self.kernel.apply(&[Op { key, from, to }]).remove(0)
    }
}

/// Says what differs, and not all that does not.
fn similar_asserts(observed: &State, wanted: &State) {
    let missing: Vec<_> = wanted.iter().filter(|(key, object)| observed.get(key) != Some(object)).take(5).collect();
    let extra: Vec<_> = observed.iter().filter(|(key, object)| wanted.get(key) != Some(object)).take(5).collect();
    assert!(missing.is_empty() && extra.is_empty(), "wanted, not seen: {missing:?}\nseen, not wanted: {extra:?}");
}

fn v4_net(n: u32) -> Ipv4Net {
    Ipv4Net::new(Ipv4Addr::from(0x0a00_0000 | (n << 8)), 24).unwrap()
}

/// Peer `n`'s subnet.
fn v4(n: u32) -> IpNet {
    v4_net(n).into()
}

fn v6(n: u32) -> IpNet {
    Ipv6Net::new(Ipv6Addr::from(0xfc00_u128 << 112 | u128::from(n) << 64), 64).unwrap().into()
}

/// Peer `n`'s address on the underlay.
fn public(family: Family, n: u32) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::from(0xc0a8_0000 | n).into(),
        Family::V6 => Ipv6Addr::from(0xfd00_u128 << 112 | u128::from(n)).into(),
    }
}

fn mac(n: u32) -> Mac {
    let mut mac = [2, 1, 0, 0, 0, 0];
    mac[2..].copy_from_slice(&n.to_be_bytes());
    Mac(mac)
}

/// What one peer wants.
fn peer(state: &mut State, family: Family, n: u32, via: Via) {
    let net = if family == Family::V4 { v4(n) } else { v6(n) };
    if let Via::Overlay { nexthop } = via {
        state.insert(Key::Neighbour(net.addr()), Object::Neighbour(mac(n)));
        state.insert(Key::Fdb(family, mac(n)), Object::Fdb(public(family, n)));
        if let (IpAddr::V4(gateway), true) = (net.addr(), nexthop) {
            state.insert(Key::Nexthop(gateway), Object::Nexthop);
        }
    }
    state.insert(Key::Route(net), Object::Route(Route::ours(via)));
}

fn via_nexthop(family: Family) -> Via {
    Via::Overlay { nexthop: family == Family::V4 }
}

fn mesh(lab: &Lab, families: &[Family], peers: std::ops::RangeInclusive<u32>) -> State {
    let mut state = lab.own(families);
    for n in peers {
        for family in families {
            peer(&mut state, *family, n, via_nexthop(*family));
        }
    }
    state
}
