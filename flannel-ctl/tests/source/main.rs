//! The lease source against real servers: one suite, run against etcd and against the embedded
//! store alike, and what only etcd can show.

mod faults;
mod lab;
mod node;
mod proxy;
mod secure;
mod suite;
