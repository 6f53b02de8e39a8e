//! Thousands of leases, a hundred watchers, and how fast. The full ten thousand take an optimised build.

use std::time::{Duration, Instant};

use flannel_ctl::store::proto::{
    LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, PutRequest, PutResponse, WatchResponse,
};
use tonic::Streaming;

use crate::Running;
use crate::wire::{Wire, everything};

const LEASES: usize = if cfg!(debug_assertions) { 2_000 } else { 10_000 };
const WATCHERS: usize = 100;
const CHANGES: usize = 200;
/// Enough that most commits carry many writes.
const WORKERS: usize = 512;

async fn put(wire: Wire, key: String, lease: i64) -> i64 {
    let request = PutRequest { key: key.into(), value: vec![b'x'; 200].into(), lease, ..PutRequest::default() };
    let response: PutResponse = wire.call("KV/Put", request).await.expect("puts");
    response.header.expect("a header").revision
}

async fn events(answers: &mut Streaming<WatchResponse>, wanted: usize) -> Vec<i64> {
    let mut revisions = Vec::new();
    while revisions.len() < wanted {
        let answer = answers.message().await.expect("no error").expect("the stream goes on");
        assert!(!answer.canceled);
        revisions.extend(answer.events.iter().map(|event| event.kv.as_ref().expect("a key").mod_revision));
    }
    revisions
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_leases_are_kept_alive_and_a_hundred_watchers_miss_nothing() {
    let store = Running::start().await;
    let start = Instant::now();
    let mut grants = tokio::task::JoinSet::new();
    let connections: Vec<Wire> = (0..8).map(|_| store.wire()).collect();
    for worker in 0..WORKERS {
        let wire = connections[worker % connections.len()].clone();
        grants.spawn(async move {
            let mut ids = Vec::new();
            for number in (worker..LEASES).step_by(WORKERS) {
                let grant = LeaseGrantRequest { ttl: 3600, id: 0 };
                let granted: LeaseGrantResponse = wire.call("Lease/LeaseGrant", grant).await.expect("grants");
                put(wire.clone(), format!("lease/{number}"), granted.id).await;
                ids.push(granted.id);
            }
            ids
        });
    }
    let ids: Vec<i64> = grants.join_all().await.into_iter().flatten().collect();
    let took = start.elapsed();
    let rate = 2 * LEASES as u128 * 1000 / took.as_millis().max(1);
    eprintln!("{LEASES} leases with a key each: {took:?}, {rate} writes/s");

    let start = Instant::now();
    let (request_tx, mut answers) = store.wire().keep_alive().await;
    let expected = ids.clone();
    let asked = tokio::spawn(async move {
        for id in ids {
            request_tx.send(LeaseKeepAliveRequest { id }).await.expect("asks");
        }
    });
    for id in expected {
        let answer = answers.message().await.expect("no error").expect("an answer");
        assert_eq!((answer.id, answer.ttl), (id, 3600));
    }
    asked.await.expect("asked");
    eprintln!("{LEASES} keep-alives: {:?}", start.elapsed());

    let mut watchers = tokio::task::JoinSet::new();
    let mut open = Vec::new();
    for _ in 0..WATCHERS {
        let (request_tx, mut answers) = store.wire().watch(everything(0)).await;
        assert!(answers.message().await.expect("no error").expect("an answer").created);
        watchers.spawn(async move { events(&mut answers, CHANGES).await });
        open.push(request_tx);
    }
    let start = Instant::now();
    let mut revisions = Vec::new();
    for number in 0..CHANGES {
        revisions.push(put(connections[0].clone(), format!("change/{number}"), 0).await);
    }
    for seen in watchers.join_all().await {
        assert_eq!(seen, revisions);
    }
    eprintln!("{CHANGES} changes to {WATCHERS} watchers: {:?}", start.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_arrives_about_when_its_write_is_answered() {
    let store = Running::start().await;
    let wire = store.wire();
    let (_request_tx, mut answers) = wire.watch(everything(0)).await;
    answers.message().await.expect("no error");
    let (seen_tx, mut seen_rx) = tokio::sync::mpsc::unbounded_channel();
    let reader = tokio::spawn(async move {
        loop {
            let revisions = events(&mut answers, 1).await;
            if seen_tx.send((revisions, Instant::now())).is_err() {
                return;
            }
        }
    });
    let (mut delays, mut writes) = (Vec::new(), Vec::new());
    for number in 0..200 {
        let asked = Instant::now();
        let revision = put(wire.clone(), number.to_string(), 0).await;
        let answered = Instant::now();
        writes.push(answered - asked);
        let (revisions, seen) = seen_rx.recv().await.expect("goes on");
        assert_eq!(revisions, [revision]);
        delays.push(seen.saturating_duration_since(answered));
    }
    reader.abort();
    delays.sort_unstable();
    writes.sort_unstable();
    eprintln!("event after answer: median {:?}, 99th percentile {:?}", delays[100], delays[198]);
    // Alone it is far below a millisecond; a busy machine delays the writes as well.
    assert!(delays[100] < Duration::from_millis(20) + writes[100], "{:?}, writes {:?}", delays[100], writes[100]);
}
