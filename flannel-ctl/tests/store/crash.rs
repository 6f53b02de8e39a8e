//! kill -9 in the middle of writes.

use std::collections::BTreeMap;
use std::time::Duration;

use flannel_ctl::store::proto::{
    LeaseGrantRequest, LeaseGrantResponse, LeaseLeasesRequest, LeaseLeasesResponse, PutRequest, PutResponse,
    RangeRequest, RangeResponse,
};
use rand::{Rng, SeedableRng};

use crate::directory;
use crate::process::Process;
use crate::wire::Wire;

const ROUNDS: u64 = 50;
const WRITERS: usize = 4;

/// Writes keys of its own until the store dies; answers what was acknowledged, with the revisions.
async fn write(wire: Wire, name: String, lease: i64) -> BTreeMap<String, i64> {
    let mut acknowledged = BTreeMap::new();
    for number in 0.. {
        let key = format!("{name}/{number}");
        let request =
            PutRequest { key: key.clone().into(), value: vec![7; 300].into(), lease, ..PutRequest::default() };
        match wire.call::<_, PutResponse>("KV/Put", request).await {
            Ok(response) => drop(acknowledged.insert(key, response.header.expect("a header").revision)),
            Err(_) => break,
        }
    }
    acknowledged
}

async fn keys(wire: &Wire) -> (BTreeMap<String, i64>, i64) {
    let request =
        RangeRequest { key: vec![0].into(), range_end: vec![0].into(), keys_only: true, ..RangeRequest::default() };
    let response: RangeResponse = wire.call("KV/Range", request).await.expect("reads");
    let name = |key: &[u8]| String::from_utf8(key.to_vec()).expect("text");
    let found = response.kvs.iter().map(|kv| (name(&kv.key), kv.mod_revision)).collect();
    (found, response.header.expect("a header").revision)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_acknowledged_write_survives_kill_9() {
    let directory = directory();
    let data = directory.path().join("store.redb");
    let mut random = rand::rngs::StdRng::seed_from_u64(1);
    let mut acknowledged: BTreeMap<String, i64> = BTreeMap::new();
    let mut leases = Vec::new();
    for round in 0..ROUNDS {
        let store = Process::store(&data, &["--keep-revisions", "500"]);
        let wire = Wire::to(store.address);
        let (found, revision) = keys(&wire).await;
        for (key, at) in &acknowledged {
            assert_eq!(found.get(key), Some(at), "round {round}: {key} was acknowledged");
        }
        assert!(acknowledged.values().all(|at| *at <= revision), "round {round}");
        let listed: LeaseLeasesResponse = wire.call("Lease/LeaseLeases", LeaseLeasesRequest {}).await.expect("lists");
        let listed: Vec<i64> = listed.leases.iter().map(|lease| lease.id).collect();
        assert!(leases.iter().all(|id| listed.contains(id)), "round {round}");

        let grant = LeaseGrantRequest { ttl: 10_000, id: 0 };
        let granted: LeaseGrantResponse = wire.call("Lease/LeaseGrant", grant).await.expect("grants");
        leases.push(granted.id);
        let mut writers = tokio::task::JoinSet::new();
        for writer in 0..WRITERS {
            writers.spawn(write(wire.clone(), format!("{round}/{writer}"), granted.id));
        }
        tokio::time::sleep(Duration::from_millis(random.random_range(0..100))).await;
        store.kill();
        for written in writers.join_all().await {
            acknowledged.extend(written);
        }
    }
    assert!(acknowledged.len() > 50, "too few writes to prove anything: {}", acknowledged.len());
    eprintln!("{} acknowledged writes in {ROUNDS} rounds", acknowledged.len());
}

#[tokio::test]
async fn a_store_killed_while_it_makes_its_file_starts_again() {
    let directory = directory();
    let data = directory.path().join("store.redb");
    // What a crash in the middle of making the file leaves.
    std::fs::write(directory.path().join("store.redb.new"), [1; 4096]).expect("writes");
    let store = Process::store(&data, &[]);
    keys(&Wire::to(store.address)).await;
    assert_eq!(store.terminate(), Some(0));
    let names: Vec<_> =
        std::fs::read_dir(directory.path()).expect("reads").map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["store.redb"]);
}
