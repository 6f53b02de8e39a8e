//! The naive model: a whole snapshot per revision.

use std::collections::{BTreeMap, BTreeSet};

use prost::bytes::Bytes;

use super::requests::Op;
use crate::store::mvcc::{KeyRange, Refusal, check_put, check_txn};
use crate::store::proto::{
    Compare, DeleteRangeRequest, KeyValue, Operand, PutRequest, RangeRequest, RangeResponse, RequestKind,
    ResponseHeader, TxnRequest,
};

type Snapshot = BTreeMap<Bytes, KeyValue>;

pub(super) struct Model {
    pub(super) revision: i64,
    pub(super) compacted: i64,
    pub(super) leases: BTreeMap<i64, BTreeSet<Bytes>>,
    snapshots: BTreeMap<i64, Snapshot>,
    changes: Vec<KeyValue>,
}

impl Model {
    pub(super) fn new() -> Self {
        Self {
            revision: 1,
            compacted: -1,
            leases: BTreeMap::new(),
            snapshots: BTreeMap::from([(1, Snapshot::new())]),
            changes: Vec::new(),
        }
    }

    pub(super) fn at(&self, revision: i64) -> &Snapshot {
        &self.snapshots[&revision]
    }

    pub(super) fn changes_from(&self, from: i64) -> Vec<(KeyValue, Option<KeyValue>)> {
        let before = |kv: &KeyValue| {
            let revision = kv.mod_revision - 1;
            if revision < self.compacted { None } else { self.at(revision).get(&kv.key).cloned() }
        };
        self.changes.iter().filter(|kv| kv.mod_revision >= from).map(|kv| (kv.clone(), before(kv))).collect()
    }

    pub(super) fn apply(&mut self, op: &Op) -> Result<(), Refusal> {
        let mut next = Next { revision: self.revision + 1, now: self.at(self.revision).clone(), changes: Vec::new() };
        match op {
            Op::Put(request) => {
                check_put(request)?;
                self.check_lease(request.lease)?;
                next.put(request)?;
            }
            Op::Delete(request) => next.delete(request),
            Op::Txn(request) => self.txn(request, &mut next)?,
            Op::Compact(back) => {
                let revision = self.revision - back;
                if revision <= self.compacted {
                    return Err(Refusal::Compacted);
                }
                if revision > self.revision {
                    return Err(Refusal::Future);
                }
                self.compacted = revision;
            }
            Op::Grant(id) if self.leases.contains_key(id) => return Err(Refusal::LeaseExists),
            Op::Grant(id) => drop(self.leases.insert(*id, BTreeSet::new())),
            Op::Revoke(id) => {
                for key in self.leases.remove(id).ok_or(Refusal::LeaseNotFound)? {
                    next.delete(&DeleteRangeRequest { key, ..DeleteRangeRequest::default() });
                }
            }
        }
        if !next.changes.is_empty() {
            self.revision = next.revision;
            self.snapshots.insert(next.revision, next.now);
            self.changes.extend(next.changes);
        }
        for (id, keys) in &mut self.leases {
            let attached = self.snapshots[&self.revision].values().filter(|kv| kv.lease == *id);
            *keys = attached.map(|kv| kv.key.clone()).collect();
        }
        Ok(())
    }

    pub(super) fn range(&self, request: &RangeRequest) -> Result<RangeResponse, Refusal> {
        if request.revision > self.revision {
            return Err(Refusal::Future);
        }
        let revision = if request.revision == 0 { self.revision } else { request.revision };
        if revision < self.compacted {
            return Err(Refusal::Compacted);
        }
        let keys = KeyRange::new(&request.key, &request.range_end);
        let found: Vec<KeyValue> = self.at(revision).values().filter(|kv| keys.contains(&kv.key)).cloned().collect();
        let mut response = RangeResponse {
            header: Some(ResponseHeader::at(self.revision)),
            count: i64::try_from(found.len()).expect("few"),
            ..RangeResponse::default()
        };
        if request.count_only {
            return Ok(response);
        }
        let bounded = |value: i64, min: i64, max: i64| (min == 0 || value >= min) && (max == 0 || value <= max);
        let filtered = request.min_mod_revision
            + request.max_mod_revision
            + request.min_create_revision
            + request.max_create_revision
            > 0;
        let limit = usize::try_from(request.limit).expect("not negative");
        let mut kvs = found;
        // etcd's oddity: without an order and without filters it cuts in key order and sorts what is left.
        if limit > 0 && request.sort_order == 0 && !filtered {
            kvs.truncate(limit + 1);
        }
        kvs.retain(|kv| {
            bounded(kv.mod_revision, request.min_mod_revision, request.max_mod_revision)
                && bounded(kv.create_revision, request.min_create_revision, request.max_create_revision)
        });
        let rank = |kv: &KeyValue| match request.sort_target {
            1 => (kv.version, Bytes::new()),
            2 => (kv.create_revision, Bytes::new()),
            3 => (kv.mod_revision, Bytes::new()),
            4 => (0, kv.value.clone()),
            _ => (0, kv.key.clone()),
        };
        kvs.sort_by(|a, b| if request.sort_order == 2 { rank(b).cmp(&rank(a)) } else { rank(a).cmp(&rank(b)) });
        response.more = limit > 0 && kvs.len() > limit;
        kvs.truncate(if limit == 0 { usize::MAX } else { limit });
        for kv in &mut kvs {
            if request.keys_only {
                kv.value = Bytes::new();
            }
        }
        response.kvs = kvs;
        Ok(response)
    }

