//! Taking over from flannel on a living node.

use super::*;
use crate::kernel::netlink::namespace::bridge;

/// What flanneld 0.2x leaves for peers 1 to 3 of VNI 7.
fn as_flannel_left_it() {
    ip("link add flannel.7 address 02:00:00:00:ff:01 mtu 1450 txqueuelen 0 type vxlan id 7 dev up0 \
        local 192.168.200.1 dstport 8472 nolearning");
    ip("addr add 10.156.64.0/32 dev flannel.7");
    ip("link set flannel.7 up");
    for n in 1..=3 {
        ip(&format!("neigh add 10.0.{n}.0 lladdr {} dev flannel.7 nud permanent", mac(n)));
        bridge(&format!("fdb add {} dev flannel.7 dst {} self permanent", mac(n), public(Family::V4, n)));
        ip(&format!("route add 10.0.{n}.0/24 via 10.0.{n}.0 dev flannel.7 onlink"));
    }
}

#[test]
fn a_device_of_flannels_is_adopted_and_its_routes_become_ours_in_place() {
    isolated(|| {
        let mut lab = lab();
        as_flannel_left_it();
        ip("route add 10.0.77.0/25 via 192.168.1.1 dev up0");
        let before = ip("link show flannel.7");
        let wanted = mesh(&lab, &[Family::V4], 1..=2);
        let observed = lab.kernel.observe(&wanted).unwrap();
        let flannels = Route { via: Via::Overlay { nexthop: false }, protocol: Route::FLANNEL_PROTOCOL };
        assert_eq!(observed.get(&Key::Route(v4(1))), Some(&Object::Route(flannels)));
        assert_eq!(observed.get(&Key::Device(Family::V4)), wanted.get(&Key::Device(Family::V4)));

        let ops = lab.converge(&wanted);
        assert!(!ops.iter().any(|op| matches!(op.key, Key::Device(_) | Key::Address(..))), "{ops:?}");
        assert_eq!(ip("link show flannel.7"), before);
        assert_eq!(ip("route show proto boot 10.0.0.0/8 dev flannel.7").trim(), "");
        assert_eq!(ip("neigh show 10.0.3.0 dev flannel.7").trim(), "", "a peer that left was flannel's to remove");
        assert!(ip("route show proto boot").contains("10.0.77.0/25"), "not the length of a subnet, so not flannel's");
    });
}

#[test]
fn routes_of_flannels_host_gw_become_ours() {
    isolated(|| {
        let mut lab = lab();
        ip("route add 10.0.1.0/24 via 192.168.0.1 dev up0");
        ip("route add 10.0.2.0/24 via 192.168.0.2 dev up0");
        let mut wanted = State::new();
        peer(&mut wanted, Family::V4, 1, Via::Direct { gateway: public(Family::V4, 1) });
        let ops = lab.converge(&wanted);
        assert_eq!(ops.len(), 2, "one becomes ours, one goes: {ops:?}");
        assert_eq!(ip("route show 10.0.0.0/8").trim(), "");
        assert!(ip("route show 10.0.1.0/24").contains("via 192.168.0.1 dev up0 proto 102"));
        assert_eq!(ip("route show 10.0.2.0/24").trim(), "");
    });
}

#[test]
fn a_device_as_we_make_it_differs_in_nothing_from_flannels() {
    isolated(|| {
        let mut lab = lab();
        as_flannel_left_it();
        let shown = || {
            let text = ip("-d link show flannel.7");
            text.lines()
                .map(|line| line.split_once(": flannel").map_or(line, |(_, rest)| rest).to_owned() + "\n")
                .collect::<String>()
        };
        let theirs = shown();
        ip("link del flannel.7");
        let wanted = lab.own(&[Family::V4]);
        lab.converge(&wanted);
        assert_eq!(shown(), theirs);
    });
}
