//! lane: e2e
//!
//! What others do to a node's own lease, to the history and to the rights of etcd, while a ping runs.
#![expect(clippy::unwrap_used, reason = "a test's helper functions are tests too")]

use std::{
    collections::BTreeSet,
    thread,
    time::{Duration, Instant},
};

use xtask::lab::{
    Cluster, EtcdCluster, EtcdOptions, Etcdctl, Family, Picture, Stopwatch, StoreKind, skip_unless, stranger, wait,
};

const TOOLS: [&str; 4] = ["ip", "nft", "etcd", "etcdctl"];
const SECOND: Duration = Duration::from_secs(1);
const SOON: Duration = Duration::from_secs(10);

#[test]
fn an_own_key_that_is_deleted_or_written_over_comes_back() {
    if skip_unless(&TOOLS) {
        return;
    }
    let lab = EtcdCluster::start(Cluster::builder("fcown").nodes(3), 1, EtcdOptions::default()).unwrap();
    let good = lab.cluster.ping(2, 3, Family::V4).unwrap();
    let watch = Stopwatch::start();
    let hurt = lab.cluster.ping(2, 1, Family::V4).unwrap();
    let key = lab.own_key(1).unwrap();
    let ours = lab.ctl().lease(&key).unwrap().unwrap();
    for round in 0..5 {
        lab.ctl().delete(&key).unwrap();
        let begun = Instant::now();
        wait::until("the key to be back", SECOND, || lab.ctl().lease(&key).unwrap()).unwrap();
        println!("round {round}: a deleted key was back within {:?}", begun.elapsed());
        assert_eq!(lab.ctl().lease(&key).unwrap().as_deref(), Some(ours.as_str()));
        lab.wait_pictures(SECOND).unwrap();
    }
    // As an old flannel daemon would: another address and another VTEP, no etcd lease, no compare.
    for round in 0..3 {
        lab.ctl().put(&key, stranger(7).as_bytes()).unwrap();
        let begun = Instant::now();
        wait::until("the key to be ours", SECOND * 2, || {
            (lab.ctl().lease(&key).unwrap().as_deref() == Some(ours.as_str())).then_some(())
        })
        .unwrap();
        println!("round {round}: an overwritten key was ours again within {:?}", begun.elapsed());
        lab.wait_pictures(SECOND).unwrap();
    }
    let owners: BTreeSet<_> = lab.ctl().leases().unwrap().into_iter().map(|lease| lease.value).collect();
    assert_eq!(owners.len(), 3, "every node once: {owners:#?}");
    let picture = Picture::of_kernel(lab.cluster.node(2).netns()).unwrap();
    assert!(!picture.to_string().contains("06:00:00"), "nothing of the thief is left:\n{picture}");
    let status = lab.cluster.node(1).status().unwrap();
    assert_eq!(status["counters"]["own_subnet_conflicts"], 3, "{status:#}");
    let report = hurt.stop();
    println!("to the node whose key was hurt eight times: {report}");
    assert!(report.longest_gap < SECOND + watch.stalled(), "{report}");
    good.stop().assert_nothing_lost();
}

