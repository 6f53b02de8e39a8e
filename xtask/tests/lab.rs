//! lane: netns
//!
//! The lab's instruments measure what they say.
#![expect(clippy::unwrap_used, reason = "a test's helper functions are tests too")]

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use xtask::lab::{Capture, Netns, Ping, PingReport, remove_leftovers, run, skip_unless};

const NEAR: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const FAR: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
const FAR_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2);

fn two_hosts(prefix: &str) -> (Netns, Netns) {
    remove_leftovers(prefix).unwrap();
    let here = Netns::create(format!("{prefix}1")).unwrap();
    let there = Netns::create(format!("{prefix}2")).unwrap();
    here.ip(&format!(
        "link add eth0 type veth peer name eth0 netns {}\naddress add {NEAR}/24 dev eth0\n\
         address add fd00::1/64 dev eth0\nlink set eth0 up\n",
        there.name()
    ))
    .unwrap();
    there.ip(&format!("address add {FAR}/24 dev eth0\naddress add {FAR_V6}/64 dev eth0\nlink set eth0 up\n")).unwrap();
    for host in [&here, &there] {
        host.settle("eth0").unwrap();
    }
    (here, there)
}

fn ping_for(from: &Netns, to: IpAddr, replies: u64) -> PingReport {
    let ping = Ping::start(from, to, Duration::from_millis(1)).unwrap();
    ping.more(replies).unwrap();
    ping.stop()
}

#[test]
fn a_clean_link_loses_nothing_in_either_family() {
    if skip_unless(&["ip"]) {
        return;
    }
    let (here, _there) = two_hosts("flab-clean");
    for to in [IpAddr::V4(FAR), IpAddr::V6(FAR_V6)] {
        let report = ping_for(&here, to, 300);
        report.assert_nothing_lost();
        assert!(report.percentile(50).unwrap() < Duration::from_secs(1), "{report}");
    }
}

#[test]
fn the_ping_counts_exactly_what_a_filter_drops() {
    if skip_unless(&["ip", "nft"]) {
        return;
    }
    let (here, there) = two_hosts("flab-drop");
    for rule in [
        "add table ip t",
        "add chain ip t in { type filter hook input priority 0 ; }",
        "add rule ip t in icmp type echo-request numgen inc mod 10 0 counter drop",
    ] {
        run(there.command("nft").args(rule.split(' '))).unwrap();
    }
    let report = ping_for(&here, FAR.into(), 270);
    let rules = there.run("nft list chain ip t in").unwrap();
    let dropped = rules.split("counter packets ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap();
    assert_eq!(report.lost().to_string(), dropped, "{report}\n{rules}");
    assert!(report.lost() >= 30, "{report}");
    assert_eq!(report.longest_gap, Duration::from_millis(1), "one in ten, never two in a row: {report}");
}

#[test]
fn an_outage_is_seen_with_its_length() {
    if skip_unless(&["ip"]) {
        return;
    }
    let (here, there) = two_hosts("flab-gap");
    there.ip("neighbour replace 192.0.2.1 lladdr 02:00:00:00:00:01 dev eth0 nud permanent\n").unwrap();
    let ping = Ping::start(&here, FAR.into(), Duration::from_millis(1)).unwrap();
    let before = ping.sent();
    xtask::lab::wait::until("100 requests sent", Duration::from_secs(10), || {
        (ping.sent() > before + 100).then_some(())
    })
    .unwrap();
    there.ip("neighbour del 192.0.2.1 dev eth0\n").unwrap();
    ping.more(50).unwrap();
    let report = ping.stop();
    assert!(report.lost() >= 100, "{report}");
    assert!(report.longest_gap >= Duration::from_millis(100), "{report}");
    assert_eq!(report.first_lost, Some(Duration::ZERO), "{report}");
}

#[test]
fn a_capture_shows_the_tunnel_and_finds_nothing_wrong_with_it() {
    if skip_unless(&["ip", "tcpdump", "tshark"]) {
        return;
    }
    let (here, there) = two_hosts("flab-wire");
    for (netns, local, remote, inner) in [(&here, NEAR, FAR, "10.9.0.1"), (&there, FAR, NEAR, "10.9.0.2")] {
        netns
            .ip(&format!(
                "link add vx type vxlan id 7 local {local} remote {remote} dstport 8472\n\
                 address add {inner}/24 dev vx\nlink set vx up\n"
            ))
            .unwrap();
    }
    let capture = Capture::start(&there, "eth0", "udp port 8472").unwrap();
    Ping::until_answered(&here, "10.9.0.2".parse().unwrap()).unwrap();
    ping_for(&here, "10.9.0.2".parse().unwrap(), 20).assert_nothing_lost();
    let packets = capture.stop().unwrap();
    let rows = packets.fields("vxlan && icmp.type == 8", &["ip.src", "vxlan.vni", "udp.dstport"]).unwrap();
    assert!(rows.len() >= 20, "{rows:?}");
    for row in rows {
        assert_eq!(row, ["192.0.2.1,10.9.0.1", "7", "8472"]);
    }
    assert_eq!(packets.complaints().unwrap(), Vec::<String>::new());
    let (received, sent) = there.packets("vx").unwrap();
    assert!(received >= 20 && sent >= 20, "{received} received, {sent} sent");
}

#[test]
fn leftovers_are_removed_with_their_processes_and_nothing_else_is() {
    if skip_unless(&["ip"]) {
        return;
    }
    let ours = ["flab-left1", "flab-left12-pod", "flab-left-net"];
    let others = ["flab-left", "flab-leftx", "flab-left1x"];
    let guards: Vec<_> = ours.into_iter().chain(others).map(|name| Netns::create(name).unwrap()).collect();
    let mut sleeper = guards[0].command("sleep").arg("1000").spawn().unwrap();
    remove_leftovers("flab-left").unwrap();
    assert!(!sleeper.wait().unwrap().success(), "killed");
    let left = Netns::list();
    assert!(ours.iter().all(|name| !left.iter().any(|l| l == name)), "{left:?}");
    assert!(others.iter().all(|name| left.iter().any(|l| l == name)), "{left:?}");
    let (gone, there): (Vec<_>, Vec<_>) = guards.into_iter().partition(|guard| ours.contains(&guard.name()));
    gone.into_iter().for_each(std::mem::forget);
    drop(there);
}
