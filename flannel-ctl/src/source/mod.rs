//! Where leases come from.

mod backoff;
pub mod contested;
pub mod etcd;
pub mod file;
mod health;
pub mod kube;
mod notice;
mod wait;

use std::sync::mpsc::Sender;

use tokio::sync::watch::Receiver;

pub use self::{
    contested::{Clash, Contested, Holding},
    etcd::EtcdSource,
    file::FileSource,
    kube::KubeSource,
};
use crate::{
    alloc::Exhausted,
    model::{LeaseRecord, LeaseValue, Network, Subnet},
};

/// What a source tells the reconcile loop. Sent over a plain channel, in order.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "the large one, our own lease, is the rarest")]
pub enum Event {
    /// The complete list, ours included. Whatever is not in it is gone.
    Snapshot(Vec<LeaseRecord>),
    /// Added or changed.
    Put(LeaseRecord),
    /// Removed, by key.
    Delete(String),
    /// We hold this lease now: at start, after a change of value, or regained.
    Own(OwnLease),
    /// Our subnet went to another node: stop using it at once.
    Lost {
        subnet: Subnet,
        reason: String,
    },
    /// Somebody wrote over our key, or claims what is ours; it was dealt with, and is counted.
    Conflict {
        key: String,
        reason: String,
    },
    /// The store came back without what it had, and removals wait until its nodes have written
    /// their leases again; empty once that is over.
    Holding(String),
    /// The network config in the store is not the one that we started with. It is applied at the
    /// next start, never mixed in; the text says what is different, and is empty once it is the
    /// same again.
    NetworkChanged(String),
    /// Connection state, for health; the text says what is tried and what was answered.
    Connected,
    Disconnected(String),
}

/// The lease that this node holds.
#[derive(Clone, Debug, PartialEq)]
pub struct OwnLease {
    pub key: String,
    pub subnet: Subnet,
    pub value: LeaseValue,
}

/// Longest lease value that is kept, in bytes. A longer one arrives cut to one byte more than
/// this, so that it can be refused by name without being held in memory.
pub const MAX_VALUE: usize = 4096;

/// Carries [`Event`]s, wrapped in whatever the receiving loop calls its wake-ups.
pub trait EventSink: Send + Sync + 'static {
    /// `false` when nobody listens any more: the source should stop.
    fn send(&self, event: Event) -> bool;
}

impl EventSink for Sender<Event> {
    fn send(&self, event: Event) -> bool {
        Self::send(self, event).is_ok()
    }
}

/// What a node asks a source for.
#[derive(Clone, Debug)]
pub struct LeaseRequest {
    pub network: Network,
    /// What the lease shall say; its `node_id` and addresses are who we are.
    pub value: LeaseValue,
    /// The subnet that we had before, if we remember one.
    pub previous: Option<Subnet>,
    /// A lease whose holder kept an earlier start of ours from starting: it is not asked again, so
    /// that its reboot does not pass for its end.
    pub refused_by: Option<Holding>,
}

/// Why there is no lease for us, and waiting does not help.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoLease {
    #[error(transparent)]
    Exhausted(#[from] Exhausted),
    #[error(transparent)]
    Contested(#[from] Contested),
}

/// A place where leases come from. The order of calls is that of the methods; the first two wait
/// for what they need as long as it takes, say once why, and may be dropped at any time.
pub enum LeaseSource {
    Etcd(Box<EtcdSource>),
    File(Box<FileSource>),
    Kube(Box<KubeSource>),
}

impl LeaseSource {
    /// The network config, once there is a usable one.
    pub async fn network(&mut self) -> Network {
        match self {
            Self::Etcd(source) => Box::pin(source.network()).await,
            Self::File(source) => source.network().await,
            Self::Kube(source) => Box::pin(source.network()).await,
        }
    }

    /// What our node says of itself where an administrator can write it; known once there is a network.
    pub fn words(&self) -> Result<kube::Words, String> {
        match self {
            Self::Etcd(_) | Self::File(_) => Ok(kube::Words::default()),
            Self::Kube(source) => source.words(),
        }
    }

    /// Our lease.
    pub async fn acquire(&mut self, request: LeaseRequest) -> Result<OwnLease, NoLease> {
        match self {
            Self::Etcd(source) => Box::pin(source.acquire(request)).await,
            Self::File(source) => Ok(source.acquire(request).await),
            Self::Kube(source) => Ok(Box::pin(source.acquire(request)).await),
        }
    }

    /// Reports leases and keeps ours until `shutdown` says `true` or nobody listens any more.
    /// `values`: what our lease shall say from now on.
    pub async fn run(self, sink: impl EventSink, values: Receiver<LeaseValue>, shutdown: Receiver<bool>) {
        match self {
            Self::Etcd(source) => source.run(sink, values, shutdown).await,
            Self::File(source) => source.run(sink, values, shutdown).await,
            Self::Kube(source) => source.run(sink, values, shutdown).await,
        }
    }
}
