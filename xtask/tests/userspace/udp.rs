//! Backend udp: flannel's own wire, beside what speaks it as flannel's daemon does.

use std::{net::IpAddr, path::Path};

use xtask::lab::{Capture, Cluster, Family, Netns, Process, skip_unless, transfer, wait};

use crate::{TOOLS, site::count};

pub(crate) const NETWORK: &str = r#"{"Network":"10.244.0.0/16","Backend":{"Type":"udp"}}"#;

/// A node of flannel's: a lease as flannel writes it, and its proxy.
struct Flannel {
    netns: Netns,
    _proxy: Process,
}

impl Flannel {
    const INNER: &str = "10.244.200.0";

    fn start(cluster: &Cluster, prefix: &str) -> Self {
        let netns = Netns::create(format!("{prefix}9")).unwrap();
        cluster.underlay().plug(&netns, 9).unwrap();
        netns.settle("eth0").unwrap();
        let lease = cluster.etcdctl(&["lease", "grant", "3600"]).unwrap();
        let lease = lease.split_whitespace().nth(1).unwrap().to_owned();
        let value = r#"{"PublicIP":"192.168.0.10","PublicIPv6":null}"#;
        cluster.etcdctl(&["put", "--lease", &lease, "/coreos.com/network/subnets/10.244.200.0-24", value]).unwrap();
        let peers = cluster.nodes().iter().map(|node| {
            let subnet = node.subnet_env().unwrap().subnet(Family::V4).unwrap().to_owned();
            format!("{}={}", subnet.replace(".1/", ".0/"), node.address(Family::V4))
        });
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/userspace/flannel_udp.py");
        let mut command = netns.command("python3");
        command.arg(script).args(["192.168.0.10", "8285", Self::INNER, "10.244.0.0/16"]).args(peers);
        let proxy = Process::spawn("flannel's proxy", &mut command, &cluster.dir().join("proxy.log")).unwrap();
        wait::until("flannel's proxy", wait::LONG, || proxy.log().contains("ready").then_some(()))
            .unwrap_or_else(|error| panic!("{error}: {}", proxy.log()));
        Self { netns, _proxy: proxy }
    }
}

#[test]
fn a_udp_network_is_shared_with_flannels_own_daemons() {
    if skip_unless(&[&TOOLS[..], &["etcdctl", "python3", "ping"]].concat()) {
        return;
    }
    let cluster = Cluster::builder("usudp").nodes(2).network(NETWORK).start().unwrap();
    let node = cluster.node(1);
    node.wait_converged().unwrap();
    assert!(cluster.wait_mesh(wait::LONG).unwrap().whole());
    assert_eq!(node.status().unwrap()["datapath"]["kind"], "userspace");
    assert_eq!(node.subnet_env().unwrap().get("MTU"), Some("1472"));
    let routes = node.netns().run("ip route show dev flannel0").unwrap();
    assert_eq!(routes.lines().count(), 1, "one for the whole network: {routes}");
    assert!(routes.starts_with("10.244.0.0/16 proto 102"), "{routes}");
    let lease = cluster.etcdctl(&["get", "--prefix", "/coreos.com/network/subnets/"]).unwrap();
    assert!(!lease.contains("BackendType") && !lease.contains("BackendData"), "{lease}");

    let (one, two) = (cluster.node(1).pod(), cluster.node(2).pod());
    transfer(one.netns(), two.netns(), two.address(Family::V4).unwrap(), 8 << 20).unwrap();
    transfer(two.netns(), one.netns(), one.address(Family::V4).unwrap(), 8 << 20).unwrap();

    let flannel = Flannel::start(&cluster, "usudp");
    wait::until("flannel's node to be a peer", wait::LONG, || {
        (node.status().ok()?["peers"]["programmed"] == 2).then_some(())
    })
    .unwrap();
    let inner: IpAddr = Flannel::INNER.parse().unwrap();
    let capture = Capture::start(node.netns(), "eth0", "udp port 8285").unwrap();
    let answer = node.netns().run(&format!("ping -c 3 -i 0.2 -W 5 {inner}")).unwrap();
    assert!(answer.contains("3 received") && answer.contains("ttl=62"), "a hop at each end: {answer}");
    let packets = capture.stop().unwrap();
    assert_eq!(packets.complaints().unwrap(), Vec::<String>::new());
    let rows = packets.fields("", &["udp.srcport", "udp.dstport", "udp.length"]).unwrap();
    assert!(rows.len() >= 6 && rows.iter().all(|row| row[1] == "8285" && row[2] == "92"), "{rows:?}");
    transfer(one.netns(), &flannel.netns, inner, 1 << 20).unwrap();
    transfer(&flannel.netns, one.netns(), one.address(Family::V4).unwrap(), 1 << 20).unwrap();

    // Nobody has leased it.
    let told = node.netns().command("ping").args(["-c", "1", "-W", "5", "10.244.254.1"]).output().unwrap();
    let told = String::from_utf8(told.stdout).unwrap();
    assert!(told.contains("Destination Net Unreachable"), "{told}");
    let counted = || (count(node, Family::V4, "sent_no_route") > 0).then_some(());
    wait::until("it to be counted", wait::LONG, counted).unwrap();
}

#[test]
fn a_udp_network_with_ipv6_is_refused_by_name() {
    if skip_unless(&TOOLS) {
        return;
    }
    let network =
        r#"{"Network":"10.244.0.0/16","EnableIPv6":true,"IPv6Network":"fd10:244::/48","Backend":{"Type":"udp"}}"#;
    let cluster = Cluster::builder("usbad").nodes(1).network(NETWORK).prepare().unwrap();
    let error = cluster.publish(network).unwrap_err().to_string();
    assert!(error.contains("Backend.Type \"udp\"") && error.contains("IPv6"), "{error}");
}
