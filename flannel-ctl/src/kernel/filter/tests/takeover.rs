//! From flannel's rules to ours, between flavours, and past a FORWARD chain that drops.

use super::{
    lab::{Node, isolated, sh},
    *,
};

/// flannel 0.28's rules in the iptables tool of that kind.
fn flannel_iptables(kind: &str) {
    for (tool, network, subnet, multicast) in [
        ("iptables", "10.244.0.0/16", "10.244.1.0/24", "224.0.0.0/4"),
        ("ip6tables", "fd00:244::/32", "fd00:244:0:1::/64", "ff00::/8"),
    ] {
        let rules = format!(
            r#"*nat
:FLANNEL-POSTRTG - [0:0]
-A POSTROUTING -m comment --comment "flanneld masq" -j FLANNEL-POSTRTG
-A FLANNEL-POSTRTG -m mark --mark 0x4000/0x4000 -m comment --comment "flanneld masq" -j RETURN
-A FLANNEL-POSTRTG -s {subnet} -d {network} -m comment --comment "flanneld masq" -j RETURN
-A FLANNEL-POSTRTG -s {network} ! -d {multicast} -m comment --comment "flanneld masq" -j MASQUERADE --random-fully
COMMIT
*filter
:FLANNEL-FWD - [0:0]
-A FORWARD -m comment --comment "flanneld forward" -j FLANNEL-FWD
-A FLANNEL-FWD -s {network} -m comment --comment "flanneld forward" -j ACCEPT
-A FLANNEL-FWD -d {network} -m comment --comment "flanneld forward" -j ACCEPT
COMMIT
"#
        );
        sh(&format!("{tool}-{kind}-restore --noflush <<'END'\n{rules}END\n"));
    }
}

