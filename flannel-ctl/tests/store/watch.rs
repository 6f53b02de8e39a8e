//! Watches, on the wire.

use std::time::Duration;

use flannel_ctl::store::proto::{
    CompactionRequest, CompactionResponse, DeleteRangeRequest, DeleteRangeResponse, Event, PutRequest, PutResponse,
    WatchCancelRequest, WatchCreateRequest, WatchFilter, WatchProgressRequest, WatchRequest, WatchRequestKind,
    WatchResponse,
};
use tonic::Streaming;

use crate::Running;
use crate::wire::{Wire, create, everything};

async fn put(wire: &Wire, key: &'static str, value: &'static str) -> i64 {
    let request = PutRequest { key: key.into(), value: value.into(), ..PutRequest::default() };
    let response: PutResponse = wire.call("KV/Put", request).await.expect("puts");
    response.header.expect("a header").revision
}

async fn delete(wire: &Wire, key: &'static str) {
    let request = DeleteRangeRequest { key: key.into(), ..DeleteRangeRequest::default() };
    wire.call::<_, DeleteRangeResponse>("KV/DeleteRange", request).await.expect("deletes");
}

async fn compact(wire: &Wire, revision: i64) {
    let request = CompactionRequest { revision, physical: false };
    wire.call::<_, CompactionResponse>("KV/Compact", request).await.expect("compacts");
}

async fn next(answers: &mut Streaming<WatchResponse>) -> WatchResponse {
    let next = tokio::time::timeout(Duration::from_secs(20), answers.message()).await.expect("in time");
    next.expect("no error").expect("the stream goes on")
}

fn described(events: &[Event]) -> Vec<String> {
    let describe = |event: &Event| {
        let kv = event.kv.as_ref().expect("a key");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let before = event.prev_kv.as_ref().map_or_else(String::new, |kv| format!(" was {}", text(&kv.value)));
        match event.r#type {
            0 => format!("{} {}={}{before}", kv.mod_revision, text(&kv.key), text(&kv.value)),
            _ => format!("{} {} deleted{before}", kv.mod_revision, text(&kv.key)),
        }
    };
    events.iter().map(describe).collect()
}

#[tokio::test]
async fn history_comes_first_and_then_what_happens() {
    let store = Running::start().await;
    let wire = store.wire();
    put(&wire, "a", "1").await;
    put(&wire, "b", "1").await;
    delete(&wire, "a").await;
    let (_request_tx, mut answers) = wire.watch(WatchCreateRequest { prev_kv: true, ..everything(2) }).await;
    let created = next(&mut answers).await;
    assert!(created.created && created.events.is_empty());
    let history = next(&mut answers).await;
    assert_eq!(described(&history.events), ["2 a=1", "3 b=1", "4 a deleted was 1"]);
    assert_eq!(history.header.expect("a header").revision, 4);
    put(&wire, "b", "2").await;
    assert_eq!(described(&next(&mut answers).await.events), ["5 b=2 was 1"]);
}

#[tokio::test]
async fn watchers_of_one_stream_see_only_their_keys_and_kinds() {
    let store = Running::start().await;
    let wire = store.wire();
    let one =
        |key: &'static str, filters| WatchCreateRequest { key: key.into(), filters, ..WatchCreateRequest::default() };
    let (request_tx, mut answers) = wire.watch(one("a", Vec::new())).await;
    request_tx.send(create(one("b", vec![WatchFilter::NoPut as i32]))).await.expect("asks");
    assert_eq!((next(&mut answers).await.watch_id, next(&mut answers).await.watch_id), (0, 1));
    put(&wire, "b", "1").await;
    put(&wire, "c", "1").await;
    put(&wire, "a", "1").await;
    delete(&wire, "b").await;
    let first = next(&mut answers).await;
    assert_eq!((first.watch_id, described(&first.events)), (0, vec!["4 a=1".to_owned()]));
    let second = next(&mut answers).await;
    assert_eq!((second.watch_id, described(&second.events)), (1, vec!["5 b deleted".to_owned()]));
}

