//! The life of the source: one session after another, each from a fresh list.

use std::{collections::BTreeSet, time::Duration};

use tokio::{
    sync::watch::Receiver,
    time::{Instant, sleep, sleep_until, timeout},
};
use tracing::{debug, info, warn};

use super::{Change, EtcdError, EtcdSource, Feed, Kind, NoEndpoint, Session, hold::Hold, rights, view::View};
use crate::{
    model::{LeaseRecord, LeaseValue},
    source::{
        Event, EventSink,
        wait::{changed, check_every, until},
    },
};

/// A watch that lags is given this long before it counts as one that lost something.
const CATCH_UP: Duration = Duration::from_secs(2);
/// Peers that a store has forgotten are kept for this long: every living node has found the store
/// again by then, and has written its lease anew.
const REMEMBER: Duration = Duration::from_secs(10);
/// An exit is not held up longer than this.
const RELEASE: Duration = Duration::from_secs(2);

pub(super) async fn run(
    mut source: EtcdSource,
    sink: &dyn EventSink,
    mut values: Receiver<LeaseValue>,
    mut shutdown: Receiver<bool>,
) {
    let Some(mut request) = source.request.take() else {
        warn!("asked to run without having acquired a lease");
        return;
    };
    request.value = values.borrow_and_update().clone();
    source.health.repeat();
    let mut keeper = Keeper {
        hold: Hold::new(request, source.options.clone(), source.owned.take()),
        view: View::default(),
        values: Some(values),
        config_said: String::new(),
        forgotten: None,
        source,
        sink,
    };
    if let Some(lease) = keeper.hold.own() {
        sink.send(Event::Own(lease));
    }
    tokio::select! {
        biased;
        _ = shutdown.wait_for(|stop| *stop) => {}
        () = keeper.sessions() => {}
    }
    keeper.leave().await;
}

struct Keeper<'a> {
    source: EtcdSource,
    hold: Hold,
    view: View,
    values: Option<Receiver<LeaseValue>>,
    config_said: String,
    forgotten: Option<Forgotten>,
    sink: &'a dyn EventSink,
}

/// Keys that the store lost, whose removal is told later unless they come back.
struct Forgotten {
    keys: BTreeSet<String>,
    until: Instant,
}

/// Why a session is over.
enum End {
    NobodyListens,
    /// Our own address changed, and the connection was made from the old one: packets for it go nowhere.
    Moved,
    Etcd(EtcdError),
    NoEndpoint(NoEndpoint),
}

impl From<EtcdError> for End {
    fn from(error: EtcdError) -> Self {
        Self::Etcd(error)
    }
}

