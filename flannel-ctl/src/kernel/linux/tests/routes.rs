//! Routes in odd states, and the lookups.

use super::*;

#[test]
fn several_routes_of_ours_to_one_destination_become_the_wanted_one() {
    isolated(|| {
        let mut lab = lab();
        let wanted = mesh(&lab, &Family::ALL, 1..=3);
        lab.converge(&wanted);
        ip("route add blackhole 10.0.1.0/24 metric 4294967295 proto 102");
        ip("route add 10.0.2.0/24 via 192.168.0.9 dev up0 metric 7 proto 102");
        ip("-6 route add blackhole fc00:0:0:3::/64 metric 4294967295 proto 102");
        ip("route add unreachable 10.0.99.0/24 proto 102");
        assert!(!lab.converge(&wanted).is_empty());
        assert_eq!(ip("route show 10.0.1.0/24").lines().count(), 1);
        assert_eq!(ip("route show 10.0.99.0/24").trim(), "");
    });
}

#[test]
fn a_blackhole_gives_way_to_the_bridge_of_the_same_range() {
    isolated(|| {
        let mut lab = lab();
        let mut wanted = State::new();
        wanted.insert(Key::Route(v4(40000)), Object::Route(Route::ours(Via::Blackhole)));
        lab.converge(&wanted);
        let pod = "10.156.64.5".parse().unwrap();
        assert_eq!(Links::open().unwrap().reach(pod).unwrap(), None);
        ip("link add cni0 type bridge");
        ip("addr add 10.156.64.1/24 dev cni0");
        ip("link set cni0 up");
        let reach = Links::open().unwrap().reach(pod).unwrap().expect("through the bridge");
        assert_eq!(reach.source, Some("10.156.64.1".parse().unwrap()));
        assert!(lab.converge(&wanted).is_empty());
    });
}

#[test]
fn on_link_means_through_the_uplink_without_a_gateway() {
    isolated(|| {
        let mut lab = lab();
        ip("route add default via 192.168.0.254");
        ip("link add other type veth peer name otherfar");
        ip("link set other up");
        ip("addr add 172.16.0.1/24 dev other");
        ip("route add prohibit 203.0.113.0/24");
        let ask = ["192.168.3.4", "8.8.8.8", "172.16.0.9", "192.168.200.1", "203.0.113.1", "fd00::9", "2001:db8::1"];
        let ask: Vec<IpAddr> = ask.iter().map(|ip| ip.parse().unwrap()).collect();
        let answers: Vec<bool> = lab.kernel.on_link(&ask).into_iter().map(Result::unwrap).collect();
        assert_eq!(answers, [true, false, false, false, false, true, false]);
        let mut links = Links::open().unwrap();
        assert_eq!(links.default_links(Family::V4).unwrap(), [lab.uplink]);
        ip("route add default via 172.16.0.254 metric 50");
        ip("route add default via 172.16.0.253 metric 0 table 99");
        ip("route add prohibit default metric 7");
        (0..100).for_each(|n| drop(ip(&format!("route add 0.0.0.{n}/32 dev up0"))));
        let other = nix::net::if_::if_nametoindex("other").unwrap();
        assert_eq!(links.default_links(Family::V4).unwrap(), [lab.uplink, other], "the preferred one first");
        ip("route del default via 192.168.0.254");
        assert_eq!(links.default_links(Family::V4).unwrap(), [other]);
        ip("route add default via 192.168.0.254");
        assert!(links.default_links(Family::V6).unwrap().is_empty());
        let reach = links.reach(ask[1]).unwrap().unwrap();
        assert_eq!(reach.gateway, Some("192.168.0.254".parse().unwrap()));
        assert_eq!((reach.link, reach.source), (lab.uplink, Some(OWN_V4.into())));
    });
}

#[test]
fn a_gateway_that_cannot_be_is_explained() {
    isolated(|| {
        let mut lab = lab();
        let via = Via::Direct { gateway: "203.0.113.9".parse().unwrap() };
        let error = lab.apply_one(Key::Route(v4(1)), None, Some(Object::Route(Route::ours(via)))).unwrap_err();
        assert_eq!(
            error.to_string(),
            "add route 10.0.1.0/24 via 203.0.113.9: ENETUNREACH: Network is unreachable: \
             Nexthop has invalid gateway (the uplink has no address in the gateway's network)"
        );
    });
}
