//! The same requests to the store and to a real etcd: the answers are equal, errors and all.

use flannel_ctl::store::proto::{
    CompactionRequest, CompactionResponse, Compare, DeleteRangeRequest, DeleteRangeResponse, LeaseGrantRequest,
    LeaseGrantResponse, LeaseLeasesRequest, LeaseLeasesResponse, LeaseRevokeRequest, LeaseRevokeResponse,
    LeaseTimeToLiveRequest, LeaseTimeToLiveResponse, Operand, PutRequest, PutResponse, RangeRequest, RangeResponse,
    RequestKind, RequestOp, ResponseHeader, TxnRequest, TxnResponse, WatchCreateRequest, WatchResponse,
};
use prost::Message;
use prost::bytes::Bytes;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use tonic::{Code, Status};

use crate::directory;
use crate::process::{Process, installed};
use crate::wire::{Wire, everything};

const STEPS: usize = 400;
const KEYS: [&str; 6] = ["a", "b", "ba", "c", "d", "e"];
const LEASE_IDS: [i64; 4] = [11, 12, 13, 14];

#[derive(Clone, Debug)]
enum Step {
    Range(RangeRequest),
    Put(PutRequest),
    Delete(DeleteRangeRequest),
    Txn(TxnRequest),
    Compact(CompactionRequest),
    Grant(LeaseGrantRequest),
    Revoke(LeaseRevokeRequest),
    TimeToLive(LeaseTimeToLiveRequest),
    Leases,
}

/// An answer without what must differ: who gave it, and when.
type Answer = Result<String, (Code, String)>;

async fn call<Q, R>(wire: &Wire, method: &str, request: Q, strip: impl FnOnce(&mut R)) -> Answer
where
    Q: Message + 'static,
    R: Message + Default + std::fmt::Debug + 'static,
{
    let answer: Result<R, Status> = wire.call(method, request).await;
    match answer {
        Ok(mut response) => {
            strip(&mut response);
            Ok(format!("{response:?}"))
        }
        Err(status) => Err((status.code(), status.message().to_owned())),
    }
}

fn anonymous(header: &mut Option<ResponseHeader>) {
    *header = header.map(|header| ResponseHeader::at(header.revision));
}

async fn perform(wire: &Wire, step: Step) -> Answer {
    match step {
        Step::Range(request) => call(wire, "KV/Range", request, |r: &mut RangeResponse| anonymous(&mut r.header)).await,
        Step::Put(request) => call(wire, "KV/Put", request, |r: &mut PutResponse| anonymous(&mut r.header)).await,
        Step::Delete(request) => {
            call(wire, "KV/DeleteRange", request, |r: &mut DeleteRangeResponse| anonymous(&mut r.header)).await
        }
        Step::Txn(request) => call(wire, "KV/Txn", request, |r: &mut TxnResponse| anonymous(&mut r.header)).await,
        Step::Compact(request) => {
            call(wire, "KV/Compact", request, |r: &mut CompactionResponse| anonymous(&mut r.header)).await
        }
        Step::Grant(request) => {
            call(wire, "Lease/LeaseGrant", request, |r: &mut LeaseGrantResponse| anonymous(&mut r.header)).await
        }
        Step::Revoke(request) => {
            call(wire, "Lease/LeaseRevoke", request, |r: &mut LeaseRevokeResponse| anonymous(&mut r.header)).await
        }
        Step::TimeToLive(request) => {
            call(wire, "Lease/LeaseTimeToLive", request, |r: &mut LeaseTimeToLiveResponse| {
                anonymous(&mut r.header);
                r.ttl = r.ttl.signum();
                r.keys.sort();
            })
            .await
        }
        Step::Leases => {
            call(wire, "Lease/LeaseLeases", LeaseLeasesRequest {}, |r: &mut LeaseLeasesResponse| {
                anonymous(&mut r.header);
                r.leases.sort_by_key(|lease| lease.id);
            })
            .await
        }
    }
}

/// Requests from a seed. `revision` is about where the store is.
struct Source {
    random: StdRng,
    revision: i64,
}

