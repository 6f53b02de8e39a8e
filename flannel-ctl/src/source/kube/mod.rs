//! Leases from Kubernetes: every node's podCIDR, and what flannel's annotations say of the node.
//!
//! Nothing is allocated here, Kubernetes has done that. The source reads all nodes (`session`, `view`), and
//! keeps our own node's annotations right (`own`, `hold`). The watch is a hint; the list is the truth, and is
//! read again after every doubt.

mod annotations;
mod connect;
mod error;
mod hold;
mod learn;
mod node;
mod own;
mod rights;
mod run;
mod session;
mod survey;
mod view;

use std::{path::PathBuf, pin::Pin, time::Duration};

use tokio::sync::watch::Receiver;

pub use annotations::{Addresses, Names};
pub use connect::connect;
pub use error::{Kind, KubeError};
pub use learn::{Words, read as read_network};
pub use node::{Node, cut_by};
pub use rights::Right;
pub use session::{Change, Listing, Session};
pub use survey::{Survey, SurveyError, records, survey};

use self::hold::Hold;
use crate::{
    config::settings::KubeSettings,
    model::{LeaseValue, Network},
    source::{EventSink, LeaseRequest, OwnLease, health::Health},
};

/// What the wait between two tries grows to.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// Kubernetes as a source of leases.
pub struct KubeSource {
    settings: KubeSettings,
    /// Where the network config is.
    net_config: PathBuf,
    /// `--node-name`
    node_name: Option<String>,
    names: Names,
    session: Option<Session>,
    /// Our own node's name, and what the server said of it last.
    own: Option<(String, Node)>,
    network: Option<Network>,
    hold: Option<Hold>,
    health: Health,
    /// From then on the node may be called available.
    ready: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl KubeSource {
    pub fn new(settings: KubeSettings, net_config: PathBuf, node_name: Option<String>) -> Self {
        let names = Names::new(&settings.annotation_prefix);
        Self {
            settings,
            net_config,
            node_name,
            names,
            session: None,
            own: None,
            network: None,
            hold: None,
            health: Health::of("the Kubernetes API server", LONGEST_WAIT),
            ready: Box::pin(std::future::ready(())),
        }
    }

    /// `tell` hears what is waited out before [`Self::run`], and an empty text when it is over.
    #[must_use]
    pub fn telling(mut self, tell: impl Fn(&str) + Send + Sync + 'static) -> Self {
        self.health.early = Some(Box::new(tell));
        self
    }

    /// The node's network is called available only once `ready` has come.
    #[must_use]
    pub fn available_when(mut self, ready: impl Future<Output = ()> + Send + 'static) -> Self {
        self.ready = Box::pin(ready);
        self
    }

    /// Writes our node's annotations; waits for the API server as long as it takes.
    pub async fn acquire(&mut self, request: LeaseRequest) -> OwnLease {
        loop {
            let session = self.connected().await;
            let (name, node) = self.known(&session).await;
            let mut hold = Hold::new(name, node, self.names.clone(), request.network.clone(), request.value.clone());
            match hold.settle(&session, None).await {
                Ok(trouble) => {
                    if let Some(lease) = hold.lease().cloned() {
                        self.hold = Some(hold);
                        self.health.up(None, session.server());
                        return lease;
                    }
                    self.wait_out(&trouble.unwrap_or_default()).await;
                    self.own = None;
                }
                Err(error) => self.failed(&error).await,
            }
        }
    }

    /// Reports leases and keeps our annotations until `shutdown` says `true` or nobody listens any more.
    /// `values`: what they shall say, from now on.
    pub async fn run(self, sink: impl EventSink, values: Receiver<LeaseValue>, shutdown: Receiver<bool>) {
        Box::pin(run::run(self, &sink, values, shutdown)).await;
    }
}
