//! Transactions: decide, check, apply.
//!
//! All compares, those of nested transactions too, look at the data as it was before the first write. What was decided
//! is then checked as a whole, so that a transaction that cannot be done changes nothing.

use std::cmp::Ordering;

use super::write::Writing;
use super::{Core, KeyRange, Refusal};
use crate::store::proto::{
    Compare, CompareResult, CompareTarget, KeyValue, Operand, PutRequest, RangeRequest, RequestKind, ResponseKind,
    ResponseOp, TxnRequest, TxnResponse,
};

/// A transaction whose branch is chosen.
pub(super) struct Decided<'a> {
    succeeded: bool,
    steps: Vec<Step<'a>>,
}

enum Step<'a> {
    Plain(&'a RequestKind),
    Nested(Decided<'a>),
}

pub(super) fn decide<'a>(core: &Core, request: &'a TxnRequest) -> Decided<'a> {
    let succeeded = request.compare.iter().all(|compare| holds(core, compare));
    let ops = if succeeded { &request.success } else { &request.failure };
    let steps = ops
        .iter()
        .filter_map(|op| op.request.as_ref())
        .map(|kind| match kind {
            RequestKind::Txn(txn) => Step::Nested(decide(core, txn)),
            plain => Step::Plain(plain),
        })
        .collect();
    Decided { succeeded, steps }
}

impl Decided<'_> {
    pub(super) fn adds_data(&self) -> bool {
        self.steps.iter().any(|step| match step {
            Step::Plain(kind) => matches!(kind, RequestKind::Put(_)),
            Step::Nested(decided) => decided.adds_data(),
        })
    }

    /// Puts first, then ranges: the order in which etcd finds fault.
    pub(super) fn check(&self, core: &Core) -> Result<(), Refusal> {
        self.each(&mut |kind| if let RequestKind::Put(put) = kind { possible_put(core, put) } else { Ok(()) })?;
        self.each(&mut |kind| if let RequestKind::Range(range) = kind { possible_range(core, range) } else { Ok(()) })
    }

    pub(super) fn apply(&self, writing: &mut Writing) -> Result<TxnResponse, Refusal> {
        let mut response = TxnResponse { succeeded: self.succeeded, ..TxnResponse::default() };
        for step in &self.steps {
            let kind = match step {
                Step::Nested(decided) => {
                    let mut nested = decided.apply(writing)?;
                    nested.header = Some(crate::store::proto::ResponseHeader::default());
                    ResponseKind::Txn(nested)
                }
                Step::Plain(RequestKind::Range(range)) => ResponseKind::Range(writing.range(range)?),
                Step::Plain(RequestKind::Put(put)) => ResponseKind::Put(writing.put(put)?),
                Step::Plain(RequestKind::DeleteRange(delete)) => {
                    ResponseKind::DeleteRange(writing.delete_range(delete))
                }
                // Decided above; a plain step is never a transaction.
                Step::Plain(RequestKind::Txn(_)) => continue,
            };
            response.responses.push(ResponseOp { response: Some(kind) });
        }
        Ok(response)
    }

    fn each(&self, look: &mut dyn FnMut(&RequestKind) -> Result<(), Refusal>) -> Result<(), Refusal> {
        for step in &self.steps {
            match step {
                Step::Plain(kind) => look(kind)?,
                Step::Nested(decided) => decided.each(look)?,
            }
        }
        Ok(())
    }
}

fn possible_put(core: &Core, put: &PutRequest) -> Result<(), Refusal> {
    if (put.ignore_value || put.ignore_lease) && core.at(&put.key, core.revision()).is_none() {
        return Err(Refusal::KeyNotFound);
    }
    if put.lease != 0 && !core.has_lease(put.lease) {
        return Err(Refusal::LeaseNotFound);
    }
    Ok(())
}

fn possible_range(core: &Core, range: &RangeRequest) -> Result<(), Refusal> {
    match range.revision {
        0 => Ok(()),
        revision if revision > core.revision() => Err(Refusal::Future),
        revision if revision < core.compacted() => Err(Refusal::Compacted),
        _ => Ok(()),
    }
}

/// Whether a compare holds for every key of its range. Over no key at all it looks at zeros, except that a compare of
/// values fails: protobuf cannot tell an empty value from none.
fn holds(core: &Core, compare: &Compare) -> bool {
    let keys = KeyRange::new(&compare.key, &compare.range_end);
    let mut found = core.visible(&keys, core.revision()).peekable();
    if found.peek().is_none() {
        return compare.target != CompareTarget::Value as i32 && holds_for(&KeyValue::default(), compare);
    }
    found.all(|kv| holds_for(kv, compare))
}

fn holds_for(kv: &KeyValue, compare: &Compare) -> bool {
    let number = |actual: i64, wanted: Option<i64>| actual.cmp(&wanted.unwrap_or(0));
    let operand = compare.operand.as_ref();
    let ordering = match CompareTarget::try_from(compare.target) {
        Ok(CompareTarget::Version) => {
            number(kv.version, operand.and_then(|o| if let Operand::Version(n) = o { Some(*n) } else { None }))
        }
        Ok(CompareTarget::Create) => {
            number(kv.create_revision, operand.and_then(|o| if let Operand::Create(n) = o { Some(*n) } else { None }))
        }
        Ok(CompareTarget::Mod) => {
            number(kv.mod_revision, operand.and_then(|o| if let Operand::Mod(n) = o { Some(*n) } else { None }))
        }
        Ok(CompareTarget::Lease) => {
            number(kv.lease, operand.and_then(|o| if let Operand::Lease(n) = o { Some(*n) } else { None }))
        }
        Ok(CompareTarget::Value) => {
            let wanted = if let Some(Operand::Value(value)) = operand { value.as_ref() } else { &[] };
            kv.value.as_ref().cmp(wanted)
        }
        // etcd leaves the difference at zero for a target that it does not know.
        Err(_) => Ordering::Equal,
    };
    match CompareResult::try_from(compare.result) {
        Ok(CompareResult::Equal) => ordering.is_eq(),
        Ok(CompareResult::Greater) => ordering.is_gt(),
        Ok(CompareResult::Less) => ordering.is_lt(),
        Ok(CompareResult::NotEqual) => ordering.is_ne(),
        Err(_) => true,
    }
}
