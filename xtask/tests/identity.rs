//! lane: e2e
//!
//! Machines that are copies of each other, machines with one address, machines that were installed anew, and a store
//! that lost its data, while a 1 ms ping runs between the nodes that are right.
#![expect(clippy::unwrap_used, reason = "a test's helper functions are tests too")]

use std::{
    fs,
    time::{Duration, Instant},
};

use xtask::lab::{
    Cluster, Etcd, EtcdCluster, EtcdOptions, Family, Launch, Lease, Picture, plain_vxlan, skip_unless, stranger, wait,
};

const TOOLS: [&str; 4] = ["ip", "nft", "etcd", "etcdctl"];
const SOON: Duration = Duration::from_secs(30);

/// Three nodes, of which two run.
fn two_of_three(prefix: &str) -> EtcdCluster {
    let builder = Cluster::builder(prefix).nodes(3);
    let lab = EtcdCluster::prepare(builder, &Etcd::endpoints(1, false), 1, |_| Ok(EtcdOptions::default())).unwrap();
    lab.ctl().publish(&plain_vxlan(&[Family::V4])).unwrap();
    for node in [1, 2].map(|number| lab.cluster.node(number)) {
        node.start().unwrap();
        node.wait_ready().unwrap();
        node.wire_pod().unwrap();
    }
    lab
}

/// Starts the third node, which must be refused for this reason, and cost the first two nothing.
fn third_is_refused(lab: &EtcdCluster, launch: &Launch, why: &str) {
    let ping = lab.cluster.ping(1, 2, Family::V4).unwrap();
    let leases = lab.ctl().leases().unwrap();
    let before = [1, 2].map(|node| Picture::of_kernel(lab.cluster.node(node).netns()).unwrap());
    let third = lab.cluster.node(3);
    for start in ["first", "second"] {
        let begun = Instant::now();
        third.start_with(launch).unwrap();
        let status = third.wait_end(SOON).unwrap();
        println!("{start} start refused after {:?}", begun.elapsed());
        assert_eq!(status.code(), Some(1), "{}", third.log());
    }
    let log = third.log();
    assert!(log.contains(why) && log.contains("answered an earlier start"), "{log}");
    ping.more(200).unwrap();
    let values =
        |leases: &[Lease]| leases.iter().map(|lease| (lease.key.clone(), lease.value.clone())).collect::<Vec<_>>();
    assert_eq!(values(&lab.ctl().leases().unwrap()), values(&leases));
    let after = [1, 2].map(|node| Picture::of_kernel(lab.cluster.node(node).netns()).unwrap());
    assert_eq!(after, before);
    assert!(!third.netns().command("ip").args(["link", "show", "flannel.1"]).status().unwrap().success());
    ping.stop().assert_nothing_lost();
}

#[test]
fn a_copy_of_a_machine_is_refused_until_it_forgets_its_identity() {
    if skip_unless(&TOOLS) {
        return;
    }
    let lab = two_of_three("fccopy");
    let (first, third) = (lab.cluster.node(1), lab.cluster.node(3));
    fs::create_dir_all(third.state_dir()).unwrap();
    for file in fs::read_dir(first.state_dir()).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), third.state_dir().join(file.file_name())).unwrap();
    }
    third_is_refused(&lab, &Launch::default(), "has this node's id, lives and holds");
    let state = third.state_dir().display().to_string();
    third.ctl(&["cleanup", "--forget-node", "--state-dir", &state]).unwrap();
    third.start().unwrap();
    third.wait_ready().unwrap();
    third.wire_pod().unwrap();
    lab.whole().unwrap();
}

#[test]
fn a_second_machine_with_one_address_is_refused() {
    if skip_unless(&TOOLS) {
        return;
    }
    let lab = two_of_three("fcaddr");
    let address = lab.cluster.node(1).address(Family::V4).to_string();
    let args = vec!["--public-ip".to_owned(), address];
    third_is_refused(&lab, &Launch { args, ..Launch::default() }, "has this node's public address, lives and holds");
    let third = lab.cluster.node(3);
    third.start().unwrap();
    third.wait_ready().unwrap();
    third.wire_pod().unwrap();
    lab.whole().unwrap();
}

#[test]
fn a_machine_that_was_installed_anew_has_its_subnet_again() {
    if skip_unless(&TOOLS) {
        return;
    }
    let lab = EtcdCluster::start(Cluster::builder("fcanew").nodes(3), 1, EtcdOptions::default()).unwrap();
    let key = lab.own_key(1).unwrap();
    let ping = lab.cluster.ping(2, 3, Family::V4).unwrap();
    let one = lab.cluster.node(1);
    one.kill().unwrap();
    fs::remove_dir_all(one.state_dir()).unwrap();
    fs::remove_file(one.subnet_file()).unwrap();
    let begun = Instant::now();
    one.start().unwrap();
    one.wait_ready().unwrap();
    println!("ready {:?} after the start", begun.elapsed());
    assert_eq!(lab.own_key(1).unwrap(), key);
    assert_eq!(lab.ctl().leases().unwrap().len(), 3);
    lab.whole().unwrap();
    ping.stop().assert_nothing_lost();
}

#[test]
fn an_etcd_that_lost_its_data_costs_no_packet() {
    if skip_unless(&TOOLS) {
        return;
    }
    let lab = EtcdCluster::start(Cluster::builder("fclost").nodes(3), 1, EtcdOptions::default()).unwrap();
    let gone = &lab.free_keys().unwrap()[0];
    lab.ctl().put(gone, stranger(9).as_bytes()).unwrap();
    lab.wait_route(1, gone, true, SOON).unwrap();
    let pings = [(1, 2), (2, 3), (3, 1)].map(|(from, to)| lab.cluster.ping(from, to, Family::V4).unwrap());
    let keys = [1, 2, 3].map(|node| lab.own_key(node).unwrap());
    lab.etcd.kill(0).unwrap();
    fs::remove_dir_all(lab.cluster.dir().join("etcd-m0")).unwrap();
    lab.etcd.restart(0).unwrap();
    let said = |status: &serde_json::Value| status["reason"].to_string().contains("the store lost what it had");
    lab.wait_status(1, "the loss to be said", SOON, said).unwrap();
    for key in &keys {
        wait::until("the lease to be written again", SOON, || lab.ctl().lease(key).unwrap()).unwrap();
    }
    for node in [1, 2, 3] {
        let took = lab.wait_route(node, gone, false, SOON).unwrap();
        println!("node {node} has dropped the dead lease {took:?} later");
        lab.wait_status(node, "no word of it any more", SOON, |status| !said(status)).unwrap();
    }
    lab.wait_pictures(SOON).unwrap();
    for ping in pings {
        let report = ping.stop();
        println!("{report}");
        report.assert_nothing_lost();
    }
}
