//! Interfaces that are rebuilt under a running daemon.

use std::time::{Duration, Instant};

use xtask::lab::{Cluster, Dump, Family, GATEWAY_V4, GATEWAY_V6, Launch, Node, Stopwatch, skip_unless, wait};

use super::{TOOLS, same_again, wait_converged};

/// As an administrator does who makes a bridge of the uplink. The address may be another one.
fn into_a_bridge(node: &Node, v4: &str) {
    let v6 = node.address(Family::V6);
    node.netns()
        .ip(&format!(
            "link add up0 type bridge mcast_snooping 0 forward_delay 0\nlink set up0 up\n\
             address flush dev eth0\nlink set eth0 master up0\n\
             address add {v4}/16 dev up0\naddress add {v6}/64 dev up0 nodad\n\
             route replace default via {GATEWAY_V4}\nroute replace default via {GATEWAY_V6} dev up0\n"
        ))
        .unwrap();
}

/// Until the tunnel leaves through the bridge with this address, and the peers send there.
fn assert_followed(cluster: &Cluster, number: usize, v4: &str) {
    let watch = Stopwatch::start();
    let node = cluster.node(number);
    wait::until("the tunnel to leave through the bridge", wait::LONG, || {
        let device = node.netns().run("ip -d -o link show dev flannel.1").ok()?;
        (device.contains(" dev up0 ") && device.contains(&format!(" local {v4} "))).then_some(())
    })
    .unwrap_or_else(|error| panic!("{error}\n{}", node.log()));
    let here = watch.elapsed();
    for peer in cluster.nodes().iter().filter(|peer| peer.number() != number) {
        wait::until("the peers to send there", wait::LONG, || {
            peer.netns().run("bridge fdb show dev flannel.1").ok()?.contains(&format!(" dst {v4} ")).then_some(())
        })
        .unwrap();
    }
    let (there, unstalled) = (watch.elapsed(), watch.unstalled());
    println!("node {number} moved to up0, {v4}: tunnel after {here:.1?}, peers after {there:.1?}");
    assert!(unstalled < Duration::from_secs(5), "followed only by the sweep, after {there:?}");
    let status = wait_converged(node);
    assert_eq!(status["uplink"]["name"], "up0", "{status:#}");
    assert_eq!(status["lease"]["public_ip"], v4, "{status:#}");
}

#[test]
fn the_uplinks_address_moves_to_another_interface() {
    if skip_unless(&TOOLS) {
        return;
    }
    // By address, by where it leads to, and by name.
    let launches = ["--iface=192.168.0.2", "--iface-can-reach=192.168.255.254", "--iface=up0"];
    let launches = launches.map(|arg| Launch { args: vec![arg.to_owned()], ..Launch::default() });
    let mut launches = launches.to_vec();
    launches[2].args.insert(0, "--iface=eth0".to_owned());
    let cluster = Cluster::builder("fhmove").nodes(3).dual_stack().launches(launches).start().unwrap();
    cluster.assert_whole();
    let env = cluster.node(1).subnet_env().unwrap();
    for (number, v4) in [(1, "192.168.0.2"), (2, "192.168.9.3"), (3, "192.168.0.4")] {
        let bystander = cluster.ping(1 + number % 3, 1 + (number + 1) % 3, Family::V4).unwrap();
        into_a_bridge(cluster.node(number), v4);
        assert_followed(&cluster, number, v4);
        cluster.assert_whole();
        bystander.stop().assert_nothing_lost();
    }
    assert_eq!(cluster.node(1).subnet_env().unwrap(), env, "the subnet stays");
}

#[test]
fn a_renamed_device_is_put_right() {
    if skip_unless(&TOOLS) {
        return;
    }
    let cluster = Cluster::builder("fhname").nodes(2).dual_stack().start().unwrap();
    cluster.assert_whole();
    let node = cluster.node(1);
    wait_converged(node);
    let before = Dump::of(node.netns()).unwrap();
    for device in ["flannel.1", "flannel-v6.1"] {
        let start = Instant::now();
        node.netns().ip(&format!("link set {device} down\nlink set {device} name other0\nlink set other0 up")).unwrap();
        same_again(node, &before);
        println!("{device} renamed: as before after {:.1?}", start.elapsed());
        let left = node.netns().run("ip -o link show type vxlan").unwrap();
        assert_eq!(left.lines().count(), 2, "{left}");
    }
    wait_converged(node);
    cluster.assert_whole();
}