    fn txn(&self, request: &TxnRequest, next: &mut Next) -> Result<(), Refusal> {
        check_txn(request)?;
        let before = next.now.clone();
        let succeeded = request.compare.iter().all(|compare| holds(&before, compare));
        let ops = if succeeded { &request.success } else { &request.failure };
        for op in ops {
            if let Some(RequestKind::Put(put)) = &op.request {
                if (put.ignore_value || put.ignore_lease) && !before.contains_key(&put.key) {
                    return Err(Refusal::KeyNotFound);
                }
                self.check_lease(put.lease)?;
            }
        }
        for op in ops {
            match &op.request {
                Some(RequestKind::Put(put)) => next.put(put)?,
                Some(RequestKind::DeleteRange(delete)) => next.delete(delete),
                _ => {}
            }
        }
        Ok(())
    }

    fn check_lease(&self, id: i64) -> Result<(), Refusal> {
        if id == 0 || self.leases.contains_key(&id) { Ok(()) } else { Err(Refusal::LeaseNotFound) }
    }
}

struct Next {
    revision: i64,
    now: Snapshot,
    changes: Vec<KeyValue>,
}

impl Next {
    fn put(&mut self, request: &PutRequest) -> Result<(), Refusal> {
        let old = self.now.get(&request.key).cloned();
        if old.is_none() && (request.ignore_value || request.ignore_lease) {
            return Err(Refusal::KeyNotFound);
        }
        let old = old.unwrap_or(KeyValue { create_revision: self.revision, ..KeyValue::default() });
        let kv = KeyValue {
            key: request.key.clone(),
            value: if request.ignore_value { old.value } else { request.value.clone() },
            lease: if request.ignore_lease { old.lease } else { request.lease },
            create_revision: old.create_revision,
            mod_revision: self.revision,
            version: old.version + 1,
        };
        self.changes.push(kv.clone());
        self.now.insert(kv.key.clone(), kv);
        Ok(())
    }

    fn delete(&mut self, request: &DeleteRangeRequest) {
        let keys = KeyRange::new(&request.key, &request.range_end);
        let doomed: Vec<Bytes> = self.now.keys().filter(|key| keys.contains(key)).cloned().collect();
        for key in doomed {
            self.now.remove(&key);
            self.changes.push(KeyValue { key, mod_revision: self.revision, ..KeyValue::default() });
        }
    }
}

fn holds(now: &Snapshot, compare: &Compare) -> bool {
    let keys = KeyRange::new(&compare.key, &compare.range_end);
    let mut found: Vec<KeyValue> = now.values().filter(|kv| keys.contains(&kv.key)).cloned().collect();
    if found.is_empty() {
        if compare.target == 3 {
            return false;
        }
        found.push(KeyValue::default());
    }
    found.iter().all(|kv| {
        let ordering = match compare.operand.as_ref().expect("always given here") {
            Operand::Version(n) => kv.version.cmp(n),
            Operand::Create(n) => kv.create_revision.cmp(n),
            Operand::Mod(n) => kv.mod_revision.cmp(n),
            Operand::Lease(n) => kv.lease.cmp(n),
            Operand::Value(value) => kv.value.cmp(value),
        };
        match compare.result {
            0 => ordering.is_eq(),
            1 => ordering.is_gt(),
            2 => ordering.is_lt(),
            _ => ordering.is_ne(),
        }
    })
}
