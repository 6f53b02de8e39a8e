//! Flags, environment and flannel's network config, resolved into what the daemon means.

pub mod etcd;
mod json;
pub mod netconf;
pub mod problem;
pub mod secret;

pub use etcd::{EtcdConfig, LeaseOptions};
pub use problem::{ConfigErrors, FlagErrors, Problem};
pub use secret::Secret;
