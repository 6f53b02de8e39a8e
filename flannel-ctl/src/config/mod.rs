//! Flags, environment and flannel's network config, resolved into what the daemon means.

pub mod etcd;
pub mod secret;

pub use etcd::{EtcdConfig, LeaseOptions};
pub use secret::Secret;
