use std::{collections::BTreeMap, time::Duration};

use super::*;
use crate::plan::{
    Roster,
    fixtures::{facts, mac, record, rules},
};

fn wanted(facts: &Facts, dual: bool, peers: &[u16]) -> State {
    let mut roster = Roster::default();
    roster.snapshot(&rules(dual), peers.iter().map(|n| record(*n, dual)).collect());
    desire(facts, roster.peers())
}

#[test]
fn a_vxlan_peer_is_a_neighbour_an_fdb_entry_and_an_onlink_route() {
    let state = wanted(&facts(false), false, &[2]);
    let net: IpNet = "10.244.2.0/24".parse().unwrap();
    let public: IpAddr = [10, 200, 2, 2].into();
    assert_eq!(state[&Key::Neighbour(net.addr())], Object::Neighbour(mac(2)));
    assert_eq!(state[&Key::Fdb(Family::V4, mac(2))], Object::Fdb(public));
    assert_eq!(state[&Key::Nexthop([10, 244, 2, 0].into())], Object::Nexthop);
    assert_eq!(state[&Key::Route(net)], Object::Route(Route::ours(Via::Overlay { nexthop: true })));
    assert_eq!(state[&Key::Guard(public, net)], Object::Guard);
}

#[test]
fn device_mtus_differ_by_the_outer_header_and_pods_get_the_smaller() {
    let state = wanted(&facts(true), true, &[]);
    let mtu = |family| match &state[&Key::Device(family)] {
        Object::Device(device) => device.mtu,
        other => panic!("{other:?}"),
    };
    assert_eq!((mtu(Family::V4), mtu(Family::V6)), (1450, 1430));
    assert_eq!(facts(true).pod_mtu(), 1430);
    assert_eq!(facts(false).pod_mtu(), 1450);
}

#[test]
fn an_underlay_mtu_above_the_uplinks_is_capped_as_the_kernel_caps_it() {
    let mut facts = facts(false);
    let vxlan = VxlanConfig { mtu: Some(9000), ..VxlanConfig::default() };
    assert_eq!(facts.device_mtu(&vxlan, Family::V4), 1450);
    facts.uplink.mtu = 9100;
    assert_eq!(facts.device_mtu(&vxlan, Family::V4), 8950);
}

#[test]
fn direct_routing_takes_on_link_peers_off_the_overlay_and_nobody_else() {
    let mut facts = facts(false);
    facts.network.backend = Backend::Vxlan(VxlanConfig { direct_routing: true, ..VxlanConfig::default() });
    facts.on_link = BTreeMap::from([([10, 200, 2, 2].into(), true), ([10, 200, 3, 2].into(), false)]);
    let state = wanted(&facts, false, &[2, 3]);
    let direct = Route::ours(Via::Direct { gateway: [10, 200, 2, 2].into() });
    assert_eq!(state[&Key::Route("10.244.2.0/24".parse().unwrap())], Object::Route(direct));
    assert!(!state.contains_key(&Key::Fdb(Family::V4, mac(2))));
    assert!(!state.contains_key(&Key::Neighbour([10, 244, 2, 0].into())));
    assert!(state.contains_key(&Key::Fdb(Family::V4, mac(3))));
}

#[test]
fn host_gw_wants_plain_routes_and_no_device() {
    let mut facts = facts(false);
    facts.network.backend = Backend::HostGw;
    let mut peers = Roster::default();
    let mut rules = rules(false);
    rules.network.backend = Backend::HostGw;
    let mut record = record(2, false);
    record.value = br#"{"PublicIP":"10.200.2.2","PublicIPv6":null,"BackendType":"host-gw"}"#.to_vec();
    peers.snapshot(&rules, vec![record]);
    let state = desire(&facts, peers.peers());
    let kinds: Vec<&Key> = state.keys().filter(|key| !matches!(key, Key::Filter)).collect();
    assert_eq!(kinds, [&Key::Route("10.244.2.0/24".parse().unwrap())]);
    assert_eq!(facts.pod_mtu(), 1500);
}

#[test]
fn the_uplinks_address_is_the_tunnels_source_even_behind_nat() {
    let mut facts = facts(false);
    facts.uplink.public_v4 = Some([203, 0, 113, 7].into());
    let Object::Device(device) = &wanted(&facts, false, &[])[&Key::Device(Family::V4)] else { panic!("no device") };
    assert_eq!(device.local, IpAddr::from([10, 200, 1, 2]));
}

#[test]
fn an_uplink_that_others_filter_or_without_ethernet_gets_no_programs_and_no_flow_is_fast() {
    let mut facts = facts(false);
    facts.options.fast_path = Some(FastOptions { enabled: true, validity: Duration::from_secs(3), pod_rate: 100 });
    let on = |facts: &Facts| match &wanted(facts, false, &[2])[&Key::FastPath] {
        Object::FastPath(policy) => policy.enabled,
        _ => panic!("no policy"),
    };
    let uplink = Key::Attachment(Place::Uplink(3));
    assert!(on(&facts) && wanted(&facts, false, &[]).contains_key(&uplink));
    facts.uplink.filtered = true;
    assert!(!on(&facts) && !wanted(&facts, false, &[]).contains_key(&uplink));
    (facts.uplink.filtered, facts.uplink.ethernet) = (false, false);
    assert!(!on(&facts) && !wanted(&facts, false, &[]).contains_key(&uplink));
}