impl Source {
    fn step(&mut self) -> Step {
        match self.random.random_range(0..100) {
            0..25 => Step::Put(self.put()),
            25..45 => Step::Range(self.range()),
            45..60 => Step::Delete(self.delete()),
            60..80 => Step::Txn(self.txn(2)),
            80..84 => Step::Compact(CompactionRequest { revision: self.around() - 5, physical: false }),
            84..90 => {
                Step::Grant(LeaseGrantRequest { ttl: *self.pick(&[1000, 1000, 9_000_000_001]), id: self.lease() })
            }
            90..93 => Step::Revoke(LeaseRevokeRequest { id: self.lease() }),
            93..97 => Step::TimeToLive(LeaseTimeToLiveRequest { id: self.lease(), keys: self.random.random() }),
            _ => Step::Leases,
        }
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        from.choose(&mut self.random).expect("not empty")
    }

    fn key(&mut self) -> Bytes {
        if self.random.random_bool(0.02) { Bytes::new() } else { Bytes::from(*self.pick(&KEYS)) }
    }

    fn end(&mut self) -> Bytes {
        match self.random.random_range(0..10) {
            0..5 => Bytes::new(),
            5 => Bytes::from_static(&[0]),
            _ => Bytes::from(*self.pick(&KEYS)),
        }
    }

    fn value(&mut self) -> Bytes {
        Bytes::from(*self.pick(&["", "x", "y", "zz"]))
    }

    fn lease(&mut self) -> i64 {
        *self.pick(&LEASE_IDS)
    }

    fn around(&mut self) -> i64 {
        self.revision + self.random.random_range(-12..3)
    }

    fn sometimes(&mut self) -> bool {
        self.random.random_bool(0.15)
    }

    fn put(&mut self) -> PutRequest {
        let ignore_value = self.sometimes();
        let ignore_lease = self.sometimes();
        PutRequest {
            key: self.key(),
            value: if ignore_value && !self.sometimes() { Bytes::new() } else { self.value() },
            lease: if ignore_lease || self.random.random_bool(0.6) { 0 } else { self.lease() },
            prev_kv: self.random.random(),
            ignore_value,
            ignore_lease,
        }
    }

    fn delete(&mut self) -> DeleteRangeRequest {
        DeleteRangeRequest { key: self.key(), range_end: self.end(), prev_kv: self.random.random() }
    }

    fn range(&mut self) -> RangeRequest {
        let mut bound =
            |odds: f64| if self.random.random_bool(odds) { self.revision - self.random.random_range(0..15) } else { 0 };
        let [min_mod_revision, max_mod_revision, min_create_revision, max_create_revision] = [0.1; 4].map(&mut bound);
        RangeRequest {
            revision: if self.random.random_bool(0.4) { self.around() } else { 0 },
            key: self.key(),
            range_end: self.end(),
            limit: *self.pick(&[0, 0, 1, 2, 3]),
            sort_order: self.random.random_range(0..3),
            sort_target: self.random.random_range(0..5),
            keys_only: self.sometimes(),
            count_only: self.sometimes(),
            serializable: self.sometimes(),
            min_mod_revision,
            max_mod_revision,
            min_create_revision,
            max_create_revision,
        }
    }

    fn compare(&mut self) -> Compare {
        let revision = self.around();
        let (target, operand) = match self.random.random_range(0..5) {
            0 => (0, Operand::Version(self.random.random_range(0..4))),
            1 => (1, Operand::Create(*self.pick(&[0, revision]))),
            2 => (2, Operand::Mod(*self.pick(&[0, revision]))),
            3 => (3, Operand::Value(self.value())),
            _ => (4, Operand::Lease(*self.pick(&[0, 11, 12]))),
        };
        Compare {
            result: self.random.random_range(0..4),
            target,
            key: self.key(),
            range_end: self.end(),
            operand: Some(operand),
        }
    }

    fn txn(&mut self, depth: usize) -> TxnRequest {
        let count = self.random.random_range(0..3);
        TxnRequest {
            compare: (0..count).map(|_| self.compare()).collect(),
            success: self.ops(depth),
            failure: self.ops(depth),
        }
    }

    fn ops(&mut self, depth: usize) -> Vec<RequestOp> {
        let count = self.random.random_range(0..4);
        (0..count)
            .map(|_| RequestOp {
                request: Some(match self.random.random_range(0..10) {
                    0..4 => RequestKind::Put(self.put()),
                    4..6 => RequestKind::DeleteRange(self.txn_delete()),
                    6..9 => RequestKind::Range(self.range()),
                    _ if depth > 0 => RequestKind::Txn(self.txn(depth - 1)),
                    _ => RequestKind::Put(self.put()),
                }),
            })
            .collect()
    }

