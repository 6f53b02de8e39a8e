use super::*;
use crate::model::LinkAddress;

/// An address, with flags behind it: `t`emporary, `d`ynamic, `x` deprecated, `l`ink scope.
fn address(text: &str) -> LinkAddress {
    let (net, flags) = text.split_once(' ').unwrap_or((text, ""));
    let net: ipnet::IpNet = net.parse().unwrap();
    LinkAddress {
        ip: net.addr(),
        prefix_len: net.prefix_len(),
        scope_global: !flags.contains('l'),
        temporary: flags.contains('t'),
        dynamic: flags.contains('d'),
        deprecated: flags.contains('x'),
    }
}

fn link(index: u32, name: &str, addresses: &[&str]) -> LinkInfo {
    let addresses = addresses.iter().map(|text| address(text)).collect();
    LinkInfo { index, name: name.into(), mtu: 1500, up: true, ethernet: true, addresses }
}

fn host() -> Vec<LinkInfo> {
    vec![
        link(1, "lo", &["127.0.0.1/8 l", "::1/128 l"]),
        link(2, "eth0", &["192.0.2.7/24 d", "fe80::7/64 l", "2001:db8::7/64"]),
        link(3, "eth1", &["10.9.0.7/16", "fe80::8/64 l"]),
        link(4, "eth2", &[]),
        link(5, "flannel.1", &["10.244.3.0/32"]),
    ]
}

const ROUTES: RouteHints = RouteHints { default_v4: Some(2), default_v6: Some(2), reach: None };
const V4: &[Family] = &[Family::V4];
const V6: &[Family] = &[Family::V6];
const BOTH: &[Family] = &[Family::V4, Family::V6];

fn policy(ifaces: &[&str], regexes: &[&str]) -> UplinkPolicy {
    UplinkPolicy {
        ifaces: ifaces.iter().map(|&text| text.into()).collect(),
        regexes: regexes.iter().map(|text| Regex::new(text).unwrap()).collect(),
        ..UplinkPolicy::default()
    }
}

fn public(policy: UplinkPolicy, v4: Option<&str>, v6: Option<&str>) -> UplinkPolicy {
    UplinkPolicy { public_v4: v4.map(|ip| ip.parse().unwrap()), public_v6: v6.map(|ip| ip.parse().unwrap()), ..policy }
}

/// Name, own addresses and public addresses in one line.
fn chosen(policy: &UplinkPolicy, families: &[Family], routes: RouteHints) -> String {
    let show = |ip: Option<IpAddr>| ip.map_or("-".into(), |ip| ip.to_string());
    match choose(&host(), policy, families, routes) {
        Ok(uplink) => format!(
            "{} {} {} {} {}",
            uplink.name,
            show(uplink.v4.map(IpAddr::V4)),
            show(uplink.v6.map(IpAddr::V6)),
            show(uplink.public_v4.map(IpAddr::V4)),
            show(uplink.public_v6.map(IpAddr::V6))
        ),
        Err(error) => format!("{error}"),
    }
}

fn refused(policy: &UplinkPolicy, families: &[Family], routes: RouteHints) -> String {
    choose(&host(), policy, families, routes).expect_err("refused").to_string()
}

#[test]
fn without_options_the_default_route_decides() {
    let none = UplinkPolicy::default();
    assert_eq!(chosen(&none, V4, ROUTES), "eth0 192.0.2.7 - 192.0.2.7 -");
    assert_eq!(chosen(&none, V6, ROUTES), "eth0 - 2001:db8::7 - 2001:db8::7");
    assert_eq!(chosen(&none, BOTH, ROUTES), "eth0 192.0.2.7 2001:db8::7 192.0.2.7 2001:db8::7");
    let split = refused(&none, BOTH, RouteHints { default_v6: Some(3), ..ROUTES });
    assert!(split.contains("IPv4 default route is on eth0 and the IPv6 one on eth1"), "{split}");
    let none_there = refused(&none, V4, RouteHints::default());
    assert!(none_there.contains("there is no IPv4 default route"), "{none_there}");
}

