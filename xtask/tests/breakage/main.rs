//! lane: e2e
//!
//! Whatever somebody else breaks on a node is mended on notice, and nothing else is touched.
#![expect(clippy::unwrap_used, reason = "a test's helper functions are tests too")]

mod site;
mod strangers;

use std::net::IpAddr;

use nix::sys::signal::Signal;
use site::{Cost, Site};
use xtask::lab::{Cluster, Family, Launch, Stopwatch, SubnetEnv, skip_unless, wait};

const TOOLS: [&str; 5] = ["ip", "bridge", "nft", "etcdctl", "ethtool"];

#[test]
fn a_device_that_is_deleted_downed_or_changed_is_as_before() {
    if skip_unless(&TOOLS) {
        return;
    }
    let site = Site::start("ffdev");
    for device in ["flannel.1", "flannel-v6.1"] {
        site.mended(&format!("{device} deleted"), Cost::Packets, || site.ip(&format!("link del {device}")));
        site.mended(&format!("{device} down"), Cost::Packets, || site.ip(&format!("link set {device} down")));
        site.mended(&format!("{device} down and up"), Cost::Packets, || {
            site.ip(&format!("link set {device} down\nlink set {device} up"));
        });
        site.mended(&format!("{device} MTU lowered"), Cost::Nothing, || {
            site.ip(&format!("link set {device} mtu 1400"));
        });
        site.mended(&format!("{device} MAC changed"), Cost::Packets, || {
            site.ip(&format!("link set {device} address 02:00:00:00:66:01"));
        });
        site.mended(&format!("{device} replaced by one of another VNI"), Cost::Packets, || {
            let daemon = site.cluster.node(1);
            daemon.signal(Signal::SIGSTOP).unwrap();
            site.ip(&format!(
                "link del {device}\nlink add {device} type vxlan id 4242 dstport 8472 dev eth0\nlink set {device} up"
            ));
            daemon.signal(Signal::SIGCONT).unwrap();
        });
    }
    let other_v4 = "192.168.77.77";
    site.mended("flannel.1 local changed", Cost::Packets, || {
        site.ip(&format!("link set flannel.1 type vxlan id 1 local {other_v4}"));
    });
    site.mended("flannel.1 address removed", Cost::Packets, || site.ip("address flush dev flannel.1"));
    site.mended("flannel-v6.1 address removed", Cost::Nothing, || {
        site.ip("address flush dev flannel-v6.1 scope global");
    });
    site.mended("flannel.1 learning switched on", Cost::Nothing, || {
        site.ip("link set flannel.1 type vxlan id 1 learning");
    });
}