#[test]
fn peers_say_whether_the_fast_path_may_send_them_ipv6() {
    let mut facts = facts(true);
    facts.options.fast_path = Some(FastOptions { enabled: true, validity: Duration::from_secs(3), pod_rate: 100 });
    let takes = |state: &State, net: &str| match state[&Key::FastPeer(net.parse().unwrap())] {
        Object::FastPeer { zero_checksum, .. } => zero_checksum,
        _ => panic!("no peer"),
    };
    let flannels = wanted(&facts, true, &[2]);
    assert!(takes(&flannels, "10.244.2.0/24"), "over IPv4 everybody does");
    assert!(!takes(&flannels, "fc00:0:0:2::/64"));
}

#[test]
fn a_peer_of_a_userspace_node_is_a_forwarding_entry_and_a_plain_route() {
    let mut facts = facts(true);
    facts.options.userspace = true;
    let state = wanted(&facts, true, &[2]);
    let (v4, v6): (IpNet, IpNet) = ("10.244.2.0/24".parse().unwrap(), "fc00:0:0:2::/64".parse().unwrap());
    let forward = Forward { public: [10, 200, 2, 2].into(), mac: mac(2) };
    assert_eq!(state[&Key::Forward(v4)], Object::Forward(forward));
    for net in [v4, v6] {
        assert_eq!(state[&Key::Route(net)], Object::Route(Route::ours(Via::Device)));
    }
    let mtu = |family| match &state[&Key::Device(family)] {
        Object::Tun(tun) => (tun.name.clone(), tun.mtu),
        other => panic!("{other:?}"),
    };
    assert_eq!((mtu(Family::V4), mtu(Family::V6)), (("flannel.1".into(), 1450), ("flannel-v6.1".into(), 1430)));
    let Object::Engine(engine) = &state[&Key::Engine(Family::V6)] else { panic!() };
    assert_eq!(engine.local, "fd00::1".parse::<IpAddr>().unwrap());
    let Object::Engine(engine) = &state[&Key::Engine(Family::V4)] else { panic!() };
    assert_eq!(engine.mtu, 1430, "what pods take, in either family");
    let kernels = |key: &Key| matches!(key, Key::Neighbour(_) | Key::Fdb(..) | Key::Nexthop(_) | Key::Guard(..));
    assert_eq!(state.keys().find(|key| kernels(key)), None);
    let Object::Filter(policy) = &state[&Key::Filter] else { panic!() };
    let guard = policy.guard.as_ref().unwrap();
    assert!(!guard.judges_peers(), "the engine looks at who sent what itself");
    assert_eq!((guard.vni, guard.pods.len()), (Some(1), 2), "and not at what pods send");
    assert!(!policy.masquerade.is_empty());
}

#[test]
fn a_userspace_node_reaches_on_link_peers_directly_and_still_takes_their_tunnel_packets() {
    let mut facts = facts(false);
    facts.options.userspace = true;
    facts.network.backend = Backend::Vxlan(VxlanConfig { direct_routing: true, ..VxlanConfig::default() });
    facts.on_link = BTreeMap::from([([10, 200, 2, 2].into(), true)]);
    let state = wanted(&facts, false, &[2, 3]);
    let via = |net: &str| match &state[&Key::Route(net.parse().unwrap())] {
        Object::Route(route) => route.via,
        other => panic!("{other:?}"),
    };
    assert_eq!(via("10.244.2.0/24"), Via::Direct { gateway: [10, 200, 2, 2].into() });
    assert_eq!(via("10.244.3.0/24"), Via::Device);
    assert!(state.contains_key(&Key::Forward("10.244.2.0/24".parse().unwrap())));
}

#[test]
fn backend_udp_is_one_device_one_route_and_a_forwarding_entry_for_each_peer() {
    let mut facts = facts(false);
    facts.network.backend = Backend::Udp { port: 8285 };
    let mut rules = rules(false);
    rules.network = facts.network.clone();
    let mut roster = Roster::default();
    let value = r#"{"PublicIP":"10.200.2.2"}"#;
    roster.snapshot(&rules, vec![crate::plan::fixtures::with_value("10.244.2.0-24", value, 1)]);
    let state = desire(&facts, roster.peers());
    let tun = crate::model::Tun { name: "flannel0".into(), mtu: 1472, up: true };
    assert_eq!(state[&Key::Device(Family::V4)], Object::Tun(tun));
    assert!(state.contains_key(&Key::Address(Family::V4, "10.244.1.0/32".parse().unwrap())));
    let routes: Vec<_> = state.keys().filter(|key| matches!(key, Key::Route(_))).collect();
    assert_eq!(routes, [&Key::Route("10.244.0.0/16".parse().unwrap())]);
    let forward = Forward { public: [10, 200, 2, 2].into(), mac: Mac::ZERO };
    assert_eq!(state[&Key::Forward("10.244.2.0/24".parse().unwrap())], Object::Forward(forward));
    assert_eq!(facts.pod_mtu(), 1472);
}
