//! etcd's v3 wire messages, as far as the store speaks them. Field numbers are etcd's; fields that the store has no use
//! for are left out, which protobuf ignores on reading and treats as default on writing.

mod cluster;
mod kv;
mod lease;
mod txn;
mod watch;

pub use cluster::*;
pub use kv::*;
pub use lease::*;
pub use txn::*;
pub use watch::*;
