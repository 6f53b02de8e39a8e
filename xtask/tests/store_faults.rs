//! lane: e2e
//!
//! etcd is hurt in every way while a 1 ms ping runs between two nodes: where only the control plane suffers,
//! not one packet is lost, and what the leases say arrives in every kernel once etcd is back.
#![expect(clippy::unwrap_used, reason = "a test's helper functions are tests too")]

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use xtask::lab::{
    Cluster, Etcd, EtcdCluster, EtcdOptions, Family, Launch, Picture, Ping, Stopwatch, cpu_time, plain_vxlan,
    skip_unless, stranger, wait,
};

const TOOLS: [&str; 4] = ["ip", "nft", "etcd", "etcdctl"];
const SOON: Duration = Duration::from_secs(10);

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn start(prefix: &str, nodes: usize) -> EtcdCluster {
    start_with(prefix, nodes, 1, EtcdOptions::default(), &[])
}

fn start_with(prefix: &str, nodes: usize, members: usize, options: EtcdOptions, args: &[&str]) -> EtcdCluster {
    let args = args.iter().map(|arg| (*arg).to_owned()).collect();
    let builder = Cluster::builder(prefix).nodes(nodes).launches(vec![Launch { args, ..Launch::default() }]);
    EtcdCluster::start(builder, members, options).unwrap()
}

fn ping(lab: &EtcdCluster, from: usize, to: usize) -> Ping {
    lab.cluster.ping(from, to, Family::V4).unwrap()
}

fn disconnected(status: &serde_json::Value) -> bool {
    status["source"]["connected"] == false
}

fn connected(status: &serde_json::Value) -> bool {
    status["source"]["connected"] == true && status["state"] == "converged"
}

#[test]
fn etcd_is_down_at_boot_and_the_node_waits_without_a_word_too_many() {
    if skip_unless(&TOOLS) {
        return;
    }
    let lab = EtcdCluster::prepare(Cluster::builder("fcboot").nodes(2), &Etcd::endpoints(1, false), 1, |_| {
        Ok(EtcdOptions::default())
    })
    .unwrap();
    lab.etcd.kill(0).unwrap();
    for node in lab.cluster.nodes() {
        node.start().unwrap();
    }
    let one = lab.cluster.node(1);
    wait::until("the outage to be said", SOON, || one.log().contains("Connection refused").then_some(())).unwrap();
    // Absence can only be seen by waiting.
    thread::sleep(seconds(2));
    let warnings = one.log().matches("Connection refused").count();
    assert_eq!(warnings, 1, "said once:\n{}", one.log());
    assert!(one.http("/healthz").unwrap().starts_with("HTTP/1.1 200"), "waiting is being alive");
    assert!(one.http("/readyz").unwrap().starts_with("HTTP/1.1 503"));
    lab.etcd.restart(0).unwrap();
    lab.ctl().publish(&plain_vxlan(&[Family::V4])).unwrap();
    let begun = Stopwatch::start();
    for node in lab.cluster.nodes() {
        node.wait_ready().unwrap();
        node.wire_pod().unwrap();
    }
    println!("ready {begun} after etcd");
    begun.assert_within(seconds(3));
    lab.whole().unwrap();

    // The same with a kernel that is laid out already.
    let before = Picture::of_kernel(one.netns()).unwrap();
    let ping = ping(&lab, 1, 2);
    lab.etcd.kill(0).unwrap();
    one.stop().unwrap();
    one.start().unwrap();
    wait::until("the restarted node to wait", SOON, || {
        (one.log().matches("Connection refused").count() >= 2).then_some(())
    })
    .unwrap();
    ping.more(500).unwrap();
    assert_eq!(Picture::of_kernel(one.netns()).unwrap(), before, "nothing is removed while nothing is known");
    lab.etcd.restart(0).unwrap();
    one.wait_ready().unwrap();
    ping.more(200).unwrap();
    ping.stop().assert_nothing_lost();
    assert_eq!(Picture::of_kernel(one.netns()).unwrap(), before);
}

