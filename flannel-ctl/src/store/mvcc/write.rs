//! One revision in the making.

use prost::bytes::Bytes;

use super::{Change, Core, Effects, KeyRange, Refusal};
use crate::store::proto::{
    DeleteRangeRequest, DeleteRangeResponse, KeyValue, PutRequest, PutResponse, RangeRequest, RangeResponse,
    ResponseHeader,
};

/// The writes of one request. They share a revision, and reads between them see what was written so far.
pub(super) struct Writing<'a> {
    core: &'a mut Core,
    effects: &'a mut Effects,
    changes: u32,
}

impl<'a> Writing<'a> {
    pub(super) fn begin(core: &'a mut Core, effects: &'a mut Effects) -> Self {
        Self { core, effects, changes: 0 }
    }

    /// The newest revision now that the request is done.
    pub(super) fn finish(self) -> i64 {
        let revision = self.seen();
        self.core.revision = revision;
        revision
    }

    pub(super) fn range(&self, request: &RangeRequest) -> Result<RangeResponse, Refusal> {
        self.core.range(request, self.seen())
    }

    pub(super) fn put(&mut self, request: &PutRequest) -> Result<PutResponse, Refusal> {
        let revision = self.next();
        let (previous, previous_lease) = match self.core.at(&request.key, revision) {
            Some(kv) => (Some(kv.clone()), kv.lease),
            None if request.ignore_value || request.ignore_lease => return Err(Refusal::KeyNotFound),
            None => (None, 0),
        };
        // Copied, because the bytes of a request are a window into a much larger receive buffer.
        let key = Bytes::copy_from_slice(&request.key);
        let value = match &previous {
            Some(kv) if request.ignore_value => kv.value.clone(),
            _ => Bytes::copy_from_slice(&request.value),
        };
        let lease = if request.ignore_lease { previous_lease } else { request.lease };
        let kv = KeyValue {
            create_revision: previous.as_ref().map_or(revision, |kv| kv.create_revision),
            mod_revision: revision,
            version: previous.as_ref().map_or(0, |kv| kv.version) + 1,
            key,
            value,
            lease,
        };
        self.core.detach(previous_lease, &kv.key);
        self.core.attach(lease, &kv.key);
        self.push(kv);
        Ok(PutResponse {
            header: Some(ResponseHeader::at(revision)),
            prev_kv: if request.prev_kv { previous } else { None },
        })
    }

    pub(super) fn delete_range(&mut self, request: &DeleteRangeRequest) -> DeleteRangeResponse {
        let keys = KeyRange::new(&request.key, &request.range_end);
        let doomed: Vec<KeyValue> = self.core.visible(&keys, self.seen()).cloned().collect();
        for kv in &doomed {
            self.delete(&kv.key);
        }
        DeleteRangeResponse {
            header: Some(ResponseHeader::at(self.seen())),
            deleted: i64::try_from(doomed.len()).unwrap_or(i64::MAX),
            prev_kvs: if request.prev_kv { doomed } else { Vec::new() },
        }
    }

    /// Deletes a key that exists.
    pub(super) fn delete(&mut self, key: &Bytes) {
        let revision = self.next();
        let Some(kv) = self.core.at(key, revision) else { return };
        let (key, lease) = (kv.key.clone(), kv.lease);
        self.core.detach(lease, &key);
        self.push(KeyValue { key, mod_revision: revision, ..KeyValue::default() });
    }

    /// The revision that reads see: the new one as soon as something was written.
    fn seen(&self) -> i64 {
        self.core.revision + i64::from(self.changes > 0)
    }

    fn next(&self) -> i64 {
        self.core.revision + 1
    }

    fn push(&mut self, kv: KeyValue) {
        let change = Change { sub: self.changes, kv };
        self.changes += 1;
        self.core.record(change.clone());
        self.effects.changes.push(change);
    }
}

impl Core {
    /// Adds a change to its key's versions and to the log.
    pub(super) fn record(&mut self, change: Change) {
        self.weight += change.weight();
        self.log_weight += change.weight();
        self.keys.entry(change.kv.key.clone()).or_default().push(change.clone());
        self.log.push_back(change);
    }

    pub(super) fn attach(&mut self, lease: i64, key: &Bytes) {
        if let Some(lease) = self.leases.get_mut(&lease) {
            lease.keys.insert(key.clone());
        }
    }

    fn detach(&mut self, lease: i64, key: &Bytes) {
        if let Some(lease) = self.leases.get_mut(&lease) {
            lease.keys.remove(key);
        }
    }
}
