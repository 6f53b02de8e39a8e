use super::*;
use crate::kernel::netlink::namespace::bridge;

/// Everything has been looked at once.
fn round(lab: &mut Lab, known: &State) -> bool {
    (0..LinuxKernel::PARTS).all(|part| lab.kernel.is_still(part, known, known).unwrap())
}

#[test]
fn what_nobody_touched_is_still_so() {
    isolated(|| {
        let mut lab = lab();
        let mut wanted = mesh(&lab, &Family::ALL, 1..=50);
        peer(&mut wanted, Family::V4, 60, Via::Direct { gateway: public(Family::V4, 60) });
        lab.converge(&wanted);
        assert!(round(&mut lab, &wanted) && round(&mut lab, &wanted));
        ip("route add 10.77.0.0/24 dev up0");
        ip("neigh add 192.168.200.9 lladdr 02:00:00:00:00:09 dev up0");
        assert!(round(&mut lab, &wanted), "others' objects are no concern of ours");
    });
}

#[test]
fn a_route_that_vanished_is_missed_without_reading_the_others() {
    isolated(|| {
        let mut lab = lab();
        let wanted = mesh(&lab, &[Family::V4], 1..=20);
        lab.converge(&wanted);
        let few_are_still = |lab: &mut Lab| lab.kernel.is_still(0, &wanted, &wanted).unwrap();
        assert!(few_are_still(&mut lab) && few_are_still(&mut lab));
        ip("route add 10.77.0.0/24 dev up0");
        assert!(few_are_still(&mut lab), "another's");
        ip("route del 10.0.5.0/24");
        assert!(!few_are_still(&mut lab) && !few_are_still(&mut lab));
        lab.converge(&wanted);
        assert!(few_are_still(&mut lab));
    });
}

#[test]
fn every_kind_of_damage_is_found_by_a_round_of_sweeps() {
    isolated(|| {
        let mut lab = lab();
        let wanted = mesh(&lab, &Family::ALL, 1..=20);
        for damage in [
            "neigh del 10.0.3.0 dev flannel.7",
            "neigh replace 10.0.3.0 lladdr 02:00:00:00:00:99 dev flannel.7 nud permanent",
            "neigh add 10.0.99.0 lladdr 02:00:00:00:00:99 dev flannel.7 nud permanent",
            "nexthop del id 167773184",
            "nexthop add id 167800000 via 10.0.107.192 dev flannel.7 onlink proto 102",
            "nexthop replace id 167773184 via 10.0.9.9 dev flannel.7 onlink proto 102",
            "route del 10.0.5.0/24",
            "route replace 10.0.5.0/24 via 10.0.5.0 dev flannel.7 onlink proto 102",
            "route add 10.0.99.0/24 via 10.0.99.0 dev flannel.7 onlink proto 102",
            "-6 route del fc00:0:0:5::/64",
            "-6 route replace fc00:0:0:5::/64 dev up0 proto 102",
            "-6 neigh del fc00:0:0:6:: dev flannel-v6.7",
            "-6 neigh replace fc00:0:0:6:: lladdr 02:00:00:00:00:99 dev flannel-v6.7 nud permanent",
            "addr del 10.156.64.0/32 dev flannel.7",
            "link set flannel.7 mtu 1400",
            "link del flannel-v6.7",
        ] {
            lab.converge(&wanted);
            assert!(round(&mut lab, &wanted), "before {damage}");
            ip(damage);
            assert!(!round(&mut lab, &wanted), "{damage}");
        }
        for damage in [
            "fdb del 02:01:00:00:00:04 dev flannel.7 self",
            "fdb replace 02:01:00:00:00:04 dev flannel.7 dst 192.168.9.9 self permanent",
            "fdb add 02:01:00:00:00:63 dev flannel-v6.7 dst fd00::9 self permanent",
        ] {
            lab.converge(&wanted);
            bridge(damage);
            assert!(!round(&mut lab, &wanted), "{damage}");
        }
    });
}