#[test]
fn names_and_addresses_are_tried_in_order() {
    assert_eq!(chosen(&policy(&["eth9", "eth1", "eth0"], &[]), V4, ROUTES), "eth1 10.9.0.7 - 10.9.0.7 -");
    assert_eq!(chosen(&policy(&["10.9.0.7"], &[]), V4, ROUTES), "eth1 10.9.0.7 - 10.9.0.7 -");
    assert_eq!(chosen(&policy(&["2001:db8::7"], &[]), V6, ROUTES), "eth0 - 2001:db8::7 - 2001:db8::7");
    assert_eq!(
        chosen(&policy(&["eth1", "eth0"], &[]), BOTH, ROUTES),
        "eth0 192.0.2.7 2001:db8::7 192.0.2.7 2001:db8::7"
    );
}

#[test]
fn expressions_come_after_names_and_look_at_addresses_first() {
    assert_eq!(chosen(&policy(&["eth0"], &["eth1"]), V4, ROUTES), "eth0 192.0.2.7 - 192.0.2.7 -");
    assert_eq!(chosen(&policy(&["eth9"], &["^eth[1-9]"]), V4, ROUTES), "eth1 10.9.0.7 - 10.9.0.7 -");
    assert_eq!(chosen(&policy(&[], &["nothing", r"^10\."]), V4, ROUTES), "eth1 10.9.0.7 - 10.9.0.7 -");
    assert_eq!(
        chosen(&policy(&[], &["^(192|2001)"]), BOTH, ROUTES),
        "eth0 192.0.2.7 2001:db8::7 192.0.2.7 2001:db8::7"
    );
}

#[test]
fn an_expression_that_matches_everything_takes_neither_loopback_nor_our_own_device() {
    assert_eq!(chosen(&policy(&[], &[".*"]), V4, ROUTES), "eth0 192.0.2.7 - 192.0.2.7 -");
    assert!(refused(&policy(&[], &["flannel"]), V4, ROUTES).contains("is our own tunnel device"));
    assert!(refused(&policy(&["flannel.1"], &[]), V4, ROUTES).contains("is our own tunnel device"));
    assert!(refused(&policy(&["lo"], &[]), V4, ROUTES).contains("no IPv4 address that peers can dial"));
}

#[test]
fn can_reach_comes_last_and_fixes_the_source() {
    let source = "10.9.0.7".parse().unwrap();
    let routes = RouteHints { reach: Some(Reach { index: 3, source }), ..ROUTES };
    let reach = |ifaces: &[&str]| UplinkPolicy { can_reach: "10.9.0.1".parse().ok(), ..policy(ifaces, &[]) };
    assert_eq!(chosen(&reach(&[]), V4, routes), "eth1 10.9.0.7 - 10.9.0.7 -");
    assert_eq!(chosen(&reach(&["eth0"]), V4, routes), "eth0 192.0.2.7 - 192.0.2.7 -");
    assert!(refused(&reach(&[]), V4, ROUTES).contains("--iface-can-reach=10.9.0.1: no route leads there"));
}

#[test]
fn a_public_address_names_its_interface_unless_one_is_given() {
    let alone = |v4, v6| public(UplinkPolicy::default(), v4, v6);
    assert_eq!(chosen(&alone(Some("10.9.0.7"), None), V4, ROUTES), "eth1 10.9.0.7 - 10.9.0.7 -");
    let nat = refused(&alone(Some("203.0.113.5"), None), V4, ROUTES);
    assert!(nat.contains("name the interface with --iface"), "{nat}");
    let named = public(policy(&["eth1"], &[]), Some("203.0.113.5"), None);
    assert_eq!(chosen(&named, V4, ROUTES), "eth1 10.9.0.7 - 203.0.113.5 -");
    assert_eq!(chosen(&alone(None, Some("2001:db8::99")), V6, ROUTES), "eth0 - 2001:db8::7 - 2001:db8::99");
    let elsewhere = refused(&alone(Some("192.0.2.7"), Some("2001:db8::99")), BOTH, ROUTES);
    assert!(elsewhere.contains("does not have the address of --public-ipv6 as well"), "{elsewhere}");
}

