//! Leases that both read, write, lose and come upon.

use std::time::Duration;

use xtask::lab::{Cluster, Family, Launch, plain_vxlan, wait};

use crate::site::{Daemons, builder, leases, ours, start};

const SUBNETS: &str = "/coreos.com/network/subnets/";

fn key(cluster: &Cluster, number: usize) -> String {
    let env = cluster.node(number).subnet_env().unwrap();
    let v4 = env.subnet(Family::V4).unwrap().replace(".1/", ".0-");
    match env.subnet(Family::V6) {
        Some(v6) => format!("{SUBNETS}{v4}&{}", v6.replace("::1/", "::-")),
        None => format!("{SUBNETS}{v4}"),
    }
}

fn etcd_lease(cluster: &Cluster, key: &str) -> i64 {
    let answer = cluster.etcdctl(&["get", key, "-w", "json"]).unwrap();
    let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
    answer["kvs"][0]["lease"].as_i64().unwrap_or(0)
}

fn routes(cluster: &Cluster, number: usize) -> String {
    cluster.node(number).netns().run("ip route").unwrap()
}

/// All of ours come up in the same moment, when flannel's daemon is busy with the first of them.
#[test]
fn many_nodes_at_once() {
    let Some(daemons) = Daemons::given() else { return };
    let launches: Vec<Launch> = std::iter::once(daemons.flannel()).chain((0..9).map(|_| ours("vxlan"))).collect();
    let cluster = builder("rlmany", launches).prepare().unwrap();
    start(&cluster, 1);
    for number in 2..=10 {
        cluster.node(number).start().unwrap();
    }
    for number in 2..=10 {
        cluster.node(number).wait_ready().unwrap();
        cluster.node(number).wire_pod().unwrap();
    }
    let mut seen = 0;
    let outcome = wait::until("flannel's daemon to know all", Duration::from_mins(2), || {
        seen = routes(&cluster, 1).lines().filter(|line| line.contains("dev flannel.1")).count();
        (seen == 9).then_some(())
    });
    outcome.unwrap_or_else(|error| panic!("{error}: {seen} of 9\n{}\n{}", routes(&cluster, 1), leases(&cluster)));
    cluster.assert_whole();
}

/// Deleted by somebody: ours takes it back at once, flannel's daemon ends.
#[test]
fn a_deleted_lease() {
    let Some(daemons) = Daemons::given() else { return };
    let both = [Family::V4, Family::V6];
    let launches = vec![daemons.flannel(), ours("ebpf"), ours("vxlan"), daemons.flannel()];
    let cluster = builder("rldel", launches).families(&both).network(plain_vxlan(&both)).prepare().unwrap();
    for number in 1..=4 {
        start(&cluster, number);
    }
    cluster.assert_whole();
    let ours = key(&cluster, 2);
    let before = cluster.etcdctl(&["get", "--print-value-only", &ours]).unwrap();
    assert!(!before.is_empty(), "{ours}: {}", leases(&cluster));
    cluster.etcdctl(&["del", &ours]).unwrap();
    wait::until("our lease to be back", wait::LONG, || {
        (cluster.etcdctl(&["get", "--print-value-only", &ours]).ok()? == before).then_some(())
    })
    .unwrap();
    let mesh = cluster.wait_mesh(Duration::from_mins(2)).unwrap();
    assert!(mesh.whole(), "{mesh}\n{}", routes(&cluster, 1));

    // A living node of flannel's, whose etcd lease ends.
    let flannels = key(&cluster, 4);
    let lease = etcd_lease(&cluster, &flannels);
    cluster.etcdctl(&["lease", "revoke", &format!("{lease:x}")]).unwrap();
    let status = cluster.node(4).wait_end(wait::LONG).unwrap();
    println!("flannel's daemon without lease: {status}");
    let subnet = flannels.strip_prefix(SUBNETS).unwrap().split('-').next().unwrap().to_owned();
    for number in [1, 2, 3] {
        wait::until("its routes to go", wait::LONG, || (!routes(&cluster, number).contains(&subnet)).then_some(()))
            .unwrap_or_else(|error| panic!("node {number}: {error}\n{}", routes(&cluster, number)));
    }
    // And it comes back.
    cluster.node(4).start().unwrap();
    cluster.node(4).wait_ready().unwrap();
    cluster.assert_whole();
}

/// An operator has reserved a subnet for each.
#[test]
fn reservations() {
    let Some(daemons) = Daemons::given() else { return };
    let launches = vec![daemons.flannel(), ours("ebpf"), daemons.flannel()];
    let cluster = builder("rlres", launches).prepare().unwrap();
    let mine = format!("{SUBNETS}10.244.77.0-24");
    let flannels = format!("{SUBNETS}10.244.78.0-24");
    for (number, key) in [(2, &mine), (1, &flannels)] {
        let value = format!(r#"{{"PublicIP":"{}","PublicIPv6":null}}"#, cluster.node(number).address(Family::V4));
        cluster.etcdctl(&["put", key, &value]).unwrap();
    }
    // For nobody in particular.
    cluster.etcdctl(&["put", &format!("{SUBNETS}10.244.79.0-24"), r#"{"PublicIP":"0.0.0.0"}"#]).unwrap();
    for number in [1, 2, 3] {
        start(&cluster, number);
    }
    cluster.assert_whole();
    println!("{}", leases(&cluster));
    assert_eq!(key(&cluster, 2), mine);
    assert_eq!(key(&cluster, 1), flannels);
    assert_eq!(etcd_lease(&cluster, &mine), 0, "stays a reservation");
    println!("flannel's reservation hangs on lease {:x}", etcd_lease(&cluster, &flannels));
}

/// A node of ours leaves for good, another comes; flannel's daemons follow.
#[test]
fn leaving_and_joining() {
    let Some(daemons) = Daemons::given() else { return };
    let launches = vec![daemons.flannel(), ours("ebpf"), ours("userspace"), daemons.flannel(), ours("vxlan")];
    let cluster = builder("rljoin", launches).prepare().unwrap();
    for number in [1, 2, 3, 4] {
        start(&cluster, number);
    }
    let gone = key(&cluster, 3);
    cluster.node(3).stop().unwrap();
    let value = cluster.etcdctl(&["get", "--print-value-only", &gone]).unwrap();
    let subnet = gone.strip_prefix(SUBNETS).unwrap().split('-').next().unwrap().to_owned();
    let without = |number: usize| (!routes(&cluster, number).contains(&subnet)).then_some(());
    cluster.etcdctl(&["del", &gone]).unwrap();
    wait::until("its routes to go", wait::LONG, || without(2)).unwrap();
    // flannel's daemons miss a change now and then, and nobody deletes a second time.
    for number in [1, 4] {
        wait::until("its routes to go", wait::LONG, || {
            without(number).or_else(|| {
                cluster.etcdctl(&["put", &gone, value.trim()]).ok()?;
                cluster.etcdctl(&["del", &gone]).ok()?;
                None
            })
        })
        .unwrap_or_else(|error| panic!("node {number}: {error}\n{}", routes(&cluster, number)));
    }
    start(&cluster, 5);
    for (from, to) in [(1, 2), (1, 5), (5, 1), (2, 5), (5, 4), (4, 5)] {
        let ping = cluster.ping(from, to, Family::V4).unwrap();
        ping.more(50).unwrap();
    }
}
