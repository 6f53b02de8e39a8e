//! How to reach etcd, and how to hold a lease there.

use std::{path::PathBuf, time::Duration};

use super::Secret;

/// Where etcd is and who we are to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EtcdConfig {
    /// `http://` or `https://` URLs, tried in order.
    pub endpoints: Vec<String>,
    /// Key root without a trailing slash; flannel's is `/coreos.com/network`.
    pub prefix: String,
    /// A CA alone is enough for `https`.
    pub ca_file: Option<PathBuf>,
    /// Client certificate; both or neither.
    pub cert_file: Option<PathBuf>,
    pub key_file: Option<PathBuf>,
    pub username: Option<String>,
    pub password: Option<Secret>,
}

/// How the node's lease is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseOptions {
    /// flannel's is 24 h.
    pub ttl: Duration,
    /// Give the subnet back on a clean exit. Off: it waits for our return, as with flannel.
    pub release_on_exit: bool,
}

impl Default for LeaseOptions {
    fn default() -> Self {
        Self { ttl: Duration::from_hours(24), release_on_exit: false }
    }
}