#[test]
fn a_public_address_of_this_host_is_the_source_too() {
    let links = [link(1, "lo", &["198.51.100.1/32"]), link(2, "eth0", &["10.0.0.7/24", "203.0.113.5/24"])];
    for (iface, ip) in [("eth0", "203.0.113.5"), ("eth0", "198.51.100.1"), ("10.0.0.7", "203.0.113.5")] {
        let policy = public(policy(&[iface], &[]), Some(ip), None);
        let uplink = choose(&links, &policy, V4, RouteHints::default()).unwrap();
        assert_eq!((uplink.index, uplink.v4, uplink.public_v4), (2, ip.parse().ok(), ip.parse().ok()), "{iface} {ip}");
    }
}

#[test]
fn a_public_address_of_the_loopback_device_leaves_the_choice_to_the_default_route() {
    let links =
        [link(1, "lo", &["198.51.100.1/32", "2001:db8::1/128"]), link(2, "eth0", &["10.0.0.7/24", "fd00::7/64"])];
    let routes = RouteHints { default_v4: Some(2), default_v6: Some(2), reach: None };
    for (v4, v6, families) in [(Some("198.51.100.1"), None, V4), (None, Some("2001:db8::1"), V6)] {
        let policy = public(UplinkPolicy::default(), v4, v6);
        let uplink = choose(&links, &policy, families, routes).unwrap();
        let own = (uplink.v4.map(IpAddr::V4).or(uplink.v6.map(IpAddr::V6)), uplink.index);
        assert_eq!(own, (v4.or(v6).and_then(|ip| ip.parse().ok()), 2));
        let error = choose(&links, &policy, families, RouteHints::default()).unwrap_err().to_string();
        assert!(error.contains("name an interface with --iface"), "{error}");
    }
}

#[test]
fn the_steadiest_address_wins() {
    let best =
        |addresses: &[&str]| address::usable(&link(2, "eth0", addresses), Family::V6).first().map(ToString::to_string);
    assert_eq!(best(&["fd00::1/64 dt", "fd00::2/64 d", "fd00::3/64"]).as_deref(), Some("fd00::3"));
    assert_eq!(best(&["fd00::1/64 dt", "fd00::2/64 d"]).as_deref(), Some("fd00::2"));
    assert_eq!(best(&["fd00::1/64 l", "fd00::2/64 dt"]).as_deref(), Some("fd00::2"));
    assert_eq!(best(&["fd00::1/64 x", "fd00::2/64 dt"]).as_deref(), Some("fd00::2"));
    assert_eq!(best(&["fd00::2/64", "fd00::1/64"]).as_deref(), Some("fd00::2"), "the kernel's order");
    assert_eq!(best(&["fe80::1/64 l", "fd00::1/64 x"]), None);
}

#[test]
fn an_mtu_of_0_is_refused() {
    let links = [LinkInfo { mtu: 0, ..link(2, "eth0", &["10.0.0.7/24"]) }];
    let error = choose(&links, &policy(&["eth0"], &[]), V4, ROUTES).unwrap_err();
    assert!(error.to_string().contains("has an MTU of 0"), "{error}");
}

#[test]
fn a_refusal_lists_what_was_there_and_why_each_was_refused() {
    let mut links = host();
    links[3].up = false;
    let policy = policy(&["eth1", "eth9"], &["eth2", "flannel"]);
    insta::assert_snapshot!(choose(&links, &policy, BOTH, ROUTES).unwrap_err());
}
