//! The embedded store: a single-node server of the part of etcd's v3 API that leases need, on one file.
//!
//! It is there so that one machine or a small lab needs nothing else. Clients reach it with the same flags as etcd, and
//! etcd is what to move to when one node is not enough.
//!
//! # What of etcd is there
//!
//! - KV: Range, Put, DeleteRange, Txn, Compact, with etcd's revisions, versions, limits, orders and error texts.
//! - Lease: LeaseGrant, LeaseRevoke, LeaseKeepAlive, LeaseTimeToLive, LeaseLeases. As with etcd, a life is at least 2 s,
//!   and all lives begin anew when the store starts.
//! - Watch: start revision, history, filters, previous values, progress, cancel, and the answer on compaction. Answers are
//!   never fragmented, and never split a revision.
//! - Maintenance.Status, Maintenance.Alarm (asking only) and Cluster.MemberList, so that clients and etcdctl find one
//!   healthy member.
//!
//! # What is not
//!
//! No clustering, no authentication (use TLS client certificates, or the loopback default), no snapshots, no
//! defragmentation, no hashes, no elections or locks, no JSON gateway. A request for any of it is answered with
//! UNIMPLEMENTED and a text that says so.
//!
//! # How it is put together
//!
//! ```text
//! service ── write ──> engine: one writer thread ──> mvcc (pure) ──Effects──> file (redb), one commit for all that wait
//!    │                                                                          │
//!    └──── read, watch <── durable revision <───────────────────────────────────┘
//! ```
//!
//! - An answered write is on disk: it survives kill -9 and loss of power.
//! - Readers and watches see nothing that is not on disk, although the core is a commit ahead of it.
//! - All data and history live in memory; the file is read once. Both are bounded: history by revisions
//!   (`--keep-revisions`) and bytes, the whole by a quota, requests by etcd's 1.5 MiB, watches by reading at their own pace.
//! - If a commit fails, the store ends with the error instead of serving what it could not keep.

pub mod engine;
pub mod file;
pub mod lease;
pub mod mvcc;
pub mod proto;
pub mod server;
pub mod service;