impl Keeper<'_> {
    /// Returns when nobody listens any more.
    async fn sessions(&mut self) {
        loop {
            let end = self.session().await;
            self.source.session = None;
            let wait = match end {
                End::NobodyListens => return,
                End::Moved => {
                    info!("our address changed; connecting to etcd from the new one");
                    Duration::ZERO
                }
                End::Etcd(error) if error.kind == Kind::Compacted => {
                    info!(%error, "reading the whole list again");
                    Duration::ZERO
                }
                End::Etcd(error) => {
                    self.source.health.down(Some(self.sink), &error.to_string(), std::slice::from_ref(&error));
                    self.source.connector.step();
                    self.source.health.wait_answered()
                }
                End::NoEndpoint(error) => {
                    self.source.health.down(Some(self.sink), &error.to_string(), &error.0);
                    self.source.health.wait(&error, self.view.keys().count())
                }
            };
            sleep(wait).await;
        }
    }

    async fn session(&mut self) -> End {
        let session = match self.source.session.clone() {
            Some(session) => session,
            None => match self.source.connector.connect().await {
                Ok(session) => session,
                Err(error) => return End::NoEndpoint(error),
            },
        };
        match self.follow(&session).await {
            Ok(never) => never,
            Err(end) => end,
        }
    }

    async fn follow(&mut self, session: &Session) -> Result<End, End> {
        let mut feed = self.resync(session).await?;
        let mut check_at = Instant::now() + check_every(self.view.keys().count());
        let mut suspicious = false;
        let mut rights_lost = Box::pin(rights::lost(session));
        loop {
            tokio::select! {
                change = feed.next() => self.take_in(session, change?).await?,
                value = changed(&mut self.values) => {
                    let addresses = |value: &LeaseValue| (value.public_ip, value.public_ipv6);
                    let moved = addresses(&value) != addresses(&self.hold.request.value);
                    self.hold.request.value = value;
                    if moved {
                        return Err(End::Moved);
                    }
                    self.settle(session).await?;
                }
                () = sleep_until(self.hold.due()) => self.settle(session).await?,
                error = &mut rights_lost => return Err(error.into()),
                () = until(self.forgotten.as_ref().map(|forgotten| forgotten.until)) => self.remove_forgotten()?,
                () = sleep_until(check_at) => {
                    let there = session.summary().await?;
                    if there == self.view.summary() {
                        suspicious = false;
                        check_at = Instant::now() + check_every(self.view.keys().count());
                    } else if suspicious {
                        warn!(?there, here = ?self.view.summary(), "the watch lost something; reading the whole list again");
                        feed = self.resync(session).await?;
                        suspicious = false;
                        check_at = Instant::now() + check_every(self.view.keys().count());
                    } else {
                        suspicious = true;
                        check_at = Instant::now() + CATCH_UP;
                    }
                }
            }
        }
    }

    /// Subscribes, then lists: nothing falls between the two.
    async fn resync(&mut self, session: &Session) -> Result<Feed, End> {
        let feed = Feed::subscribe(session).await?;
        self.hold.attach(&mut self.view);
        let listing = session.list().await?;
        debug!(revision = listing.revision, leases = listing.records.len(), "listed");
        let (lost, missing) = (self.view.is_another_history(&listing), self.view.missing(&listing));
        self.view.replace(&listing);
        self.hold.fence(&mut self.view, self.sink);
        self.tell(listing.records, lost, missing)?;
        let config = session.config().await?;
        self.source.note_config(config.as_ref(), &mut self.config_said, self.sink);
        self.settle(session).await?;
        Ok(feed)
    }

    /// Passes a list on: as complete, unless the store lost its data, now or a moment ago. Then the
    /// list adds and changes, and what is missing from it is removed later.
    fn tell(&mut self, records: Vec<LeaseRecord>, lost: bool, mut missing: BTreeSet<String>) -> Result<(), End> {
        let before = self.forgotten.take();
        let was_holding = before.is_some();
        missing.extend(before.into_iter().flat_map(|forgotten| forgotten.keys));
        for record in &records {
            missing.remove(&record.key);
        }
        if missing.is_empty() || !(lost || was_holding) {
            self.send(Event::Snapshot(records))?;
            return if was_holding { self.send(Event::Holding(String::new())) } else { Ok(()) };
        }
        for record in records {
            self.send(Event::Put(record))?;
        }
        let keys = missing;
        let text = format!(
            "the store lost what it had: {} leases that it does not list are kept for {} s, for their nodes to write them again",
            keys.len(),
            REMEMBER.as_secs()
        );
        warn!("{text}");
        self.forgotten = Some(Forgotten { keys, until: Instant::now() + REMEMBER });
        self.send(Event::Holding(text))
    }

    /// What was not written again in time is gone.
    fn remove_forgotten(&mut self) -> Result<(), End> {
        let Some(forgotten) = self.forgotten.take() else { return Ok(()) };
        info!(leases = forgotten.keys.len(), "leases that the store lost and nobody wrote again are removed");
        for key in forgotten.keys {
            self.send(Event::Delete(key))?;
        }
        self.send(Event::Holding(String::new()))
    }

    async fn take_in(&mut self, session: &Session, change: Change) -> Result<(), End> {
        if let Change::Config(config) = &change {
            self.source.note_config(config.as_ref(), &mut self.config_said, self.sink);
            return Ok(());
        }
        let before = self.view.own().map(|own| own.modified);
        if let Some(event) = self.view.apply(change) {
            if let (Event::Put(record), Some(forgotten)) = (&event, &mut self.forgotten) {
                forgotten.keys.remove(&record.key);
            }
            self.send(event)?;
        }
        if self.forgotten.as_ref().is_some_and(|forgotten| forgotten.keys.is_empty()) {
            self.remove_forgotten()?;
        }
        if before == self.view.own().map(|own| own.modified) { Ok(()) } else { self.settle(session).await }
    }

    async fn settle(&mut self, session: &Session) -> Result<(), End> {
        match self.hold.settle(session, &mut self.view, self.sink).await? {
            None => self.source.health.up(Some(self.sink), session.endpoint()),
            Some(trouble) => self.source.health.down(Some(self.sink), &trouble, &[]),
        }
        Ok(())
    }

    async fn leave(&mut self) {
        if !self.source.options.release_on_exit {
            return;
        }
        let released = async {
            let session = match self.source.session.clone() {
                Some(session) => session,
                None => self.source.connector.connect().await.map_err(|error| error.to_string())?,
            };
            self.hold.release(&session).await.map_err(|error| error.to_string())
        };
        match timeout(RELEASE, released).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => warn!(error, "could not release our lease; it expires by itself"),
            Err(_) => warn!("could not release our lease in time; it expires by itself"),
        }
    }

    fn send(&self, event: Event) -> Result<(), End> {
        if self.sink.send(event) { Ok(()) } else { Err(End::NobodyListens) }
    }
}
