//! The life of the source: one session after another, one watch after another, each where the last one ended.

use std::{pin::Pin, time::Duration};

use futures::StreamExt as _;
use tokio::{
    sync::watch::Receiver,
    time::{Instant, sleep, sleep_until},
};
use tracing::{debug, info, warn};

use super::{
    KubeSource, Session,
    connect::connect,
    error::{Kind, KubeError},
    hold::Hold,
    learn::read,
    node::{cut_by, is_earlier, record},
    session::{Change, WATCH},
    view::View,
};
use crate::{
    model::LeaseValue,
    source::{
        Event, EventSink,
        notice::Notices,
        wait::{changed, check_every, until},
    },
};

/// A watch that lags is given this long before it counts as one that lost something.
const CATCH_UP: Duration = Duration::from_secs(3);
/// A watch that the server does not end in time is dead.
const OVERDUE: Duration = Duration::from_secs(WATCH as u64 + 30);
/// A watch that ends before this much time is not resumed at once.
const SHORTEST: Duration = Duration::from_secs(1);

pub(super) async fn run(
    mut source: KubeSource,
    sink: &dyn EventSink,
    mut values: Receiver<LeaseValue>,
    mut shutdown: Receiver<bool>,
) {
    let Some(mut hold) = source.hold.take() else {
        warn!("asked to run without having acquired a lease");
        return;
    };
    hold.value = values.borrow_and_update().clone();
    source.health.repeat();
    if let Some(lease) = hold.lease() {
        sink.send(Event::Own(lease.clone()));
    }
    let view = View::new(&hold.name);
    let mut keeper = Keeper {
        notices: Notices::of(&source.net_config),
        ready: Some(std::mem::replace(&mut source.ready, Box::pin(std::future::ready(())))),
        values: Some(values),
        version: None,
        network_said: String::new(),
        view,
        hold,
        source,
        sink,
    };
    tokio::select! {
        biased;
        _ = shutdown.wait_for(|stop| *stop) => {}
        () = keeper.sessions() => {}
    }
}

struct Keeper<'a> {
    source: KubeSource,
    hold: Hold,
    view: View,
    /// All up to this resource version is known; `None`: a list is due.
    version: Option<String>,
    values: Option<Receiver<LeaseValue>>,
    ready: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    notices: Notices,
    network_said: String,
    sink: &'a dyn EventSink,
}

/// Why a session is over.
enum End {
    NobodyListens,
    /// Our own address changed, and connections were made from the old one: packets for it go nowhere.
    Moved,
    Kube(KubeError),
}

impl From<KubeError> for End {
    fn from(error: KubeError) -> Self {
        Self::Kube(error)
    }
}

