//! Random requests over a handful of keys, so that they meet.

use proptest::prelude::*;
use prost::bytes::Bytes;

use crate::store::proto::{
    Compare, DeleteRangeRequest, Operand, PutRequest, RangeRequest, RequestKind, RequestOp, TxnRequest,
};

#[derive(Clone, Debug)]
pub(super) enum Op {
    Put(PutRequest),
    Delete(DeleteRangeRequest),
    Txn(TxnRequest),
    /// So many revisions behind the newest.
    Compact(i64),
    Grant(i64),
    Revoke(i64),
}

impl Op {
    pub(super) fn nested(then: &[Self], otherwise: &[Self]) -> Self {
        Self::Txn(TxnRequest { compare: Vec::new(), success: request_ops(then), failure: request_ops(otherwise) })
    }
}

pub(super) fn put(key: &'static str, value: &'static str) -> Op {
    Op::Put(PutRequest { key: key.into(), value: value.into(), ..PutRequest::default() })
}

pub(super) fn delete(key: &'static str, end: &'static str) -> Op {
    Op::Delete(DeleteRangeRequest { key: key.into(), range_end: end.into(), prev_kv: false })
}

/// A transaction without compares that does these.
pub(super) fn touching(ops: &[Op]) -> TxnRequest {
    TxnRequest { success: request_ops(ops), ..TxnRequest::default() }
}

fn request_ops(ops: &[Op]) -> Vec<RequestOp> {
    ops.iter()
        .map(|op| RequestOp {
            request: Some(match op.clone() {
                Op::Put(put) => RequestKind::Put(put),
                Op::Delete(delete) => RequestKind::DeleteRange(delete),
                Op::Txn(txn) => RequestKind::Txn(txn),
                Op::Compact(_) | Op::Grant(_) | Op::Revoke(_) => panic!("not an operation of a transaction"),
            }),
        })
        .collect()
}

pub(super) fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => put_request().prop_map(Op::Put),
        3 => delete_request().prop_map(Op::Delete),
        4 => txn_request().prop_map(Op::Txn),
        1 => (-2..6_i64).prop_map(Op::Compact),
        2 => (1..4_i64).prop_map(Op::Grant),
        1 => (1..4_i64).prop_map(Op::Revoke),
    ]
}

pub(super) fn range_options() -> impl Strategy<Value = RangeRequest> {
    let bounds = (0..20_i64, 0..20_i64, 0..20_i64, 0..20_i64);
    let sparse = |value: i64| if value > 8 { 0 } else { value };
    (span(), 0..4_i64, 0..3_i32, 0..5_i32, any::<bool>(), prop::bool::weighted(0.1), bounds, 0..4_i64).prop_map(
        move |((key, range_end), limit, sort_order, sort_target, keys_only, count_only, bounds, revision)| {
            RangeRequest {
                key,
                range_end,
                limit,
                revision,
                sort_order,
                sort_target,
                keys_only,
                count_only,
                min_mod_revision: sparse(bounds.0),
                max_mod_revision: sparse(bounds.1),
                min_create_revision: sparse(bounds.2),
                max_create_revision: sparse(bounds.3),
                ..RangeRequest::default()
            }
        },
    )
}

fn key() -> impl Strategy<Value = Bytes> {
    prop::sample::select(&["a", "b", "c", "d", "e"][..]).prop_map(Bytes::from)
}

fn span() -> impl Strategy<Value = (Bytes, Bytes)> {
    let end = prop_oneof![
        4 => Just(Bytes::new()),
        1 => Just(Bytes::from_static(&[0])),
        3 => key(),
    ];
    (key(), end)
}

fn value() -> impl Strategy<Value = Bytes> {
    prop::sample::select(&["", "x", "y", "z"][..]).prop_map(Bytes::from)
}

fn put_request() -> impl Strategy<Value = PutRequest> {
    let rarely = || prop::bool::weighted(0.1);
    (key(), value(), 0..4_i64, any::<bool>(), rarely(), rarely()).prop_map(
        |(key, value, lease, prev_kv, ignore_value, ignore_lease)| PutRequest {
            key,
            value,
            lease: lease.saturating_sub(1),
            prev_kv,
            ignore_value,
            ignore_lease,
        },
    )
}

fn delete_request() -> impl Strategy<Value = DeleteRangeRequest> {
    (span(), any::<bool>()).prop_map(|((key, range_end), prev_kv)| DeleteRangeRequest { key, range_end, prev_kv })
}

fn compare() -> impl Strategy<Value = Compare> {
    let operand = prop_oneof![
        (0..4_i64).prop_map(|n| (0, Operand::Version(n))),
        (0..9_i64).prop_map(|n| (1, Operand::Create(n))),
        (0..9_i64).prop_map(|n| (2, Operand::Mod(n))),
        value().prop_map(|value| (3, Operand::Value(value))),
        (0..3_i64).prop_map(|n| (4, Operand::Lease(n))),
    ];
    (span(), 0..4_i32, operand).prop_map(|((key, range_end), result, (target, operand))| Compare {
        result,
        target,
        key,
        range_end,
        operand: Some(operand),
    })
}

fn txn_request() -> impl Strategy<Value = TxnRequest> {
    let request_op = || {
        prop_oneof![
            3 => put_request().prop_map(RequestKind::Put),
            2 => delete_request().prop_map(RequestKind::DeleteRange),
            1 => span().prop_map(|(key, range_end)| {
                RequestKind::Range(RangeRequest { key, range_end, ..RangeRequest::default() })
            }),
        ]
        .prop_map(|request| RequestOp { request: Some(request) })
    };
    (
        prop::collection::vec(compare(), 0..3),
        prop::collection::vec(request_op(), 0..4),
        prop::collection::vec(request_op(), 0..3),
    )
        .prop_map(|(compare, success, failure)| TxnRequest { compare, success, failure })
}
