//! Flags, environment and flannel's network config, resolved into what the daemon means.

pub mod chosen;
pub mod etcd;
pub mod flags;
pub mod go_flags;
mod json;
pub mod netconf;
pub mod problem;
mod read;
pub mod resolve;
pub mod secret;
pub mod settings;
pub mod uplink;
pub mod values;

pub use etcd::{EtcdConfig, LeaseOptions};
pub use problem::{ConfigErrors, FlagErrors, Problem};
pub use secret::Secret;
pub use settings::Settings;
pub use uplink::UplinkPolicy;
