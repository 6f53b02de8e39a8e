//! In force is what is exactly so; what is not is made so.

use std::time::Instant;

use super::{
    lab::{Node, isolated, sh},
    *,
};

fn open() -> HostFilter {
    let filter = HostFilter::open(Choice::Nft);
    assert_eq!(filter.flavour(), Flavour::Nft, "{}", filter.why());
    filter
}

#[test]
fn a_restarted_daemon_finds_its_rules_and_touches_nothing() {
    isolated(|| {
        let wanted = wanted(&guarded(false), &[("192.0.2.9", "10.244.9.0/24"), ("2001:db8::9", "fd00:244:0:9::/64")]);
        assert_eq!(converge(&mut open(), &wanted), 3);
        let before = sh("nft -a list ruleset");
        assert_eq!(converge(&mut open(), &wanted), 0);
        assert_eq!(sh("nft -a list ruleset"), before);
    });
}

#[test]
fn whatever_is_done_to_the_table_shows_and_is_mended() {
    isolated(|| {
        let wanted = wanted(&guarded(false), &[("192.0.2.9", "10.244.9.0/24")]);
        let mut filter = open();
        converge(&mut filter, &wanted);
        let clean = sh("nft -s list ruleset");
        for damage in [
            "nft flush ruleset",
            "nft delete table inet flannel-ctl",
            "nft flush table inet flannel-ctl",
            "nft flush chain inet flannel-ctl postrouting",
            "nft delete rule inet flannel-ctl postrouting handle $(nft -a list chain inet flannel-ctl postrouting | sed -n 's/.*masquerade.*handle //p' | head -1)",
            "nft add rule inet flannel-ctl tunnel accept",
            "nft insert rule inet flannel-ctl forward drop",
            "nft add chain inet flannel-ctl evil '{ type filter hook input priority 0; policy drop; }'",
            "nft add rule inet flannel-ctl seal accept",
            "nft add chain inet flannel-ctl forward '{ policy drop; }'",
            "nft add table inet flannel-ctl '{ flags dormant; }'",
            "nft delete chain inet flannel-ctl seal",
            "nft flush set inet flannel-ctl peers-v4",
            "nft add element inet flannel-ctl peers-v4 '{ 198.51.100.1 . 0x0af40900 }'",
            "nft delete chain inet flannel-ctl guard; nft delete chain inet flannel-ctl tunnel; nft delete set inet flannel-ctl peers-v4; nft add set inet flannel-ctl peers-v4 '{ type ipv4_addr; }'",
        ] {
            sh(damage);
            assert_ne!(observed(&mut filter, &wanted), wanted, "unnoticed: {damage}");
            converge(&mut filter, &wanted);
            let now = sh("nft -s list ruleset");
            // The order of declarations in the listing follows their creation.
            assert_eq!(sorted(&now), sorted(&clean), "after {damage}");
        }
    });
}

#[test]
fn rules_are_replaced_without_a_packet_unmasqueraded() {
    isolated(|| {
        let node = Node::new();
        let mut filter = open();
        converge(&mut filter, &wanted(&policy(), &[]));
        let probe = node.probe();
        for round in 0..20 {
            let mut policy = guarded(round % 2 == 0);
            policy.masquerade[0].exclude.push(format!("198.51.{round}.0/24").parse().unwrap());
            let peer = format!("10.244.{}.0/24", round + 2);
            converge(&mut filter, &wanted(&policy, &[("198.51.100.7", &peer)]));
            if round % 5 == 0 {
                // Made anew as a whole, for this chain has no business here.
                sh("nft add chain inet flannel-ctl evil '{ type filter hook input priority 0; }'");
            }
        }
        probe.all_masqueraded();
    });
}

