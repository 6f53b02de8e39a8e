//! The core against a naive model, and against its own file image.

mod model;
mod requests;

use std::collections::BTreeMap;

use proptest::prelude::*;
use prost::bytes::Bytes;

use super::{Change, Core, Effects, KeyRange, Refusal, Saved};
use crate::store::proto::{KeyValue, RangeRequest};
use model::Model;
use requests::{Op, delete, op, put, range_options, touching};

const QUOTA: u64 = 1 << 30;

/// What the file would hold.
#[derive(Default)]
struct Image {
    changes: BTreeMap<(i64, u32), Change>,
    leases: BTreeMap<i64, i64>,
}

impl Image {
    fn commit(&mut self, effects: Effects) {
        for change in effects.changes {
            self.changes.insert((change.revision(), change.sub), change);
        }
        for at in &effects.forgotten {
            self.changes.remove(at);
        }
        for (id, ttl) in effects.leases {
            match ttl {
                Some(ttl) => self.leases.insert(id, ttl),
                None => self.leases.remove(&id),
            };
        }
    }

    fn restore(&self, core: &Core) -> Core {
        let saved = Saved {
            revision: core.revision(),
            compacted: core.compacted(),
            changes: self.changes.values().cloned().collect(),
            leases: self.leases.iter().map(|(&id, &ttl)| (id, ttl)).collect(),
        };
        Core::restore(saved, QUOTA).expect("what the core wrote is sound")
    }
}

fn everything(revision: i64) -> RangeRequest {
    RangeRequest {
        key: Bytes::from_static(&[0]),
        range_end: Bytes::from_static(&[0]),
        revision,
        ..RangeRequest::default()
    }
}

/// Every readable revision, the change log and the leases say the same in both.
fn assert_agrees(core: &Core, model: &Model) {
    assert_eq!((core.revision(), core.compacted()), (model.revision, model.compacted));
    for revision in model.compacted.max(1)..=model.revision {
        let read = core.range(&everything(revision), core.revision()).expect("readable");
        let expected: Vec<KeyValue> = model.at(revision).values().cloned().collect();
        assert_eq!(read.kvs, expected, "revision {revision}");
    }
    for from in model.compacted.max(1)..=model.revision {
        let changes: Vec<(KeyValue, Option<KeyValue>)> = core
            .changes(from, core.revision())
            .map(|change| (change.kv.clone(), core.before(change).cloned()))
            .collect();
        assert_eq!(changes, model.changes_from(from), "changes from {from}");
    }
    for id in 1..4 {
        let expected = model.leases.get(&id).map(|keys| keys.iter().cloned().collect::<Vec<_>>());
        assert_eq!(core.has_lease(id), expected.is_some());
        assert_eq!(core.lease_keys(id), expected.unwrap_or_default());
    }
}

