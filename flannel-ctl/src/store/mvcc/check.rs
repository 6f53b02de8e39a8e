//! What can be said of a request without looking at the data.

use std::collections::BTreeSet;

use prost::bytes::Bytes;

use super::{KeyRange, Refusal};
use crate::store::proto::{
    DeleteRangeRequest, PutRequest, RangeRequest, RequestKind, RequestOp, SortOrder, SortTarget, TxnRequest,
};

/// etcd's default limit for each list of a transaction, nested ones counted in.
const MAX_TXN_OPS: usize = 128;

pub fn check_range(request: &RangeRequest) -> Result<(), Refusal> {
    check_key(&request.key)?;
    if SortOrder::try_from(request.sort_order).is_err() || SortTarget::try_from(request.sort_target).is_err() {
        return Err(Refusal::InvalidSort);
    }
    Ok(())
}

pub fn check_put(request: &PutRequest) -> Result<(), Refusal> {
    check_key(&request.key)?;
    if request.ignore_value && !request.value.is_empty() {
        return Err(Refusal::ValueProvided);
    }
    if request.ignore_lease && request.lease != 0 {
        return Err(Refusal::LeaseProvided);
    }
    Ok(())
}

pub fn check_delete(request: &DeleteRangeRequest) -> Result<(), Refusal> {
    check_key(&request.key)
}

/// Shape and size, then that no key is written twice.
pub fn check_txn(request: &TxnRequest) -> Result<(), Refusal> {
    check_shape(request, MAX_TXN_OPS)?;
    Touched::of(&request.success)?;
    Touched::of(&request.failure)?;
    Ok(())
}

fn check_key(key: &Bytes) -> Result<(), Refusal> {
    if key.is_empty() { Err(Refusal::EmptyKey) } else { Ok(()) }
}

fn check_shape(request: &TxnRequest, budget: usize) -> Result<(), Refusal> {
    let longest = request.compare.len().max(request.success.len()).max(request.failure.len());
    let rest = budget.checked_sub(longest).ok_or(Refusal::TooManyOps)?;
    for compare in &request.compare {
        check_key(&compare.key)?;
    }
    for op in request.success.iter().chain(&request.failure) {
        match &op.request {
            Some(RequestKind::Range(range)) => check_range(range)?,
            Some(RequestKind::Put(put)) => check_put(put)?,
            Some(RequestKind::DeleteRange(delete)) => check_delete(delete)?,
            Some(RequestKind::Txn(txn)) => check_shape(txn, rest)?,
            None => return Err(Refusal::KeyNotFound),
        }
    }
    Ok(())
}

/// The keys that a list of operations may put, and the ranges that it may delete.
#[derive(Default)]
struct Touched {
    puts: BTreeSet<Bytes>,
    deletes: Vec<KeyRange>,
}

impl Touched {
    /// Both branches of a nested transaction may put the same key, since only one of them happens.
    fn of(ops: &[RequestOp]) -> Result<Self, Refusal> {
        let mut touched = Self::default();
        for op in ops {
            if let Some(RequestKind::DeleteRange(delete)) = &op.request {
                touched.deletes.push(KeyRange::new(&delete.key, &delete.range_end));
            }
        }
        for op in ops {
            if let Some(RequestKind::Txn(txn)) = &op.request {
                let then = Self::of(&txn.success)?;
                let otherwise = Self::of(&txn.failure)?;
                for key in &then.puts {
                    touched.put(key)?;
                }
                for key in otherwise.puts.difference(&then.puts) {
                    touched.put(key)?;
                }
                touched.deletes.extend(then.deletes);
                touched.deletes.extend(otherwise.deletes);
            }
        }
        for op in ops {
            if let Some(RequestKind::Put(put)) = &op.request {
                touched.put(&put.key)?;
            }
        }
        Ok(touched)
    }

    fn put(&mut self, key: &Bytes) -> Result<(), Refusal> {
        if self.deletes.iter().any(|range| range.contains(key)) || !self.puts.insert(key.clone()) {
            return Err(Refusal::DuplicateKey);
        }
        Ok(())
    }
}
