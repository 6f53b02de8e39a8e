//! The userspace datapath's devices and routes. Nobody reads the devices here: that is the engine's.

use super::*;
use crate::model::Tun;

/// What the userspace datapath wants of the kernel, for these peers.
fn userspace(families: &[Family], peers: std::ops::RangeInclusive<u32>) -> State {
    let mut state = State::new();
    for family in families {
        let is_v4 = *family == Family::V4;
        let (name, mtu) = if is_v4 { ("flannel.7", 1450) } else { ("flannel-v6.7", 1430) };
        let base = if is_v4 { v4(40000) } else { v6(40000) };
        state.insert(Key::Device(*family), Object::Tun(Tun { name: name.into(), mtu, up: true }));
        state.insert(Key::Setting(*family, Setting::AcceptRa), Object::Setting(false));
        state.insert(Key::Address(*family, IpNet::from(base.addr())), Object::Address);
        for n in peers.clone() {
            let net = if is_v4 { v4(n) } else { v6(n) };
            state.insert(Key::Route(net), Object::Route(Route::ours(Via::Device)));
        }
    }
    state
}

#[test]
fn the_kinds_of_device_take_each_others_place() {
    isolated(|| {
        let mut lab = lab();
        let (kernel, userspace) = (mesh(&lab, &Family::ALL, 1..=3), userspace(&Family::ALL, 1..=3));
        for wanted in [&userspace, &kernel, &userspace, &State::new()] {
            lab.converge(wanted);
            assert!(lab.converge(wanted).is_empty());
        }
        assert!(!ip("-br link show").contains("flannel"));
    });
}

#[test]
fn what_others_do_to_a_tun_device_is_mended() {
    isolated(|| {
        let mut lab = lab();
        let wanted = userspace(&Family::ALL, 1..=3);
        lab.converge(&wanted);
        for mischief in [
            "link set flannel.7 mtu 1300",
            "link set flannel-v6.7 mtu 1280",
            "link set flannel.7 down",
            "link set flannel-v6.7 down",
            "link del flannel.7",
            "link del flannel-v6.7",
            "addr flush dev flannel.7",
            "route flush proto 102",
            "-6 route del fc00:0:0:2::/64",
        ] {
            ip(mischief);
            assert!(!lab.converge(&wanted).is_empty(), "{mischief}");
        }
    });
}

#[test]
fn routes_into_the_device_share_what_the_kernel_keeps_of_them() {
    isolated(|| {
        let mut lab = lab();
        lab.converge(&userspace(&[Family::V4], 1..=200));
        let shown = ip("route show dev flannel.7");
        assert_eq!(shown.lines().count(), 200);
        let first = shown.lines().next().unwrap();
        assert!(first.contains("proto 102") && !first.contains("via"), "{first}");
    });
}

#[test]
fn strangers_devices_of_that_name_are_left_alone_and_named() {
    isolated(|| {
        let mut lab = lab();
        let wanted = userspace(&[Family::V4], 1..=1);
        let put = |lab: &mut Lab| {
            let key = Key::Device(Family::V4);
            lab.apply_one(key, None, wanted.get(&key).cloned()).map_err(|error| error.to_string())
        };
        for (stranger, kind) in [("link add flannel.7 type veth", "veth"), ("tuntap add flannel.7 mode tap", "tun")] {
            ip(stranger);
            let error = put(&mut lab).unwrap_err();
            assert!(error.contains(&format!("not ours but {kind}")), "{error}");
            ip("link del flannel.7");
        }
        put(&mut lab).unwrap();
    });
}