#[test]
fn excluded_destinations_see_the_pod_itself() {
    isolated(|| {
        let node = Node::new();
        let mut policy = policy();
        policy.masquerade[0].exclude.push("192.0.2.2/32".parse().unwrap());
        converge(&mut open(), &wanted(&policy, &[]));
        let receiver = node.world.run(|| std::net::UdpSocket::bind("192.0.2.2:9999").unwrap());
        node.pod.run(|| std::net::UdpSocket::bind("0.0.0.0:0").unwrap().send_to(b"x", "192.0.2.2:9999").unwrap());
        assert_eq!(receiver.recv_from(&mut [0; 8]).unwrap().1.ip(), std::net::IpAddr::from([10, 244, 1, 2]));
    });
}

#[test]
fn what_is_marked_for_kube_proxy_is_left_to_it() {
    isolated(|| {
        let node = Node::new();
        converge(&mut open(), &wanted(&policy(), &[]));
        // kube-proxy's mark, with another bit set beside it.
        sh("nft 'table ip kube { chain c { type filter hook prerouting priority mangle; meta mark set 0x5000; }; }'");
        let receiver = node.world.run(|| std::net::UdpSocket::bind("192.0.2.2:9999").unwrap());
        node.pod.run(|| std::net::UdpSocket::bind("0.0.0.0:0").unwrap().send_to(b"x", "192.0.2.2:9999").unwrap());
        assert_eq!(receiver.recv_from(&mut [0; 8]).unwrap().1.ip(), std::net::IpAddr::from([10, 244, 1, 2]));
    });
}

#[test]
fn cleanup_leaves_nothing_of_ours_and_all_of_others() {
    isolated(|| {
        sh(
            "nft 'table ip theirs { chain c { type nat hook postrouting priority srcnat; ip saddr 10.9.9.9 masquerade; }; }'",
        );
        sh(
            "iptables-nft -t nat -A POSTROUTING -s 10.8.8.8 -j MASQUERADE; iptables-legacy -A FORWARD -s 10.8.8.8 -j ACCEPT; iptables-legacy -P FORWARD DROP",
        );
        let all = "nft list ruleset; iptables-legacy-save | grep -v '^#'";
        let before = sh(all);
        let mut filter = open();
        converge(&mut filter, &wanted(&guarded(false), &[("192.0.2.9", "10.244.9.0/24")]));
        assert_ne!(sh(all), before);
        filter.cleanup().unwrap();
        assert_eq!(sh(all), before);
        filter.cleanup().unwrap();
    });
}

#[test]
fn one_join_costs_no_look_at_ten_thousand_others() {
    isolated(|| {
        let mut filter = open();
        let mut all = wanted(&guarded(false), &[]);
        for number in 0..10_000_u32 {
            let outer = std::net::Ipv4Addr::from(0x0a00_0000 + number);
            let inner = ipnet::Ipv4Net::new((0x6400_0000 + number * 256).into(), 24).unwrap();
            all.insert(Key::Guard(outer.into(), inner.into()), Object::Guard);
        }
        let begin = Instant::now();
        converge(&mut filter, &all);
        let everything = begin.elapsed();
        let key = Key::Guard("10.99.0.1".parse().unwrap(), "99.0.0.0/24".parse().unwrap());
        all.insert(key, Object::Guard);
        let begin = Instant::now();
        assert_eq!(filter.apply(&[Op { key, from: None, to: Some(Object::Guard) }]), [Ok(())]);
        let join = begin.elapsed();
        assert_eq!(observed(&mut filter, &all), all);
        let mut fresh = open();
        let begin = Instant::now();
        assert_eq!(observed(&mut fresh, &all), all);
        let look = begin.elapsed();
        eprintln!("10,000 peers: {everything:?}, one join: {join:?}, the first look: {look:?}");
        assert!(join * 5 < look, "a join costs {join:?}, a whole look {look:?}");
    });
}

fn sorted(listing: &str) -> Vec<&str> {
    let mut lines: Vec<_> = listing.lines().collect();
    lines.sort_unstable();
    lines
}