#[test]
fn etcd_is_killed_for_eight_seconds_and_a_new_lease_arrives_soon_after() {
    if skip_unless(&TOOLS) {
        return;
    }
    let lab = start("fckill", 2);
    let ping = ping(&lab, 1, 2);
    let pid = lab.cluster.node(1).pid().unwrap();
    let key = &lab.free_keys().unwrap()[0];
    lab.etcd.kill(0).unwrap();
    let (begun, used) = (Instant::now(), cpu_time(pid).unwrap());
    lab.wait_status(1, "the outage to be noticed", seconds(1), disconnected).unwrap();
    let status = lab.cluster.node(1).status().unwrap();
    assert!(status["reason"].as_str().unwrap().contains("192.168.255.254:2379"), "{status:#}");
    assert_eq!(status["state"], "degraded");
    thread::sleep(seconds(8).saturating_sub(begun.elapsed()));
    let busy = cpu_time(pid).unwrap().saturating_sub(used);
    println!("processor time in 8 s without etcd: {busy:?}");
    assert!(busy < Duration::from_millis(400), "5 % of a processor at most");
    lab.etcd.restart(0).unwrap();
    lab.ctl().put(key, stranger(9).as_bytes()).unwrap();
    let took = [1, 2].map(|node| lab.wait_route(node, key, true, seconds(1)).unwrap());
    println!("a lease put right after etcd was back: in the kernels after {took:?}");
    lab.wait_status(1, "connected again", seconds(1), connected).unwrap();
    ping.stop().assert_nothing_lost();
}

#[test]
fn etcd_is_stopped_without_a_word_and_noticed_within_ten_seconds() {
    if skip_unless(&TOOLS) {
        return;
    }
    let lab = start("fcstop", 2);
    let ping = ping(&lab, 1, 2);
    let key = &lab.free_keys().unwrap()[0];
    lab.etcd.signal(0, Signal::SIGSTOP).unwrap();
    let took = lab.wait_status(1, "the silence to be noticed", seconds(10), disconnected).unwrap();
    println!("a silent etcd was noticed after {took:?}");
    let status = lab.cluster.node(1).status().unwrap();
    assert!(status["source"]["detail"].as_str().unwrap().contains("192.168.255.254:2379"), "{status:#}");
    thread::sleep(seconds(3));
    lab.etcd.signal(0, Signal::SIGCONT).unwrap();
    let begun = Instant::now();
    lab.ctl().put(key, stranger(9).as_bytes()).unwrap();
    for node in [1, 2] {
        lab.wait_route(node, key, true, seconds(8)).unwrap();
    }
    println!("back to work {:?} after it went on", begun.elapsed());
    ping.stop().assert_nothing_lost();
}

#[test]
fn etcd_is_gone_for_longer_than_the_leases_live() {
    if skip_unless(&TOOLS) {
        return;
    }
    let lab = start_with("fcttl", 3, 1, EtcdOptions::default(), &["--lease-ttl", "4s"]);
    let key = lab.own_key(1).unwrap();
    let env = fs::read_to_string(lab.cluster.node(1).subnet_file()).unwrap();
    let pings = [ping(&lab, 1, 2), ping(&lab, 2, 3)];
    lab.etcd.kill(0).unwrap();
    thread::sleep(seconds(6));
    lab.etcd.restart(0).unwrap();
    lab.wait_status(1, "connected again", SOON, connected).unwrap();
    pings[0].more(300).unwrap();
    let [first, second] = pings;
    first.stop().assert_nothing_lost();

    // Now etcd goes on, and one node alone is cut off from it until its lease has expired.
    let before = Picture::of_kernel(lab.cluster.node(1).netns()).unwrap();
    lab.cluster.underlay().cut_off(1, 2379).unwrap();
    wait::until("the lease to expire", seconds(15), || lab.ctl().lease(&key).unwrap().is_none().then_some(())).unwrap();
    lab.wait_route(2, &key, false, SOON).unwrap();
    assert_eq!(Picture::of_kernel(lab.cluster.node(1).netns()).unwrap(), before, "kernel state is kept");
    lab.cluster.underlay().heal().unwrap();
    let healed = Instant::now();
    wait::until("the same subnet to be taken again", SOON, || lab.ctl().lease(&key).unwrap()).unwrap();
    lab.wait_route(2, &key, true, seconds(1)).unwrap();
    println!("after an expiry: same subnet {:?} after the network was back", healed.elapsed());
    lab.wait_pictures(seconds(1)).unwrap();
    lab.whole().unwrap();
    assert_eq!(fs::read_to_string(lab.cluster.node(1).subnet_file()).unwrap(), env, "subnet.env as before");
    second.stop().assert_nothing_lost();
}

