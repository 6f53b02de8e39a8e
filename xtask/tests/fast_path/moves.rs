//! Pods and nodes that are replaced under a conversation.

use std::{fs, net::SocketAddr};

use serde_json::Value;
use xtask::lab::{Cluster, Family, Netns, wait};

use crate::{
    answering::Answering,
    site::{Site, skipped},
    talk::Talk,
};

/// Far longer than this test: what is honoured sooner is so because of a notice or a lease.
const FAR: [&str; 4] = ["--datapath", "ebpf", "--flow-validity", "600"];

#[test]
fn pods_that_are_replaced_or_moved_are_found_again() {
    if skipped(&[]) {
        return;
    }
    let site = Site::of(Cluster::builder("fppods").nodes(2).dual_stack(), &[&FAR]);
    let first = site.answering(2, Family::V4, 7000);
    let (tcp, talk) = (Talk::tcp(site.pod(1), first.address()), Talk::udp(site.pod(1), first.address()));
    tcp.more(300);
    site.until_fast(&tcp, &[1, 2]);

    // Another pod takes over its address, behind an interface of the same name.
    site.netns(2).ip("link del veth0\n").unwrap();
    let heard = first.heard();
    let replacement = Netns::create("fppods92-pod").unwrap();
    wire(&site, &replacement);
    let second = Answering::at(&replacement, first.address());
    site.until_fast(&talk, &[1, 2]);
    assert!(first.heard() <= heard + 1, "who is gone hears nothing");
    drop(tcp);

    // From the bridge to a route of its own.
    let pod = second.address().ip();
    site.netns(2).ip(&format!("link set veth0 nomaster\nroute add {pod}/32 dev veth0\n")).unwrap();
    site.netns(2).sysctl(&[("ipv4/conf/veth0/proxy_arp", "1")]).unwrap();
    site.until_fast(&talk, &[1, 2]);

    // Its end of the cable is called otherwise, and has another address.
    site.netns(2)
        .ip("link set veth0 down\nlink set veth0 name veth7\nlink set veth7 address 02:00:00:00:77:07 up\n")
        .unwrap();
    site.netns(2).ip(&format!("route replace {pod}/32 dev veth7\n")).unwrap();
    site.until_fast(&talk, &[1, 2]);
    site.alive();
}

/// As node 2's pod was wired.
fn wire(site: &Site, pod: &Netns) {
    let gateway = site.node(2).subnet_env().unwrap().subnet(Family::V4).unwrap().to_owned();
    let (gateway, length) = gateway.split_once('/').unwrap();
    site.netns(2)
        .ip(&format!(
            "link add veth0 mtu 1430 type veth peer name eth0 mtu 1430 netns {}\nlink set veth0 master cni0 up\n",
            pod.name()
        ))
        .unwrap();
    let address = site.pod_ip(2, Family::V4);
    pod.ip(&format!("address add {address}/{length} dev eth0\nlink set eth0 up\nroute add default via {gateway}\n"))
        .unwrap();
    pod.settle("eth0").unwrap();
}

#[test]
fn peers_that_change_or_leave_are_followed() {
    if skipped(&["etcdctl"]) {
        return;
    }
    let cluster = Cluster::builder("fppeer").nodes(3);
    let site = Site::of(cluster, &[&FAR]);
    let first = site.answering(2, Family::V4, 7000);
    let talk = Talk::udp(site.pod(1), first.address());
    site.until_fast(&talk, &[1, 2]);
    another_vtep_mac(&site);
    site.until_fast(&talk, &[1, 2]);
    its_subnet_goes_to_another(&site, &first, &talk);
    site.alive();
}

fn vtep_mac(site: &Site, number: usize) -> String {
    let shown = site.netns(number).run("ip -o link show dev flannel.1").unwrap();
    shown.split_once("link/ether ").unwrap().1.split(' ').next().unwrap().to_owned()
}

/// Node 2 loses its VXLAN device and all memory of it.
fn another_vtep_mac(site: &Site) {
    let (node, before) = (site.node(2), vtep_mac(site, 2));
    node.kill().unwrap();
    node.netns().ip("link del flannel.1\n").unwrap();
    fs::remove_dir_all(node.state_dir()).ok();
    node.start().unwrap();
    node.wait_ready().unwrap();
    println!("VTEP MAC {before}, then {}", vtep_mac(site, 2));
}

/// Node 2 dies, and node 3 is given its subnet.
fn its_subnet_goes_to_another(site: &Site, first: &Answering, talk: &Talk) {
    let subnet = site.node(2).subnet_env().unwrap().subnet(Family::V4).unwrap().to_owned();
    let key = |env: &str| env.replace(".1/24", ".0-24");
    let path = |key: &str| format!("/coreos.com/network/subnets/{key}");
    let lease = site.cluster.etcdctl(&["get", "--print-value-only", &path(&key(&subnet))]).unwrap();
    assert!(serde_json::from_str::<Value>(&lease).is_ok(), "{lease}");
    site.node(2).kill().unwrap();
    site.cluster.etcdctl(&["del", &path(&key(&subnet))]).unwrap();
    wait::until("the packets to stop", wait::LONG, || {
        let heard = first.heard();
        let sent = talk.sent();
        wait::until("time to pass", wait::LONG, || (talk.sent() > sent + 100 || talk.broken().is_some()).then_some(()))
            .ok()?;
        (first.heard() == heard).then_some(())
    })
    .unwrap();
    let heard = first.heard();

    let three = site.node(3);
    three.stop().unwrap();
    let own = three.subnet_env().unwrap().subnet(Family::V4).unwrap().to_owned();
    site.cluster.etcdctl(&["del", &path(&key(&own))]).unwrap();
    let file = fs::read_to_string(three.subnet_file()).unwrap().replace(&own, &subnet);
    fs::write(three.subnet_file(), file).unwrap();
    fs::remove_dir_all(three.state_dir()).ok();
    three.start().unwrap();
    three.wait_ready().unwrap();
    assert_eq!(three.subnet_env().unwrap().subnet(Family::V4), Some(subnet.as_str()), "{}", three.log());
    three.wire_pod().unwrap();
    let third = site.answering(3, Family::V4, 7000);
    assert_eq!(third.address(), SocketAddr::new(site.pod_ip(2, Family::V4), 7000));
    site.until_fast(talk, &[1, 3]);
    assert_eq!(first.heard(), heard, "who has left hears nothing");
}