#[test]
fn flushed_tables_are_filled_again_and_stale_entries_of_ours_go() {
    if skip_unless(&TOOLS) {
        return;
    }
    let site = Site::start("fftab");
    site.mended("IPv4 routes flushed", Cost::Packets, || site.delete_routes("-4 route show proto 102"));
    site.mended("IPv6 routes flushed", Cost::Packets, || site.flush("-6 route flush proto 102"));
    site.mended("IPv4 neighbours flushed", Cost::Packets, || site.flush("-4 neighbour flush dev flannel.1 nud all"));
    site.mended("IPv6 neighbours flushed", Cost::Packets, || {
        site.flush("-6 neighbour flush dev flannel-v6.1 nud all");
    });
    for device in ["flannel.1", "flannel-v6.1"] {
        let entries = site.cluster.node(1).netns().run(&format!("bridge fdb show dev {device}")).unwrap();
        site.mended(&format!("FDB of {device} emptied"), Cost::Packets, || {
            for mac in entries.lines().filter_map(|line| line.split(' ').next()) {
                site.run(&format!("bridge fdb del {mac} dev {device}"));
            }
        });
        site.mended(&format!("FDB of {device} led astray"), Cost::Packets, || {
            let to = if device == "flannel.1" { "192.168.66.66" } else { "fd77::6666" };
            for mac in entries.lines().filter_map(|line| line.split(' ').next()) {
                site.run(&format!("bridge fdb replace {mac} dev {device} dst {to}"));
            }
        });
    }
    site.mended("nexthops flushed", Cost::Packets, || site.flush("nexthop flush proto 102"));
    site.mended("everything flushed at once", Cost::Packets, || {
        site.flush("nexthop flush proto 102");
        site.flush("neighbour flush dev flannel.1 nud all");
        site.flush("neighbour flush dev flannel-v6.1 nud all");
        site.flush("-6 route flush proto 102");
    });
    site.mended("a stale route, neighbour and FDB entry", Cost::Nothing, || {
        site.ip("route add 10.244.253.0/26 via 10.244.253.0 dev flannel.1 onlink proto 102\n\
                 route add fd10:244:0:fdfd::/64 dev flannel-v6.1 proto 102\n\
                 neighbour add 10.244.253.0 lladdr 02:00:00:00:66:02 dev flannel.1 nud permanent");
        site.run("bridge fdb add 02:00:00:00:66:02 dev flannel.1 dst 192.168.66.66");
    });
    site.mended("a stale nexthop with its route", Cost::Nothing, || {
        // Faster than the second step, unless it stands still.
        site.cluster.node(1).signal(Signal::SIGSTOP).unwrap();
        site.ip("nexthop add id 183827712 via 10.244.253.0 dev flannel.1 onlink proto 102\n\
                 route add 10.244.253.64/26 nhid 183827712 proto 102");
        site.cluster.node(1).signal(Signal::SIGCONT).unwrap();
    });
    let peer = site.cluster.node(2).subnet_env().unwrap();
    let net = base(&peer, Family::V4);
    site.mended("a route replaced by one that leads elsewhere", Cost::Packets, || {
        site.ip(&format!("route replace {net} dev dum0 proto 102"));
    });
    site.ip("neighbour add 10.244.253.9 lladdr 02:00:00:00:66:03 dev flannel.1 nud stale");
    site.mended("a flushed route beside a dynamic neighbour", Cost::Packets, || {
        site.ip(&format!("route del {net} proto 102"));
    });
    let neighbours = site.cluster.node(1).netns().run("ip neighbour show dev flannel.1").unwrap();
    assert!(neighbours.contains("10.244.253.9 lladdr 02:00:00:00:66:03"), "{neighbours}");
}

#[test]
fn flushed_packet_filters_are_restored_without_a_lost_packet() {
    if skip_unless(&TOOLS) {
        return;
    }
    let site = Site::start("ffnft");
    site.mended("our table deleted", Cost::Nothing, || site.run("nft delete table inet flannel-ctl"));
    site.mended("our table flushed", Cost::Nothing, || site.run("nft flush table inet flannel-ctl"));
    site.mended("our masquerade chain flushed", Cost::Nothing, || {
        site.run("nft flush chain inet flannel-ctl postrouting");
    });
    site.mended("the guard's peers emptied", Cost::Packets, || site.run("nft flush set inet flannel-ctl peers-v4"));
    site.mended("a rule inserted into ours", Cost::Packets, || {
        site.run("nft insert rule inet flannel-ctl forward drop");
    });
    // Other people's rules went with it, by their own hand.
    site.mended_unless("the ruleset flushed", Cost::Nothing, |line| !of_nft(line), || site.run("nft flush ruleset"));
}

#[test]
fn flushed_iptables_are_restored_without_a_lost_packet() {
    if skip_unless(&[&TOOLS[..], &["iptables-nft", "iptables-legacy"]].concat()) {
        return;
    }
    let launch = Launch { args: ["--packet-filter", "iptables"].map(String::from).to_vec(), ..Launch::default() };
    let site = Site::of(Cluster::builder("ffipt").nodes(3).dual_stack().launches(vec![launch]).start().unwrap());
    let report = site.cluster.node(1).status().unwrap()["filter"].clone();
    assert_eq!(report["flavour"], "iptables", "{report}");
    let table = if site.before.only("iptables-nft-save").is_empty() { "legacy" } else { "nft" };
    assert!(!site.before.only(&format!("iptables-{table}-save")).is_empty(), "{}", site.before);
    println!("flavour: {report}");
    for ip in ["iptables", "ip6tables"] {
        for flush in ["-t nat -F", "-t filter -F", "-t nat -F POSTROUTING", "-F FORWARD"] {
            site.mended(&format!("{ip} {flush}"), Cost::Nothing, || site.run(&format!("{ip}-{table} {flush}")));
        }
    }
}