fn apply(core: &mut Core, op: &Op, effects: &mut Effects) -> Result<(), Refusal> {
    match op {
        Op::Put(request) => core.put(request, effects).map(drop),
        Op::Delete(request) => core.delete_range(request, effects).map(drop),
        Op::Txn(request) => core.txn(request, effects).map(drop),
        Op::Compact(back) => core.compact(core.revision() - back, core.revision(), effects),
        Op::Grant(id) => core.grant(*id, 60, effects).map(drop),
        Op::Revoke(id) => core.revoke(*id, effects).map(drop),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn the_core_agrees_with_a_naive_model_and_survives_a_restart(ops in prop::collection::vec(op(), 1..40)) {
        let mut core = Core::new(QUOTA);
        let mut model = Model::new();
        let mut image = Image::default();
        for op in &ops {
            let mut effects = Effects::default();
            let done = apply(&mut core, op, &mut effects);
            prop_assert_eq!(&done, &model.apply(op), "{:?}", op);
            prop_assert!(done.is_ok() || effects.is_empty(), "a refusal must leave nothing behind");
            image.commit(effects);
        }
        assert_agrees(&core, &model);
        assert_agrees(&image.restore(&core), &model);
        let restored = image.restore(&core);
        prop_assert_eq!((restored.weight(), restored.log_weight()), (core.weight(), core.log_weight()));
    }

    #[test]
    fn a_restarted_core_goes_on_as_if_nothing_had_happened(
        ops in prop::collection::vec((op(), prop::bool::weighted(0.2)), 1..60),
    ) {
        let mut core = Core::new(QUOTA);
        let mut model = Model::new();
        let mut image = Image::default();
        for (op, restart) in &ops {
            let mut effects = Effects::default();
            prop_assert_eq!(apply(&mut core, op, &mut effects), model.apply(op), "{:?}", op);
            image.commit(effects);
            if *restart {
                core = image.restore(&core);
            }
        }
        assert_agrees(&core, &model);
        let kept = core.changes(0, i64::MAX).count() + core.keys.values().map(Vec::len).sum::<usize>();
        prop_assert!(image.changes.len() <= kept, "the file must forget what the core forgot");
    }

    #[test]
    fn ranges_filter_sort_and_limit_as_a_naive_reading_does(
        ops in prop::collection::vec(op(), 1..30),
        options in range_options(),
    ) {
        let mut core = Core::new(QUOTA);
        let mut model = Model::new();
        for op in &ops {
            prop_assert_eq!(apply(&mut core, op, &mut Effects::default()), model.apply(op));
        }
        prop_assert_eq!(core.range(&options, core.revision()), model.range(&options));
    }
}

#[test]
fn both_branches_of_a_nested_transaction_may_put_the_same_key_but_no_key_is_written_twice() {
    let nested = |then: &[Op], otherwise: &[Op]| Op::nested(then, otherwise);
    let cases = [
        (vec![put("a", "1"), put("a", "2")], Err(Refusal::DuplicateKey)),
        (vec![put("a", "1"), delete("a", "b")], Err(Refusal::DuplicateKey)),
        (vec![put("a", "1"), delete("b", "c")], Ok(())),
        (vec![nested(&[put("a", "1")], &[put("a", "2")])], Ok(())),
        (vec![nested(&[put("a", "1")], &[]), put("a", "2")], Err(Refusal::DuplicateKey)),
        (vec![nested(&[delete("a", "")], &[]), put("a", "2")], Err(Refusal::DuplicateKey)),
        (vec![delete("a", ""), nested(&[], &[put("a", "1")])], Err(Refusal::DuplicateKey)),
    ];
    for (ops, expected) in cases {
        let request = touching(&ops);
        let done = Core::new(QUOTA).txn(&request, &mut Effects::default()).map(drop);
        assert_eq!(done, expected, "{ops:?}");
    }
}

#[test]
fn a_write_beyond_the_quota_is_refused_until_compaction_gives_room() {
    let mut core = Core::new(2_000);
    let mut effects = Effects::default();
    let Op::Put(request) = put("a", "1") else { unreachable!() };
    let refused = std::iter::repeat_with(|| core.put(&request, &mut effects)).take(100).find(Result::is_err);
    assert_eq!(refused, Some(Err(Refusal::NoSpace)));
    core.compact(core.revision(), core.revision(), &mut effects).expect("compacts");
    core.put(&request, &mut effects).expect("there is room again");
}

#[test]
fn a_reader_does_not_see_beyond_the_revision_that_it_may_see() {
    let mut core = Core::new(QUOTA);
    let mut effects = Effects::default();
    for value in ["1", "2"] {
        let Op::Put(request) = put("a", value) else { unreachable!() };
        core.put(&request, &mut effects).expect("puts");
    }
    let read = core.range(&everything(0), 2).expect("reads");
    assert_eq!(read.kvs.iter().map(|kv| kv.value.as_ref()).collect::<Vec<_>>(), [b"1"]);
    assert_eq!(core.range(&everything(3), 2), Err(Refusal::Future));
}

#[test]
fn a_file_image_that_no_core_wrote_is_refused() {
    let kv = |revision, create, version, lease| Change {
        sub: 0,
        kv: KeyValue {
            key: Bytes::from_static(b"a"),
            mod_revision: revision,
            create_revision: create,
            version,
            lease,
            ..KeyValue::default()
        },
    };
    let broken = [
        Saved { revision: 3, compacted: 4, ..Saved::default() },
        Saved { revision: 0, compacted: -1, ..Saved::default() },
        Saved { revision: 3, compacted: -1, changes: vec![kv(4, 4, 1, 0)], ..Saved::default() },
        Saved { revision: 3, compacted: -1, changes: vec![kv(3, 3, 1, 0), kv(2, 2, 1, 0)], ..Saved::default() },
        Saved { revision: 3, compacted: -1, changes: vec![kv(2, 2, 2, 0)], ..Saved::default() },
        Saved { revision: 3, compacted: -1, changes: vec![kv(2, 2, 1, 0), kv(3, 2, 3, 0)], ..Saved::default() },
        Saved { revision: 3, compacted: -1, changes: vec![kv(2, 2, 1, 7)], ..Saved::default() },
        Saved { revision: 3, compacted: -1, leases: vec![(7, 0)], ..Saved::default() },
    ];
    for saved in broken {
        let text = format!("{saved:?}");
        assert!(Core::restore(saved, QUOTA).is_err(), "{text}");
    }
}

#[test]
fn key_ranges_mean_what_etcd_means_by_them() {
    let range = |key: &'static str, end: &'static [u8]| KeyRange::new(&Bytes::from(key), &Bytes::from(end));
    assert!(range("b", b"").contains(b"b") && !range("b", b"").contains(b"ba"));
    assert!(range("b", b"\0").contains(b"z") && !range("b", b"\0").contains(b"a"));
    assert!(range("b", b"c").contains(b"bz") && !range("b", b"c").contains(b"c"));
    assert!(range("b", b"b").is_empty() && range("c", b"b").is_empty());
}
