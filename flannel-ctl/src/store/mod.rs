//! The embedded store: a single-node server of the part of etcd's v3 API that leases need.
pub mod proto;
pub mod service;