#[test]
fn the_uplink_is_followed() {
    if skip_unless(&TOOLS) {
        return;
    }
    let site = Site::start("ffupl");
    let node = site.cluster.node(1);
    let subnet = node.subnet_env().unwrap();
    site.mended("uplink down and up", Cost::Packets, || {
        site.ip("link set eth0 down\nlink set eth0 up\n\
                 address replace fd77::1/64 dev eth0\n\
                 route replace default via 192.168.255.254\nroute replace default via fd77::ffff dev eth0");
    });
    for (mtu, pods) in [(1400, 1330), (1500, 1430)] {
        let pings = site.traffic();
        site.ip(&format!("link set eth0 mtu {mtu}"));
        wait::until("the MTU to be followed", wait::SHORT, || {
            let env = node.subnet_env().ok()?;
            let device = node.netns().run("ip -o link show dev flannel.1").ok()?;
            (env.get("MTU") == Some(&pods.to_string()) && device.contains(&format!("mtu {}", mtu - 50))).then_some(())
        })
        .unwrap();
        for report in pings.map(xtask::lab::Ping::stop) {
            report.assert_nothing_lost();
        }
    }
    site.mended("nothing (after the MTU is back)", Cost::Nothing, || {});

    let moves: [(&str, IpAddr); 2] = [("-4", "192.168.9.9".parse().unwrap()), ("-4", node.address(Family::V4))];
    let mut old = node.address(Family::V4);
    for (_, new) in moves {
        let pings = site.traffic();
        let watch = Stopwatch::start();
        site.ip(&format!(
            "address del {old}/16 dev eth0\naddress add {new}/16 dev eth0\nroute replace default via 192.168.255.254"
        ));
        wait::until("the tunnel to leave from the new address", wait::SHORT, || {
            let device = node.netns().run("ip -d -o link show dev flannel.1").ok()?;
            device.contains(&format!(" local {new} ")).then_some(())
        })
        .unwrap();
        let here = watch.elapsed();
        for peer in [2, 3] {
            wait::until("the peers to follow", wait::LONG, || {
                let fdb = site.cluster.node(peer).netns().run("bridge fdb show dev flannel.1").ok()?;
                (fdb.contains(&format!(" dst {new} ")) && !fdb.contains(&format!(" dst {old} "))).then_some(())
            })
            .unwrap();
        }
        let (there, unstalled) = (watch.elapsed(), watch.unstalled());
        for ping in &pings {
            ping.more(50).unwrap();
        }
        let reports = pings.map(xtask::lab::Ping::stop);
        println!("uplink {old} -> {new}: here after {here:.0?}, peers after {there:.0?}; {}", site::lost(&reports));
        assert_eq!(node.subnet_env().unwrap(), subnet, "the subnet stays");
        assert!(unstalled < std::time::Duration::from_secs(5), "peers follow after {there:?}");
        site.wait_quiet();
        old = new;
    }
    site.mended("nothing (after the address is back)", Cost::Nothing, || {});
}

#[test]
fn notices_that_overflowed_while_the_daemon_stood_still_are_made_up_for() {
    if skip_unless(&TOOLS) {
        return;
    }
    let site = Site::start("ffovf");
    let node = site.cluster.node(1);
    site.mended("10,000 link events and a flush while stopped", Cost::Packets, || {
        node.signal(Signal::SIGSTOP).unwrap();
        for _ in 0..20 {
            site.ip(&"link set dum0 mtu 1400\nlink set dum0 mtu 1500\n".repeat(250));
        }
        site.flush("-6 route flush proto 102");
        site.ip("nexthop flush proto 102\nlink set flannel.1 mtu 1300");
        node.signal(Signal::SIGCONT).unwrap();
    });
}

/// A line of `nft list` in the strangers' dump.
fn of_nft(line: &str) -> bool {
    ["table ip strangers", "chain c", "type filter hook", "ip saddr 198.51.100.66", "}"]
        .iter()
        .any(|start| line.starts_with(start))
}

fn base(env: &SubnetEnv, family: Family) -> String {
    let net = env.subnet(family).unwrap();
    let (address, length) = net.split_once('/').unwrap();
    match address.parse().unwrap() {
        IpAddr::V4(ip) => format!("{}/{length}", std::net::Ipv4Addr::from_bits(ip.to_bits() - 1)),
        IpAddr::V6(ip) => format!("{}/{length}", std::net::Ipv6Addr::from_bits(ip.to_bits() - 1)),
    }
}
