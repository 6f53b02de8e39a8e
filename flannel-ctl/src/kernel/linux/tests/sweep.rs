use super::*;

/// Everything has been looked at once.
fn round(lab: &mut Lab, known: &State) -> bool {
    (0..4).all(|_| lab.kernel.is_still(known, known).unwrap())
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
            "route del 10.0.5.0/24",
            "-6 route del fc00:0:0:5::/64",
            "-6 neigh del fc00:0:0:6:: dev flannel-v6.7",
            "addr del 10.156.64.0/32 dev flannel.7",
            "link set flannel.7 mtu 1400",
            "link del flannel-v6.7",
        ] {
            lab.converge(&wanted);
            assert!(round(&mut lab, &wanted), "before {damage}");
            ip(damage);
            assert!(!round(&mut lab, &wanted), "{damage}");
        }
    });
}

#[test]
fn routes_that_vanish_are_missed_at_once() {
    isolated(|| {
        let mut lab = lab();
        let wanted = mesh(&lab, &[Family::V4], 1..=20);
        for n in 1..=4 {
            lab.converge(&wanted);
            assert!(round(&mut lab, &wanted));
            // Whichever table is next in turn.
            assert!((0..n).all(|_| lab.kernel.is_still(&wanted, &wanted).unwrap()));
            ip("route del 10.0.7.0/24");
            assert!(!lab.kernel.is_still(&wanted, &wanted).unwrap());
        }
    });
}