fn flannel_nft() {
    sh("nft 'table ip flannel-ipv4 { chain postrtg { type nat hook postrouting priority srcnat; ip saddr 10.244.0.0/16 masquerade fully-random; }; }
        table ip6 flannel-ipv6 { chain postrtg { type nat hook postrouting priority srcnat; ip6 saddr fd00:244::/32 masquerade fully-random; }; }'");
}

/// Every tool's rules, without what iptables leaves empty behind.
fn all_rules() -> String {
    sh("nft list ruleset; for t in iptables ip6tables; do $t-nft-save; $t-legacy-save; done")
}

#[test]
fn flannels_rules_give_way_without_a_packet_unmasqueraded() {
    for before in ["nft", "legacy", "tables"] {
        isolated(move || {
            let node = Node::new();
            if before == "tables" {
                flannel_nft();
            } else {
                flannel_iptables(before);
            }
            let probe = node.probe();
            let mut filter = HostFilter::open(Choice::Auto);
            converge(&mut filter, &wanted(&policy(), &[]));
            probe.all_masqueraded();
            let rules = all_rules();
            assert!(
                !rules.contains("FLANNEL") && !rules.contains("flanneld") && !rules.contains("flannel-ipv"),
                "{rules}"
            );
        });
    }
}

#[test]
fn the_flavour_changes_back_and_forth_under_traffic() {
    isolated(|| {
        let node = Node::new();
        let wanted = wanted(&policy(), &[]);
        converge(&mut HostFilter::open(Choice::Nft), &wanted);
        let probe = node.probe();
        for choice in [Choice::Iptables, Choice::Nft, Choice::Iptables] {
            let mut filter = HostFilter::open(choice);
            converge(&mut filter, &wanted);
            assert_eq!(converge(&mut HostFilter::open(choice), &wanted), 0, "a restart changes nothing");
        }
        probe.all_masqueraded();
        let rules = all_rules();
        assert!(!rules.contains("flannel-ctl") && rules.contains("FLANNEL-POSTRTG"), "{rules}");
    });
}

#[test]
fn iptables_rules_that_somebody_touched_are_mended_in_one_transaction() {
    isolated(|| {
        let mut policy = policy();
        policy.masquerade[0].exclude = vec!["192.168.0.0/16".parse().unwrap(), "203.0.113.9/32".parse().unwrap()];
        policy.masquerade[1].fully_random = false;
        let wanted = wanted(&policy, &[]);
        for variant in [Variant::Nft, Variant::Legacy] {
            let tool = variant.name();
            let mut filter = HostFilter::open(Choice::Iptables);
            filter.flavour = Flavour::Iptables(variant);
            converge(&mut filter, &wanted);
            let clean = sh(&format!("{tool}-save | grep -v '^#'"));
            for damage in [
                "-t nat -F",
                "-F",
                "-t nat -D FLANNEL-POSTRTG 2",
                "-t nat -I FLANNEL-POSTRTG -j RETURN",
                "-t nat -A POSTROUTING -j FLANNEL-POSTRTG",
                "-D FLANNEL-FWD 1",
            ] {
                sh(&format!("{tool} {damage}"));
                filter.tools.forget();
                assert_ne!(observed(&mut filter, &wanted), wanted, "unnoticed: {tool} {damage}");
                converge(&mut filter, &wanted);
                assert_eq!(sh(&format!("{tool}-save | grep -v '^#'")), clean, "after {tool} {damage}");
            }
            filter.cleanup().unwrap();
            assert!(!sh(&format!("{tool}-save")).contains("FLANNEL"));
        }
    });
}

#[test]
fn a_forward_chain_that_drops_is_told_to_let_ours_through() {
    for kind in ["nft", "legacy"] {
        for damage in ["-P FORWARD DROP", "-A FORWARD -j REJECT"] {
            isolated(move || {
                let node = Node::new();
                let tool = format!("iptables-{kind}");
                sh(&format!("{tool} {damage}; {} {damage}", tool.replace("iptables", "ip6tables")));
                let before = sh(&format!("{tool}-save | grep -v '^#'"));
                let mut filter = HostFilter::open(Choice::Nft);
                converge(&mut filter, &wanted(&policy(), &[]));
                assert_eq!(sh(&format!("{tool}-save")).matches("-j FLANNEL-FWD").count(), 1);
                assert_eq!(converge(&mut HostFilter::open(Choice::Nft), &wanted(&policy(), &[])), 0);
                let probe = node.probe();
                probe.all_masqueraded();
                filter.cleanup().unwrap();
                assert_eq!(sh(&format!("{tool}-save | grep -v '^#'")), before);
            });
        }
    }
}

#[test]
fn a_held_lock_delays_the_loop_by_seconds_only_and_is_named() {
    isolated(|| {
        // The lock is the whole machine's: a /run of our own keeps it to this test.
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
        sh("mount --make-rprivate / && mount -t tmpfs ffilter /run");
        flannel_iptables("legacy");
        let file = std::fs::File::create("/run/xtables.lock").unwrap();
        let lock = nix::fcntl::Flock::lock(file, nix::fcntl::FlockArg::LockExclusive).unwrap();
        let mut filter = HostFilter::open(Choice::Nft);
        let watch = xtask::lab::Stopwatch::start();
        let wanted = wanted(&policy(), &[]);
        let op = Op { key: Key::Filter, from: None, to: wanted.get(&Key::Filter).cloned() };
        let error = filter.apply(&[op]).remove(0).unwrap_err();
        watch.assert_within(std::time::Duration::from_secs(6));
        assert!(error.to_string().contains("lock"), "{error}");
        assert!(sh("nft list table inet flannel-ctl").contains("masquerade"), "ours is in force all the same");
        drop(lock);
        converge(&mut filter, &wanted);
        assert!(!all_rules().contains("flanneld"));
    });
}

#[test]
fn only_what_others_do_wakes_us() {
    isolated(|| {
        let mut filter = HostFilter::open(Choice::Nft);
        let (notices, woken) = std::sync::mpsc::channel();
        Listener::start(filter.own(), move |touched| notices.send(touched).is_ok()).unwrap();
        converge(&mut filter, &wanted(&guarded(false), &[("192.0.2.9", "10.244.9.0/24")]));
        sh("nft 'table ip theirs { chain c { type nat hook postrouting priority srcnat; }; }'");
        // A marker that does concern us, behind everything that does not.
        sh("nft add rule inet flannel-ctl forward accept");
        let next = || woken.recv_timeout(std::time::Duration::from_secs(20)).unwrap();
        assert_eq!([next(), next()], [Touched::Others, Touched::Rules], "each change by others is told once");
        assert!(woken.try_recv().is_err(), "and nothing else");
    });
}

#[test]
fn who_would_kill_the_traffic_is_named() {
    isolated(|| {
        let mut filter = HostFilter::open(Choice::Nft);
        sh("echo 0 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding");
        sh("nft 'table inet strict { chain onward { type filter hook forward priority 0; policy drop; }; }'");
        sh("iptables-nft -P FORWARD DROP");
        let findings = filter.diagnose(&policy());
        let has = |severity, word: &str| findings.iter().any(|f| f.severity == severity && f.text.contains(word));
        assert!(has(Severity::Fatal, "IPv4 forwarding is off"), "{findings:#?}");
        assert!(!has(Severity::Fatal, "IPv6 forwarding"), "{findings:#?}");
        assert!(has(Severity::Fatal, "table strict, chain onward"), "{findings:#?}");
        assert!(has(Severity::Note, "FLANNEL-FWD"), "{findings:#?}");
    });
}
