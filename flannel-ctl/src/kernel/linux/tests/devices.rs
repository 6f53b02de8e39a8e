//! Changing devices.

use super::*;
use crate::model::TxChecksum;

fn index_of(lab: &mut Lab, family: Family) -> u32 {
    lab.kernel.observe(&State::new()).unwrap();
    lab.kernel.device_index(family)
}

fn change(state: &mut State, family: Family, edit: impl FnOnce(&mut Device)) {
    let Some(Object::Device(device)) = state.get_mut(&Key::Device(family)) else { panic!("no device") };
    edit(device);
}

#[test]
fn what_the_kernel_can_change_is_changed_in_place() {
    isolated(|| {
        let mut lab = lab();
        ip("addr add 192.168.200.2/16 dev up0");
        ip("addr add fd00::2:0:1/64 dev up0 nodad");
        ip("link add up1 up type veth peer name up1far");
        ip("link set up1far up");
        let other = Links::open().unwrap().list().unwrap().into_iter().find(|link| link.name == "up1").unwrap().index;
        for family in Family::ALL {
            let mut wanted = mesh(&lab, &[family], 1..=3);
            lab.converge(&wanted);
            let index = index_of(&mut lab, family);
            let local = match family {
                Family::V4 => "192.168.200.2".parse().unwrap(),
                Family::V6 => "fd00::2:0:1".parse().unwrap(),
            };
            change(&mut wanted, family, |device| {
                device.mtu = 1300;
                device.mac = mac(99);
                device.local = local;
                device.learning = true;
                device.uplink = other;
            });
            let ops = lab.converge(&wanted);
            assert_eq!(ops.len(), 1, "nothing else was disturbed: {ops:?}");
            assert_eq!(index_of(&mut lab, family), index);
            change(&mut wanted, family, |device| device.up = false);
            lab.apply_one(Key::Device(family), None, wanted.get(&Key::Device(family)).cloned()).unwrap();
            assert_eq!(index_of(&mut lab, family), index);
        }
    });
}

#[test]
fn an_ipv6_device_of_ours_takes_packets_without_udp_checksum() {
    isolated(|| {
        let mut lab = lab();
        let wanted = mesh(&lab, &Family::ALL, 1..=2);
        assert!(!lab.kernel.takes_zero_checksum(), "there is no device");
        lab.converge(&wanted);
        assert!(lab.kernel.takes_zero_checksum());
        assert!(ip("-d link show flannel-v6.7").contains(" udp6zerocsumrx"));
        assert!(ip("-d link show flannel.7").contains(" noudp6zerocsumrx"));
    });
}

#[test]
fn an_ipv6_device_that_wants_checksums_is_left_as_it_is() {
    isolated(|| {
        let mut lab = lab();
        ip("link add flannel-v6.7 mtu 1430 type vxlan id 7 dev up0 local fd00::1:0:1 dstport 8472 nolearning");
        let wanted = mesh(&lab, &[Family::V6], 1..=2);
        let index = index_of(&mut lab, Family::V6);
        lab.converge(&wanted);
        assert_eq!(index_of(&mut lab, Family::V6), index);
        assert!(!lab.kernel.takes_zero_checksum());
    });
}

#[test]
fn beside_anothers_device_on_the_port_ours_wants_checksums_as_that_one_does() {
    isolated(|| {
        let mut lab = lab();
        ip("link add other0 up type vxlan id 99 local fd00::1:0:1 dstport 8472");
        let wanted = mesh(&lab, &[Family::V6], 1..=2);
        lab.converge(&wanted);
        assert!(!lab.kernel.takes_zero_checksum());
        ip("link del other0");
    });
}

#[test]
fn another_port_or_policy_extension_takes_a_new_device_with_the_same_mac_and_peers() {
    isolated(|| {
        let mut lab = lab();
        let mut wanted = mesh(&lab, &Family::ALL, 1..=5);
        lab.converge(&wanted);
        let index = index_of(&mut lab, Family::V4);
        change(&mut wanted, Family::V4, |device| device.port = 4789);
        lab.converge(&wanted);
        assert_ne!(index_of(&mut lab, Family::V4), index);
        let index = index_of(&mut lab, Family::V4);
        change(&mut wanted, Family::V4, |device| device.gbp = true);
        lab.converge(&wanted);
        assert_ne!(index_of(&mut lab, Family::V4), index);
    });
}

#[test]
fn a_device_set_down_and_up_or_deleted_gets_everything_back() {
    isolated(|| {
        let mut lab = lab();
        let mut wanted = mesh(&lab, &Family::ALL, 1..=20);
        peer(&mut wanted, Family::V4, 40, Via::Direct { gateway: public(Family::V4, 40) });
        lab.converge(&wanted);
        for damage in [
            "link set flannel.7 down",
            "link set flannel-v6.7 down",
            "link del flannel.7",
            "link del flannel-v6.7",
            "neigh flush dev flannel.7 nud permanent",
            // iproute2 6.1 cannot flush routes that have a nexthop object.
            "route del 10.0.3.0/24",
            "-6 route flush proto 102",
            "nexthop flush protocol 102",
            "addr flush dev flannel.7",
            "addr flush dev flannel-v6.7 scope global",
            "link set up0 down",
            "link set flannel.7 mtu 1000 address 02:00:00:00:00:77",
        ] {
            ip(damage);
            ip("link set up0 up");
            assert!(!lab.converge(&wanted).is_empty(), "{damage} did no damage");
            assert!(lab.converge(&wanted).is_empty(), "{damage}");
        }
    });
}

#[test]
fn checksum_offload_is_set_and_read_back() {
    isolated(|| {
        let mut lab = lab();
        let mut wanted = lab.own(&[Family::V4]);
        for choice in [TxChecksum::Off, TxChecksum::On, TxChecksum::Off] {
            let on = choice.wanted().unwrap();
            wanted.insert(Key::Setting(Family::V4, Setting::TxChecksum), Object::Setting(on));
            lab.converge(&wanted);
        }
        ip("link del flannel.7");
        lab.converge(&wanted);
    });
}