#[tokio::test]
async fn a_watch_from_a_compacted_revision_is_cancelled_with_the_revision_to_go_on_from() {
    let store = Running::start().await;
    let wire = store.wire();
    for value in ["1", "2", "3", "4"] {
        put(&wire, "a", value).await;
    }
    compact(&wire, 4).await;
    let (request_tx, mut answers) = wire.watch(everything(3)).await;
    assert!(next(&mut answers).await.created);
    let cancelled = next(&mut answers).await;
    assert!(cancelled.canceled);
    assert_eq!(cancelled.compact_revision, 4);
    request_tx.send(create(everything(4))).await.expect("asks");
    assert!(next(&mut answers).await.created);
    assert_eq!(described(&next(&mut answers).await.events), ["4 a=3", "5 a=4"]);
}

#[tokio::test]
async fn cancel_ends_one_watcher_and_progress_tells_what_was_delivered() {
    let store = Running::start().await;
    let wire = store.wire();
    let (request_tx, mut answers) = wire.watch(everything(0)).await;
    request_tx.send(create(everything(0))).await.expect("asks");
    next(&mut answers).await;
    next(&mut answers).await;
    let cancel = WatchRequestKind::Cancel(WatchCancelRequest { watch_id: 0 });
    request_tx.send(WatchRequest { request: Some(cancel) }).await.expect("asks");
    let cancelled = next(&mut answers).await;
    assert!(cancelled.canceled && cancelled.watch_id == 0 && cancelled.compact_revision == 0);
    let revision = put(&wire, "a", "1").await;
    let progress = WatchRequestKind::Progress(WatchProgressRequest {});
    request_tx.send(WatchRequest { request: Some(progress) }).await.expect("asks");
    assert_eq!(next(&mut answers).await.watch_id, 1);
    let told = next(&mut answers).await;
    assert_eq!((told.watch_id, told.header.expect("a header").revision), (-1, revision));
    assert!(told.events.is_empty());
}

#[tokio::test]
async fn a_watch_that_cannot_be_is_refused_on_its_stream_and_the_stream_goes_on() {
    let store = Running::start().await;
    let wire = store.wire();
    let empty = WatchCreateRequest { key: "b".into(), range_end: "a".into(), ..WatchCreateRequest::default() };
    let (request_tx, mut answers) = wire.watch(empty).await;
    let named = || WatchCreateRequest { watch_id: 7, ..everything(0) };
    for request in [everything(-1), named(), named()] {
        request_tx.send(create(request)).await.expect("asks");
    }
    let mut reasons = Vec::new();
    for _ in 0..4 {
        let answer = next(&mut answers).await;
        assert!(answer.created);
        assert_eq!(answer.canceled, answer.watch_id == -1);
        reasons.push(answer.cancel_reason);
    }
    assert_eq!(
        reasons,
        [
            "mvcc: watcher range is empty",
            "etcdserver: mvcc: required revision has been compacted",
            "",
            "mvcc: duplicate watch ID provided on the WatchStream",
        ]
    );
}

#[tokio::test]
async fn a_watcher_that_does_not_read_holds_up_nobody_and_is_told_what_it_missed() {
    const VALUE: &str = "0123456789abcdef";
    let store = Running::start_with(|options| options.limits.keep_revisions = 20).await;
    let wire = store.wire();
    // Small windows and large values, so that little of it fits between server and client.
    let (_slow_tx, mut slow) = store.wire().watch(everything(2)).await;
    assert!(next(&mut slow).await.created);
    for round in 0..400_i64 {
        let value = VALUE.repeat(16 << 10);
        let request = PutRequest { key: "a".into(), value: value.into(), ..PutRequest::default() };
        let put: PutResponse = wire.call("KV/Put", request).await.expect("writers go on");
        assert_eq!(put.header.expect("a header").revision, round + 2);
    }
    let mut last = 1;
    let cancelled = loop {
        let answer = next(&mut slow).await;
        if answer.canceled {
            break answer;
        }
        for event in &answer.events {
            let revision = event.kv.as_ref().expect("a key").mod_revision;
            assert_eq!(revision, last + 1, "no gap before it is told");
            last = revision;
        }
    };
    assert!(cancelled.compact_revision > last + 1, "told at {last}: {}", cancelled.compact_revision);
}
