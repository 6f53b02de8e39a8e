//! PURE: every version of every key, and etcd's rules for reading and writing them.
//!
//! Each writing request makes one revision; each key remembers its versions down to the compacted revision; the change
//! log remembers what happened, in order, for watches. Nothing here waits, reads a clock or touches a file: what a write
//! did comes back as [`Effects`] for whoever makes it durable. A reader names the newest revision that it may see, so
//! that writes still on their way to the disk stay invisible.

mod check;
mod compact;
mod range;
mod refusal;
mod restore;
#[cfg(test)]
mod tests;
mod txn;
mod write;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use prost::bytes::Bytes;

use crate::store::proto::{
    DeleteRangeRequest, DeleteRangeResponse, KeyValue, PutRequest, PutResponse, ResponseHeader, TxnRequest, TxnResponse,
};

pub use check::{check_delete, check_put, check_range, check_txn};
pub use range::KeyRange;
pub use refusal::Refusal;
pub use restore::{Damage, Saved};
use write::Writing;

/// The longest life that a lease may ask for, in seconds (etcd's limit).
pub const MAX_LEASE_TTL: i64 = 9_000_000_000;
/// The shortest life that a lease gets, in seconds: what etcd grants with its default election timeout.
pub const MIN_LEASE_TTL: i64 = 2;

/// One write of one key. The change is a deletion when `kv.version` is 0; `kv` then holds the key and the revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Position among the changes of the same revision.
    pub sub: u32,
    pub kv: KeyValue,
}

impl Change {
    pub fn revision(&self) -> i64 {
        self.kv.mod_revision
    }

    pub fn is_deletion(&self) -> bool {
        self.kv.version == 0
    }

    /// What the change costs in memory, roughly: what it holds, and the maps around it.
    fn weight(&self) -> u64 {
        const OVERHEAD: usize = 200;
        (self.kv.key.len() + self.kv.value.len() + OVERHEAD) as u64
    }
}

/// What one or more writes did, for the file: all of it is made durable together, or none.
#[derive(Debug, Default)]
pub struct Effects {
    pub changes: Vec<Change>,
    /// Leases by id; `Some(ttl)` was granted, `None` is gone.
    pub leases: BTreeMap<i64, Option<i64>>,
    /// Revision and position of changes that compaction made superfluous.
    pub forgotten: BTreeSet<(i64, u32)>,
    /// Whether the compacted revision moved.
    pub compacted: bool,
}

impl Effects {
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.leases.is_empty() && self.forgotten.is_empty() && !self.compacted
    }
}

#[derive(Debug, Default)]
struct Lease {
    ttl: i64,
    keys: BTreeSet<Bytes>,
}

/// The whole state of a store.
#[derive(Debug)]
pub struct Core {
    /// Per key, oldest first.
    keys: BTreeMap<Bytes, Vec<Change>>,
    /// All changes from the compacted revision on, oldest first.
    log: VecDeque<Change>,
    leases: BTreeMap<i64, Lease>,
    revision: i64,
    compacted: i64,
    /// Bytes held by `keys` and by `log`.
    weight: u64,
    log_weight: u64,
    quota: u64,
}

impl Core {
    /// An empty store at revision 1, as etcd starts. Writes that add data are refused once about `quota` bytes are held.
    pub fn new(quota: u64) -> Self {
        Self {
            keys: BTreeMap::new(),
            log: VecDeque::new(),
            leases: BTreeMap::new(),
            revision: 1,
            compacted: -1,
            weight: 0,
            log_weight: 0,
            quota,
        }
    }

    /// The newest revision.
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// The oldest revision that can still be read; -1 before the first compaction.
    pub fn compacted(&self) -> i64 {
        self.compacted
    }

    /// Bytes held by the change log, which compaction gives back.
    pub fn log_weight(&self) -> u64 {
        self.log_weight
    }

    /// Bytes held altogether.
    pub fn weight(&self) -> u64 {
        self.weight + self.log_weight
    }

