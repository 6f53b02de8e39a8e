//! The central property: what was applied is what is seen, from wherever one starts.

use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};

use super::*;

/// One node's wishes, at random.
#[derive(Clone, Debug)]
struct Wish {
    v4: bool,
    v6: bool,
    port: u16,
    gbp: bool,
    learning: bool,
    mtu: u32,
    mac: u32,
    up_local: bool,
    blackhole: bool,
    peers: Vec<(u32, u32, u8)>,
}

fn wish() -> impl Strategy<Value = Wish> {
    let own = (any::<bool>(), any::<bool>(), prop_oneof![3 => Just(8472u16), 1 => Just(4789)], any::<bool>());
    let more = (any::<bool>(), 1280u32..=1400, 0u32..3, any::<bool>(), any::<bool>());
    let peers = proptest::collection::vec((1u32..12, 0u32..6, 0u8..4), 0..10);
    (own, more, peers).prop_map(|((v4, v6, port, gbp), (learning, mtu, mac, up_local, blackhole), peers)| Wish {
        v4,
        v6,
        port,
        gbp,
        learning,
        mtu,
        mac,
        up_local,
        blackhole,
        peers,
    })
}

fn state_of(lab: &Lab, wish: &Wish) -> State {
    let families: Vec<_> =
        [(wish.v4, Family::V4), (wish.v6, Family::V6)].into_iter().filter(|(on, _)| *on).map(|(_, f)| f).collect();
    let mut state = lab.own(&families);
    for object in state.values_mut() {
        if let Object::Device(device) = object {
            device.port = wish.port;
            device.gbp = wish.gbp;
            device.learning = wish.learning;
            device.mtu = wish.mtu;
            device.mac = mac(1000 + wish.mac);
            if device.local.is_ipv4() && wish.up_local {
                device.local = [192, 168, 200, 2].into();
            }
        }
    }
    for (n, variant, how) in &wish.peers {
        for family in Family::ALL {
            let overlay = families.contains(&family);
            let via = match how {
                0 if overlay => via_nexthop(family),
                1 if overlay => Via::Overlay { nexthop: false },
                _ => Via::Direct { gateway: public(family, *n) },
            };
            peer(&mut state, family, *n, via);
            // Another MAC, at another place, for the same subnet.
            if overlay && matches!(via, Via::Overlay { .. }) {
                let net = if family == Family::V4 { v4(*n) } else { v6(*n) };
                state.insert(Key::Neighbour(net.addr()), Object::Neighbour(mac(100 + variant)));
                state.insert(Key::Fdb(family, mac(100 + variant)), Object::Fdb(public(family, *n)));
            }
        }
    }
    if wish.blackhole {
        state.insert(Key::Route(v4(40000)), Object::Route(Route::ours(Via::Blackhole)));
        state.insert(Key::Route(v6(40000)), Object::Route(Route::ours(Via::Blackhole)));
    }
    state
}

#[test]
fn any_state_is_reached_from_any_other_and_then_there_is_nothing_to_do() {
    isolated(|| {
        let lab = std::cell::RefCell::new(lab());
        ip("addr add 192.168.200.2/16 dev up0");
        ip("link add other type veth peer name otherfar");
        ip("link set otherfar up");
        ip("link set other up");
        ip("route add 10.0.5.0/25 dev other proto static");
        ip("route add 10.0.6.0/24 dev other metric 50");
        ip("link add vxlan9 type vxlan id 9 dstport 8472 local 192.168.200.1");
        ip("nexthop add id 77 via 192.168.0.9 dev up0 protocol 4");
        let foreign = || {
            [
                ip("route show proto static"),
                ip("route show dev other"),
                ip("-d link show vxlan9"),
                ip("nexthop show id 77"),
                ip("addr show scope global dev up0"),
            ]
        };
        let before = foreign();
        let mut runner = TestRunner::new(Config { cases: 60, failure_persistence: None, ..Config::default() });
        let result = runner.run(&wish(), |wish| {
            let lab = &mut *lab.borrow_mut();
            let wanted = state_of(lab, &wish);
            lab.converge(&wanted);
            prop_assert_eq!(foreign(), before.clone());
            Ok(())
        });
        result.unwrap_or_else(|error| panic!("{error}"));
    });
}

#[test]
fn a_full_mesh_of_both_families_converges_and_goes_away_again() {
    isolated(|| {
        let mut lab = lab();
        let wanted = mesh(&lab, &Family::ALL, 1..=700);
        assert_eq!(lab.converge(&wanted).len(), wanted.len());
        assert!(lab.converge(&wanted).is_empty());
        let fewer = mesh(&lab, &Family::ALL, 300..=400);
        lab.converge(&fewer);
        lab.converge(&State::new());
        assert_eq!(ip("route show proto 102").trim(), "");
        assert_eq!(ip("nexthop show").trim(), "");
    });
}

#[test]
fn putting_again_and_deleting_the_absent_succeed() {
    isolated(|| {
        let mut lab = lab();
        let mut wanted = mesh(&lab, &Family::ALL, 1..=3);
        peer(&mut wanted, Family::V4, 9, Via::Direct { gateway: public(Family::V4, 9) });
        wanted.insert(Key::Route(v4(40000)), Object::Route(Route::ours(Via::Blackhole)));
        lab.converge(&wanted);
        let again: Vec<_> = wanted.iter().map(|(key, to)| Op { key: *key, from: None, to: Some(to.clone()) }).collect();
        for (op, outcome) in again.iter().zip(lab.kernel.apply(&again)) {
            outcome.unwrap_or_else(|error| panic!("{error}\n{op:?}"));
        }
        similar_asserts(&lab.kernel.observe(&wanted).unwrap(), &wanted);

        for known in [true, false] {
            let delete: Vec<_> = wanted
                .iter()
                .rev()
                .map(|(key, from)| Op { key: *key, from: known.then(|| from.clone()), to: None })
                .collect();
            for _ in 0..2 {
                for (op, outcome) in delete.iter().zip(lab.kernel.apply(&delete)) {
                    outcome.unwrap_or_else(|error| panic!("{error}\n{op:?}"));
                }
            }
        }
        assert_eq!(lab.kernel.observe(&State::new()).unwrap(), State::new());
    });
}