#[test]
fn random_churn_compactions_and_partitions_end_in_what_etcd_says() {
    if skip_unless(&TOOLS) {
        return;
    }
    let seed = std::env::var("FLANNEL_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(20_261_121_u64);
    println!("seed {seed} (FLANNEL_SEED changes it)");
    let lab = EtcdCluster::start(Cluster::builder("fcchurn").nodes(3), 1, EtcdOptions::default()).unwrap();
    let pings = [(1, 2), (2, 3)].map(|(from, to)| lab.cluster.ping(from, to, Family::V4).unwrap());
    let keys = lab.free_keys().unwrap();
    let mut dice = Dice(seed);
    let begun = Instant::now();
    let mut changes = 0;
    while begun.elapsed() < Duration::from_secs(20) {
        match dice.roll(20) {
            0 => lab.ctl().compact().unwrap(),
            1 => lab.cluster.underlay().cut_off(1 + dice.roll(2), 2379).unwrap(),
            // A table that is not there is healed already.
            2 | 3 => drop(lab.cluster.underlay().heal()),
            _ => {
                let values: Vec<_> = (0..dice.roll(60)).map(|_| stranger(300 + dice.roll(4000))).collect();
                let batch: BTreeSet<_> = values.iter().map(|_| dice.roll(keys.len())).collect();
                let puts = batch
                    .iter()
                    .zip(&values)
                    .map(|(i, value)| (keys[*i].as_str(), (!value.ends_with("0\"}}")).then_some(value.as_str())));
                lab.ctl().many(puts).unwrap();
                changes += batch.len();
            }
        }
    }
    drop(lab.cluster.underlay().heal());
    // Two strangers may have drawn one VTEP: then only the first is believed, and there is no one right picture.
    let mut seen = BTreeSet::new();
    let doubles: Vec<_> =
        lab.ctl().leases().unwrap().into_iter().filter(|lease| !seen.insert(lease.value.clone())).collect();
    lab.ctl().many(doubles.iter().map(|lease| (lease.key.as_str(), None))).unwrap();
    let took = lab.wait_pictures(SOON).unwrap();
    println!("{changes} changes in 20 s; every kernel as etcd says {took:?} after the end");
    assert!(changes > 1000);
    for ping in pings {
        ping.stop().assert_nothing_lost();
    }
}

#[test]
fn a_full_etcd_degrades_and_recovers() {
    if skip_unless(&TOOLS) {
        return;
    }
    let options = EtcdOptions {
        args: ["--quota-backend-bytes", "4000000"].map(str::to_owned).to_vec(),
        ..EtcdOptions::default()
    };
    let lab = EtcdCluster::start(Cluster::builder("fcfull").nodes(3), 1, options).unwrap();
    let ping = lab.cluster.ping(2, 3, Family::V4).unwrap();
    let key = lab.own_key(1).unwrap();
    let junk = vec![b'x'; 1_000_000];
    let full = wait::until("the database to be full", SOON, || lab.ctl().fed(&["put", "junk"], &junk).err()).unwrap();
    assert!(full.to_string().contains("database space exceeded"), "{full:#}");
    lab.ctl().delete(&key).unwrap();
    let degraded = |status: &serde_json::Value| {
        status["state"] == "degraded" && status["reason"].to_string().contains("database space exceeded")
    };
    lab.wait_status(1, "the full database to be named", SOON, degraded).unwrap();
    lab.ctl().compact().unwrap();
    lab.ctl().run(&["defrag"]).unwrap();
    lab.ctl().run(&["alarm", "disarm"]).unwrap();
    let begun = Stopwatch::start();
    wait::until("the key to be back", SOON, || lab.ctl().lease(&key).unwrap()).unwrap();
    println!("recovered {begun} after the alarm was disarmed");
    begun.assert_within(SECOND * 5);
    lab.wait_status(1, "converged again", SOON, |status| status["state"] == "converged").unwrap();
    lab.wait_pictures(SOON).unwrap();
    ping.stop().assert_nothing_lost();
}

#[test]
fn the_embedded_store_is_killed_again_and_again() {
    if skip_unless(&TOOLS) {
        return;
    }
    let cluster = Cluster::builder("fcemb").nodes(2).store(StoreKind::Embedded).start().unwrap();
    cluster.assert_whole();
    let ctl = Etcdctl::new(cluster.underlay().netns(), cluster.store().endpoint());
    let ping = cluster.ping(1, 2, Family::V4).unwrap();
    let key = cluster.node(1).status().unwrap()["lease"]["key"].as_str().unwrap().to_owned();
    let check = |limit| {
        for node in cluster.nodes() {
            let std::net::IpAddr::V4(own) = node.address(Family::V4) else { unreachable!("an IPv4 address") };
            Picture::of_leases(&ctl.leases().unwrap(), own).unwrap().wait_for(node.netns(), limit).unwrap();
        }
    };
    let taken: Vec<_> = ctl.leases().unwrap().into_iter().map(|lease| lease.key).collect();
    let keys: Vec<_> = (1..100).map(|i| format!("10.244.{i}.0-24")).filter(|key| !taken.contains(key)).collect();
    let values: Vec<_> = (0..90).map(|i| stranger(300 + i)).collect();
    for round in 0..3_usize {
        let put = |i: usize| (keys[i].as_str(), (i % 3 != round).then(|| values[i].as_str()));
        ctl.many((0..40).map(put)).unwrap();
        cluster.store().kill().unwrap();
        thread::sleep(SECOND);
        cluster.start_store().unwrap();
        let begun = Instant::now();
        ctl.many((40..90).map(put)).unwrap();
        check(SECOND * 3);
        println!("round {round}: every kernel as the store says {:?} after it was back", begun.elapsed());
        ctl.compact().unwrap();
    }
    ping.stop().assert_nothing_lost();
    let ours = ctl.lease(&key).unwrap();
    ctl.delete(&key).unwrap();
    wait::until("the key to be back", SECOND, || ctl.lease(&key).unwrap()).unwrap();
    ctl.put(&key, stranger(7).as_bytes()).unwrap();
    wait::until("the key to be ours", SECOND, || (ctl.lease(&key).unwrap() == ours).then_some(())).unwrap();
    check(SECOND);
}

/// SplitMix64: the same numbers for the same seed, everywhere.
struct Dice(u64);

impl Dice {
    /// From 0 to `below` - 1.
    fn roll(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % below.max(1) as u64).unwrap()
    }
}