    /// etcd 3.4 looks for overlaps with an open-ended delete in the wrong place and lets them through; the store refuses
    /// them, as it does any other key written twice.
    fn txn_delete(&mut self) -> DeleteRangeRequest {
        let delete = self.delete();
        if delete.range_end.as_ref() == [0] { DeleteRangeRequest { range_end: Bytes::new(), ..delete } } else { delete }
    }
}

/// Everything that a watch tells from a revision on, one line per event, up to `last`.
async fn told(wire: &Wire, request: WatchCreateRequest, last: i64) -> Vec<String> {
    let (_request_tx, mut answers) = wire.watch(request).await;
    let mut lines = Vec::new();
    let mut seen = 0;
    while seen < last {
        let next = tokio::time::timeout(std::time::Duration::from_secs(30), answers.message()).await;
        let next = next.unwrap_or_else(|_| panic!("no word after {lines:?}"));
        let answer: WatchResponse = next.expect("no error").expect("the stream goes on");
        if answer.canceled {
            lines.push(format!("cancelled {} {:?}", answer.compact_revision, answer.cancel_reason));
            break;
        }
        for event in &answer.events {
            seen = seen.max(event.kv.as_ref().expect("a key").mod_revision);
            lines.push(format!("{event:?}"));
        }
    }
    lines
}

async fn wait_for(wire: &Wire) {
    for _ in 0..600 {
        if perform(wire, Step::Leases).await.is_ok() {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    panic!("etcd did not come up");
}

async fn compare_with_etcd(seed: u64) {
    let directory = directory();
    let store = Process::store(&directory.path().join("store.redb"), &[]);
    let etcd = Process::etcd(&directory.path().join("etcd"));
    let (ours, theirs) = (Wire::to(store.address), Wire::to(etcd.address));
    wait_for(&theirs).await;

    // Lives so short that they would end at different steps are given back at once.
    for ttl in [-1, 0, 1, 2, 3] {
        for step in [Step::Grant(LeaseGrantRequest { ttl, id: 9 }), Step::Revoke(LeaseRevokeRequest { id: 9 })] {
            assert_eq!(perform(&ours, step.clone()).await, perform(&theirs, step.clone()).await, "{step:?}");
        }
    }

    let mut source = Source { random: StdRng::seed_from_u64(seed), revision: 1 };
    let mut compacted = 1;
    let mut refusals = 0;
    for number in 0..STEPS {
        let step = source.step();
        let (our_answer, their_answer) = tokio::join!(perform(&ours, step.clone()), perform(&theirs, step.clone()));
        assert_eq!(our_answer, their_answer, "seed {seed}, step {number}: {step:#?}");
        refusals += usize::from(our_answer.is_err());
        if let (Ok(_), Step::Compact(request)) = (&our_answer, &step) {
            compacted = request.revision.max(1);
        }
        let header: RangeResponse = ours
            .call("KV/Range", RangeRequest { key: "a".into(), count_only: true, ..RangeRequest::default() })
            .await
            .expect("reads");
        source.revision = header.header.expect("a header").revision;
    }
    assert!(refusals > 10 && refusals < STEPS / 2, "{refusals} refusals: the requests prove little");

    // A last change that every watch below sees.
    let last = PutRequest { key: "a".into(), value: "last".into(), ..PutRequest::default() };
    for wire in [&ours, &theirs] {
        perform(wire, Step::Put(last.clone())).await.expect("puts");
    }
    let last = source.revision + 1;
    let one = |start_revision| WatchCreateRequest { key: "a".into(), start_revision, ..WatchCreateRequest::default() };
    assert!(compacted > 1, "nothing was compacted: the requests prove little");
    for request in [
        everything(compacted + 1),
        WatchCreateRequest { prev_kv: true, ..everything(compacted + 1) },
        WatchCreateRequest { filters: vec![1], ..everything(compacted + 1) },
        one(compacted + 1),
        everything(compacted - 1),
        WatchCreateRequest { range_end: "a".into(), ..one(0) },
    ] {
        let (our_words, their_words) =
            tokio::join!(told(&ours, request.clone(), last), told(&theirs, request.clone(), last));
        assert_eq!(our_words, their_words, "seed {seed}: {request:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_store_answers_as_etcd_does() {
    if !installed("etcd", "etcd-server") {
        return;
    }
    let seeds =
        std::env::var("STORE_SEED").ok().and_then(|seed| seed.parse().ok()).map_or(vec![1, 2, 3], |seed| vec![seed]);
    for seed in seeds {
        compare_with_etcd(seed).await;
    }
}