#[test]
fn a_subnet_that_went_to_another_while_the_node_was_cut_off_is_left_at_once() {
    if skip_unless(&TOOLS) {
        return;
    }
    let lab = start("fcfence", 3);
    let ping = ping(&lab, 2, 3);
    let key = lab.own_key(1).unwrap();
    let one = lab.cluster.node(1);
    lab.cluster.underlay().cut_off(1, 2379).unwrap();
    let [lease, ..] = lab.ctl().revisions(&key).unwrap().unwrap();
    lab.ctl().run(&["lease", "revoke", &format!("{lease:x}")]).unwrap();
    lab.ctl().put(&key, stranger(9).as_bytes()).unwrap();
    lab.wait_status(1, "cut off", SOON, disconnected).unwrap();
    lab.cluster.underlay().heal().unwrap();
    let another = |status: &serde_json::Value| status["lease"]["key"].as_str().is_some_and(|now| now != key);
    let took = lab.wait_status(1, "another subnet", SOON, another).unwrap();
    println!("another subnet {took:?} after the network was back");
    let now = lab.own_key(1).unwrap();
    wait::until("the subnet file to name it", SOON, || {
        let subnet = one.subnet_env().ok()?.subnet(Family::V4)?.to_owned();
        (subnet.replace(".1/", ".0-") == now).then_some(())
    })
    .unwrap();
    // The pods' bridge still has the old subnet, and a network of our own is never routed to another node.
    let refused = |status: &serde_json::Value| status["refused"].to_string().contains("interface cni0");
    lab.wait_status(1, "the new owner to be refused while our bridge has its range", SOON, refused).unwrap();
    one.wire_pod().unwrap();
    lab.wait_pictures(SOON).unwrap();
    let said = one.log().lines().filter(|line| line.contains("ERROR") && line.contains("lost our subnet")).count();
    assert_eq!(said, 1, "{}", one.log());
    assert_eq!(lab.ctl().lease(&key).unwrap(), Some(stranger(9)), "the new owner's lease is left alone");
    lab.whole().unwrap();
    ping.stop().assert_nothing_lost();
}

#[test]
fn changes_and_a_compaction_behind_a_partition_all_arrive() {
    if skip_unless(&TOOLS) {
        return;
    }
    let lab = start("fccomp", 2);
    let ping = ping(&lab, 1, 2);
    let keys = lab.free_keys().unwrap();
    for changes in [20, 2000] {
        lab.cluster.underlay().cut_off(1, 2379).unwrap();
        let values: Vec<_> = (0..changes).map(|i| stranger(300 + i)).collect();
        let change = |i: usize| {
            let key = keys[i % 200].as_str();
            // Every fifth of a second round deletes; at the end some are there and some are not.
            (key, (i < 200 || !i.is_multiple_of(5)).then(|| values[i].as_str()))
        };
        lab.ctl().many((0..changes).map(change)).unwrap();
        lab.ctl().compact().unwrap();
        lab.wait_status(1, "cut off", seconds(12), disconnected).unwrap();
        lab.cluster.underlay().heal().unwrap();
        let took = lab.wait_pictures(seconds(6)).unwrap();
        println!("{changes} changes and a compaction: in the kernel {took:?} after the network was back");
    }
    assert!(lab.cluster.node(1).status().unwrap()["peers"]["total"].as_u64().unwrap() > 100);
    ping.stop().assert_nothing_lost();
}

#[test]
fn the_leader_of_three_is_killed() {
    if skip_unless(&TOOLS) {
        return;
    }
    let lab = start_with("fclead", 2, 3, EtcdOptions::default(), &[]);
    let ping = ping(&lab, 1, 2);
    let keys = lab.free_keys().unwrap();
    for key in &keys[..2] {
        let leader = lab.etcd.leader().unwrap();
        lab.etcd.kill(leader).unwrap();
        let killed = Instant::now();
        // etcd itself keeps a write that came before the election for seven seconds.
        let alive = lab.ctl().at((leader + 1) % 3).with_args(&["--command-timeout", "500ms"]);
        wait::until("a write to be taken", SOON, || alive.put(key, stranger(9).as_bytes()).ok()).unwrap();
        let written = killed.elapsed();
        for node in [1, 2] {
            lab.wait_route(node, key, true, seconds(8)).unwrap();
        }
        println!("leader killed: written after {written:?}, in the kernels after {:?}", killed.elapsed());
        lab.etcd.restart(leader).unwrap();
        lab.ctl().delete(key).unwrap();
        lab.wait_pictures(SOON).unwrap();
    }
    ping.stop().assert_nothing_lost();
}