    /// Writes one key.
    pub fn put(&mut self, request: &PutRequest, effects: &mut Effects) -> Result<PutResponse, Refusal> {
        check_put(request)?;
        self.check_room(request.key.len() + request.value.len())?;
        if request.lease != 0 && !self.leases.contains_key(&request.lease) {
            return Err(Refusal::LeaseNotFound);
        }
        let mut writing = Writing::begin(self, effects);
        let response = writing.put(request)?;
        writing.finish();
        Ok(response)
    }

    /// Deletes one key or a range of them.
    pub fn delete_range(
        &mut self,
        request: &DeleteRangeRequest,
        effects: &mut Effects,
    ) -> Result<DeleteRangeResponse, Refusal> {
        check_delete(request)?;
        let mut writing = Writing::begin(self, effects);
        let response = writing.delete_range(request);
        writing.finish();
        Ok(response)
    }

    /// Compares, then does one of two lists of operations, as one revision.
    pub fn txn(&mut self, request: &TxnRequest, effects: &mut Effects) -> Result<TxnResponse, Refusal> {
        check_txn(request)?;
        let decided = txn::decide(self, request);
        if decided.adds_data() {
            self.check_room(prost::Message::encoded_len(request))?;
        }
        decided.check(self)?;
        let mut writing = Writing::begin(self, effects);
        let mut response = decided.apply(&mut writing)?;
        response.header = Some(ResponseHeader::at(writing.finish()));
        Ok(response)
    }

    /// Grants a lease; answers the TTL granted, in seconds.
    pub fn grant(&mut self, id: i64, ttl: i64, effects: &mut Effects) -> Result<i64, Refusal> {
        if id == 0 {
            return Err(Refusal::LeaseNotFound);
        }
        if ttl > MAX_LEASE_TTL {
            return Err(Refusal::LeaseTtlTooLarge);
        }
        if self.leases.contains_key(&id) {
            return Err(Refusal::LeaseExists);
        }
        self.check_room(0)?;
        let ttl = ttl.max(MIN_LEASE_TTL);
        self.leases.insert(id, Lease { ttl, keys: BTreeSet::new() });
        effects.leases.insert(id, Some(ttl));
        Ok(ttl)
    }

    /// Ends a lease and deletes its keys, as one revision. Answers the newest revision.
    pub fn revoke(&mut self, id: i64, effects: &mut Effects) -> Result<i64, Refusal> {
        let keys = self.leases.get(&id).ok_or(Refusal::LeaseNotFound)?.keys.clone();
        let mut writing = Writing::begin(self, effects);
        for key in keys {
            writing.delete(&key);
        }
        let revision = writing.finish();
        self.leases.remove(&id);
        effects.leases.insert(id, None);
        Ok(revision)
    }

    /// Whether a lease exists.
    pub fn has_lease(&self, id: i64) -> bool {
        self.leases.contains_key(&id)
    }

    /// Lease ids with their TTL in seconds.
    pub fn leases(&self) -> impl Iterator<Item = (i64, i64)> {
        self.leases.iter().map(|(&id, lease)| (id, lease.ttl))
    }

    /// The keys attached to a lease, in order.
    pub fn lease_keys(&self, id: i64) -> Vec<Bytes> {
        self.leases.get(&id).map_or_else(Vec::new, |lease| lease.keys.iter().cloned().collect())
    }

    /// The changes of revisions `from..=upto`, oldest first. Complete if `from` is not below the compacted revision.
    pub fn changes(&self, from: i64, upto: i64) -> impl Iterator<Item = &Change> {
        let start = self.log.partition_point(|change| change.revision() < from);
        self.log.range(start..).take_while(move |change| change.revision() <= upto)
    }

    /// What the changed key was before the revision of `change`, unless that was compacted.
    pub fn before(&self, change: &Change) -> Option<&KeyValue> {
        let revision = change.revision() - 1;
        if revision < self.compacted {
            return None;
        }
        self.at(&change.kv.key, revision)
    }

    fn at(&self, key: &[u8], revision: i64) -> Option<&KeyValue> {
        range::version_at(self.keys.get(key)?, revision)
    }

    fn check_room(&self, bytes: usize) -> Result<(), Refusal> {
        if self.weight() + bytes as u64 > self.quota { Err(Refusal::NoSpace) } else { Ok(()) }
    }
}