impl Keeper<'_> {
    /// Returns when nobody listens any more.
    async fn sessions(&mut self) {
        loop {
            let Err(end) = self.session().await;
            let wait = match end {
                End::NobodyListens => return,
                End::Moved => {
                    info!("our address changed; connecting to the API server from the new one");
                    Duration::ZERO
                }
                End::Kube(error) if error.kind == Kind::Gone && self.version.is_some() => {
                    info!(%error, "reading the whole list again");
                    self.version = None;
                    continue;
                }
                End::Kube(error) => {
                    // Where the server did answer, it may not have what we know; a broken connection says nothing.
                    if !matches!(error.kind, Kind::Refused | Kind::Unreachable) {
                        self.version = None;
                    }
                    self.source.health.down(Some(self.sink), &error.to_string());
                    self.source.health.wait(error.kind.trouble(), self.view.len())
                }
            };
            self.source.session = None;
            sleep(wait).await;
        }
    }

    async fn session(&mut self) -> Result<std::convert::Infallible, End> {
        let session = match &self.source.session {
            Some(session) => session.clone(),
            None => self.source.session.insert(connect(&self.source.settings).await?).clone(),
        };
        self.distrust(&session).await?;
        loop {
            let version = match self.version.clone() {
                Some(version) => version,
                None => self.list(&session).await?,
            };
            let started = Instant::now();
            self.follow(&session, &version).await?;
            if started.elapsed() < SHORTEST {
                sleep(SHORTEST).await;
            }
        }
    }

    /// A server whose store was restored from a backup while we were without it knows less than we do, and a watch
    /// from where we are would tell nothing until it has caught up.
    async fn distrust(&mut self, session: &Session) -> Result<(), End> {
        let Some(version) = &self.version else { return Ok(()) };
        let latest = session.latest().await?;
        if is_earlier(&latest, version) {
            warn!(latest, known = version, "the API server went back in time; reading the whole list again");
            self.version = None;
        }
        Ok(())
    }

    async fn list(&mut self, session: &Session) -> Result<String, End> {
        let mut own = None;
        let (name, names) = (&self.hold.name, &self.source.names);
        let listing = session
            .list(|node| {
                let record = record(&node, names).map(|record| (node.metadata.name.as_str().into(), record));
                if node.metadata.name == *name {
                    own = Some(node);
                }
                record
            })
            .await?;
        debug!(version = listing.version, leases = listing.nodes.len(), "listed");
        self.hold.see(own);
        let records = self.view.replace(listing.nodes);
        self.send(Event::Snapshot(records))?;
        self.version = Some(listing.version.clone());
        // Connected is who can watch as well.
        self.write(session).await?;
        Ok(listing.version)
    }

    /// Takes in what a watch tells, until the server ends it.
    async fn follow(&mut self, session: &Session, version: &str) -> Result<(), End> {
        let mut feed = Box::pin(session.watch(version).await?);
        let overdue = Instant::now() + OVERDUE;
        self.settle(session).await?;
        let mut check_at = Instant::now() + check_every(self.view.len());
        let mut suspicion: Option<String> = None;
        loop {
            tokio::select! {
                change = feed.next() => match change {
                    Some(change) => self.take_in(session, change?).await?,
                    None => return Ok(()),
                },
                value = changed(&mut self.values) => {
                    let addresses = |value: &LeaseValue| (value.public_ip, value.public_ipv6);
                    let moved = addresses(&value) != addresses(&self.hold.value);
                    self.hold.value = value;
                    if moved {
                        return Err(End::Moved);
                    }
                    self.settle(session).await?;
                }
                () = until(self.hold.due()) => self.settle(session).await?,
                () = come(&mut self.ready) => {
                    self.hold.available = self.source.settings.set_node_network_unavailable;
                    self.settle(session).await?;
                }
                () = self.notices.next() => self.look_at_network()?,
                () = sleep_until(check_at) => {
                    let there = version_of(session, &self.hold.name).await?;
                    if there.as_deref() == self.hold.version() {
                        suspicion = None;
                        check_at = Instant::now() + check_every(self.view.len());
                    } else if suspicion.is_some() && suspicion == there {
                        warn!("the watch lost something; reading the whole list again");
                        self.version = None;
                        return Ok(());
                    } else {
                        suspicion = there;
                        check_at = Instant::now() + CATCH_UP;
                    }
                }
                () = sleep_until(overdue) => return Ok(()),
            }
        }
    }

    async fn take_in(&mut self, session: &Session, change: Change) -> Result<(), End> {
        let (node, there) = match change {
            Change::Put(node) => (node, true),
            Change::Delete(node) => (node, false),
            Change::Bookmark(version) => {
                self.version = Some(version);
                return Ok(());
            }
        };
        self.version = Some(node.metadata.resource_version.clone());
        let name = &node.metadata.name;
        let events =
            if there { self.view.put(name, record(&node, &self.source.names)) } else { self.view.delete(name) };
        for event in events {
            self.send(event)?;
        }
        if *name == self.hold.name {
            self.hold.hear(there.then_some(node));
            self.settle(session).await?;
        }
        Ok(())
    }

    async fn settle(&mut self, session: &Session) -> Result<(), End> {
        if self.write(session).await? {
            self.source.health.up(Some(self.sink), session.server());
        }
        Ok(())
    }

    /// Whether our node says what it should.
    async fn write(&mut self, session: &Session) -> Result<bool, End> {
        let trouble = match self.hold.settle(session, Some(self.sink)).await {
            Ok(None) => return Ok(true),
            Ok(Some(trouble)) => trouble,
            // The rest goes on without: peers still come and go.
            Err(error) if matches!(error.kind, Kind::NotFound | Kind::Other) => error.to_string(),
            Err(error) => return Err(error.into()),
        };
        self.source.health.down(Some(self.sink), &trouble);
        Ok(false)
    }

    /// Whether the network config is still what we started with.
    fn look_at_network(&mut self) -> Result<(), End> {
        let text = match (read(&self.source.net_config), self.hold.lease()) {
            (Ok(network), Some(lease)) => {
                let same = cut_by(&network, &lease.subnet).ok() == self.source.network;
                let path = self.source.net_config.display();
                if same { String::new() } else { format!("the network config in {path} changed") }
            }
            (Ok(_), None) => return Ok(()),
            (Err(trouble), _) => trouble,
        };
        if text == self.network_said {
            return Ok(());
        }
        self.network_said.clone_from(&text);
        self.send(Event::NetworkChanged(text))
    }

    fn send(&self, event: Event) -> Result<(), End> {
        if self.sink.send(event) { Ok(()) } else { Err(End::NobodyListens) }
    }
}

/// `None`: there is no such node.
async fn version_of(session: &Session, name: &str) -> Result<Option<String>, KubeError> {
    match session.node(name).await {
        Ok(node) => Ok(Some(node.metadata.resource_version)),
        Err(error) if error.kind == Kind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Waits for ever once it has come.
async fn come(ready: &mut Option<Pin<Box<dyn Future<Output = ()> + Send>>>) {
    match ready {
        Some(future) => {
            future.await;
            *ready = None;
        }
        None => std::future::pending().await,
    }
}
