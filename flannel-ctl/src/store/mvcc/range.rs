//! Reading: which keys, at which revision, in which order.

use std::cmp::Ordering;
use std::ops::Bound;

use prost::bytes::Bytes;

use super::{Change, Core, Refusal, check_range};
use crate::store::proto::{KeyValue, RangeRequest, RangeResponse, ResponseHeader, SortOrder, SortTarget};

/// The keys that a request means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyRange {
    One(Bytes),
    /// This key and all after it.
    From(Bytes),
    /// The first is in, the second is not.
    Between(Bytes, Bytes),
}

impl KeyRange {
    /// etcd's encoding: no end is one key, an end of one zero byte is everything from the key on.
    pub fn new(key: &Bytes, range_end: &Bytes) -> Self {
        match range_end.as_ref() {
            [] => Self::One(key.clone()),
            [0] => Self::From(key.clone()),
            _ => Self::Between(key.clone(), range_end.clone()),
        }
    }

    pub fn contains(&self, key: &[u8]) -> bool {
        match self {
            Self::One(one) => key == one,
            Self::From(first) => key >= first.as_ref(),
            Self::Between(first, end) => key >= first.as_ref() && key < end.as_ref(),
        }
    }

    /// Whether no key at all can be in it.
    pub fn is_empty(&self) -> bool {
        matches!(self, Self::Between(first, end) if first >= end)
    }

    fn bounds(&self) -> (Bound<&[u8]>, Bound<&[u8]>) {
        match self {
            Self::One(key) => (Bound::Included(key), Bound::Included(key)),
            Self::From(key) => (Bound::Included(key), Bound::Unbounded),
            Self::Between(key, end) => (Bound::Included(key), Bound::Excluded(end)),
        }
    }
}

/// The version of a key that `revision` sees; none if it was deleted or not yet there.
pub(super) fn version_at(versions: &[Change], revision: i64) -> Option<&KeyValue> {
    let after = versions.partition_point(|change| change.revision() <= revision);
    let change = versions.get(after.checked_sub(1)?)?;
    (!change.is_deletion()).then_some(&change.kv)
}

impl Core {
    /// Reads. `newest` is the newest revision that the reader may see.
    pub fn range(&self, request: &RangeRequest, newest: i64) -> Result<RangeResponse, Refusal> {
        check_range(request)?;
        let revision = self.readable(request.revision, newest)?;
        let keys = KeyRange::new(&request.key, &request.range_end);
        let mut response = RangeResponse { header: Some(ResponseHeader::at(newest)), ..RangeResponse::default() };
        if request.count_only {
            response.count = count(self.visible(&keys, revision).count());
            return Ok(response);
        }

        let order = SortOrder::try_from(request.sort_order).map_err(|_| Refusal::InvalidSort)?;
        let target = SortTarget::try_from(request.sort_target).map_err(|_| Refusal::InvalidSort)?;
        let limit = usize::try_from(request.limit).unwrap_or(0);
        // etcd cuts before it sorts when no order was named, even if a target other than the key was.
        let fetch = if limit == 0 || order != SortOrder::None || filters(request) {
            usize::MAX
        } else {
            limit.saturating_add(1)
        };
        let mut found: Vec<&KeyValue> = Vec::new();
        let mut total = 0;
        for kv in self.visible(&keys, revision) {
            total += 1;
            if found.len() < fetch {
                found.push(kv);
            }
        }
        response.count = count(total);
        found.retain(|kv| wanted(kv, request));
        sort(&mut found, order, target);
        if limit > 0 && found.len() > limit {
            found.truncate(limit);
            response.more = true;
        }
        response.kvs = found.into_iter().cloned().collect();
        if request.keys_only {
            for kv in &mut response.kvs {
                kv.value = Bytes::new();
            }
        }
        Ok(response)
    }

    /// The revision that a request for `asked` reads; 0 or less asks for the newest.
    fn readable(&self, asked: i64, newest: i64) -> Result<i64, Refusal> {
        if asked > newest {
            return Err(Refusal::Future);
        }
        let revision = if asked <= 0 { newest } else { asked };
        if revision < self.compacted { Err(Refusal::Compacted) } else { Ok(revision) }
    }

    /// The keys of a range that exist at a revision, in order.
    pub(super) fn visible(&self, keys: &KeyRange, revision: i64) -> impl Iterator<Item = &KeyValue> {
        let bounds = if keys.is_empty() { (Bound::Excluded(&[][..]), Bound::Included(&[][..])) } else { keys.bounds() };
        self.keys.range::<[u8], _>(bounds).filter_map(move |(_, versions)| version_at(versions, revision))
    }
}

fn count(keys: usize) -> i64 {
    i64::try_from(keys).unwrap_or(i64::MAX)
}

fn filters(request: &RangeRequest) -> bool {
    request.min_mod_revision != 0
        || request.max_mod_revision != 0
        || request.min_create_revision != 0
        || request.max_create_revision != 0
}

fn wanted(kv: &KeyValue, request: &RangeRequest) -> bool {
    let inside = |value: i64, min: i64, max: i64| (min == 0 || value >= min) && (max == 0 || value <= max);
    inside(kv.mod_revision, request.min_mod_revision, request.max_mod_revision)
        && inside(kv.create_revision, request.min_create_revision, request.max_create_revision)
}

fn sort(found: &mut [&KeyValue], order: SortOrder, target: SortTarget) {
    let compare = |a: &&KeyValue, b: &&KeyValue| -> Ordering {
        match target {
            SortTarget::Key => a.key.cmp(&b.key),
            SortTarget::Version => a.version.cmp(&b.version),
            SortTarget::Create => a.create_revision.cmp(&b.create_revision),
            SortTarget::Mod => a.mod_revision.cmp(&b.mod_revision),
            SortTarget::Value => a.value.cmp(&b.value),
        }
    };
    match order {
        SortOrder::None | SortOrder::Ascend => found.sort_by(compare),
        SortOrder::Descend => found.sort_by(|a, b| compare(b, a)),
    }
}
