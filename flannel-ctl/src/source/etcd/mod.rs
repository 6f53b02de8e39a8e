//! Leases from etcd, in flannel's keys and values.
//!
//! One task per node does everything, one thing after another: it finds a member that answers
//! (`client`), subscribes, lists (`watch`, `view`), and keeps our own lease right
//! (`hold`). The watch is a hint; the list is the truth, and is read again after every doubt.

mod acquire;
mod challenge;
mod client;
mod error;
mod health;
mod hold;
mod judge;
mod network;
mod owned;
mod record;
mod repeat;
mod rights;
mod run;
mod session;
mod view;
mod watch;

use tokio::sync::watch::Receiver;

pub use acquire::AcquireError;
pub use client::{Connector, NoEndpoint};
pub use error::{EtcdError, Kind};
pub use session::{Listing, Session, StoredConfig, Write};
pub use watch::{Change, Feed};

use self::{acquire::acquire, health::Health, owned::Owned};
use crate::{
    config::{EtcdConfig, LeaseOptions},
    model::{LeaseValue, Network},
    source::{EventSink, LeaseRequest, NoLease, OwnLease},
};

/// etcd as a source of leases.
pub struct EtcdSource {
    connector: Connector,
    options: LeaseOptions,
    session: Option<Session>,
    /// The network config that we started with.
    config: Option<(StoredConfig, Network)>,
    request: Option<LeaseRequest>,
    owned: Option<Owned>,
    health: Health,
}

impl EtcdSource {
    pub fn new(config: EtcdConfig, options: LeaseOptions) -> Self {
        Self {
            connector: Connector::new(config),
            options,
            session: None,
            config: None,
            request: None,
            owned: None,
            health: Health::default(),
        }
    }

    /// `tell` hears what is waited out before [`Self::run`], and an empty text when it is over.
    #[must_use]
    pub fn telling(mut self, tell: impl Fn(&str) + Send + Sync + 'static) -> Self {
        self.health.telling(Box::new(tell));
        self
    }

    /// Takes a lease; waits for etcd as long as it takes.
    pub async fn acquire(&mut self, request: LeaseRequest) -> Result<OwnLease, NoLease> {
        loop {
            let session = self.connected().await;
            match acquire(&session, &request, self.options.ttl).await {
                Ok(owned) => {
                    let lease = owned.lease();
                    self.owned = Some(owned);
                    self.request = Some(request);
                    return Ok(lease);
                }
                Err(AcquireError::NoLease(error)) => return Err(error),
                Err(AcquireError::Etcd(error)) => self.failed(&error).await,
            }
        }
    }

    /// Reports leases and keeps ours until `shutdown` says `true` or nobody listens any more.
    /// `values`: what our lease shall say, from now on.
    pub async fn run(self, sink: impl EventSink, values: Receiver<LeaseValue>, shutdown: Receiver<bool>) {
        Box::pin(run::run(self, &sink, values, shutdown)).await;
    }

    /// The session that is open, or a new one, however long that takes.
    async fn connected(&mut self) -> Session {
        loop {
            if let Some(session) = &self.session {
                return session.clone();
            }
            match self.connector.connect().await {
                Ok(session) => self.session = Some(session),
                Err(error) => {
                    let wait = self.health.wait(&error, 0);
                    self.health.down(None, &error.to_string(), &error.0);
                    tokio::time::sleep(wait).await;
                }
            }
        }
    }

    async fn failed(&mut self, error: &EtcdError) {
        self.health.down(None, &error.to_string(), std::slice::from_ref(error));
        self.session = None;
        self.connector.step();
        tokio::time::sleep(self.health.wait_answered()).await;
    }
}
