//! Keeping the lease that we have: renewed, correct, and given up when it is another's.

use std::time::Duration;

use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::{
    EtcdError, Session,
    acquire::{AcquireError, acquire},
    judge::{Verdict, judge},
    owned::{Owned, encode, merged},
    repeat::Repeat,
    session::Write,
    view::View,
};
use crate::{
    alloc,
    config::LeaseOptions,
    model::{LeaseRecord, Subnet},
    source::{Event, EventSink, Holding, LeaseRequest, NoLease, OwnLease, backoff::Backoff},
};

/// A quarrel is over when nobody wrote over our key for this long.
const QUIET: Duration = Duration::from_mins(1);
/// A dead etcd lease shall be noticed long before anybody wonders.
const RENEW_AT_LEAST: Duration = Duration::from_mins(5);
/// A node that another keeps from having a lease looks this often whether that is over.
const CONTESTED: Duration = Duration::from_secs(30);

pub(super) struct Hold {
    pub(super) request: LeaseRequest,
    options: LeaseOptions,
    owned: Option<Owned>,
    /// A value whose write was not answered: it may or may not be in the store.
    attempted: Option<Vec<u8>>,
    renew_at: Instant,
    /// Since the last renewal, etcd has not refused us the right to write.
    may_write: bool,
    /// Something is left to do then.
    retry_at: Option<Instant>,
    repeat: Repeat,
    quarrel: Backoff,
    /// Not before then is an overwrite answered.
    quarrel_until: Option<Instant>,
    trouble: Backoff,
}

impl Hold {
    pub(super) fn new(request: LeaseRequest, options: LeaseOptions, owned: Option<Owned>) -> Self {
        Self {
            request,
            options,
            owned,
            attempted: None,
            renew_at: Instant::now(),
            may_write: false,
            retry_at: None,
            repeat: Repeat::after(Instant::now()),
            quarrel: Backoff::new(Duration::from_millis(100), Duration::from_secs(30)),
            quarrel_until: None,
            trouble: Backoff::new(Duration::from_millis(100), Duration::from_secs(4)),
        }
    }

    pub(super) fn own(&self) -> Option<OwnLease> {
        self.owned.as_ref().map(Owned::lease)
    }

    /// Makes the view follow our key, and has the etcd lease looked at soon: called once a
    /// connection is there.
    pub(super) fn attach(&mut self, view: &mut View) {
        view.follow(self.owned.as_ref().map(|owned| owned.record.key.clone()), None);
        self.renew_at = Instant::now();
        self.may_write = false;
        self.retry_at = None;
    }

    /// When [`Self::settle`] wants to be called even though nothing happened.
    pub(super) fn due(&self) -> Instant {
        let routine = self.renew_at.min(self.repeat.at());
        self.retry_at.map_or(routine, |retry| retry.min(routine))
    }

    /// Gives our subnet up if it is another's by now. Needs no request, so that a subnet that is
    /// no longer ours is out of use before anything else happens.
    pub(super) fn fence(&mut self, view: &mut View, sink: &dyn EventSink) {
        let Some(owned) = &self.owned else { return };
        match judge(owned, view.own(), &self.request.value, self.attempted.as_deref()) {
            Verdict::Lost(reason) => self.lose(view, sink, reason),
            Verdict::Yield(reason) => self.yield_to(view, sink, reason),
            Verdict::Fine
            | Verdict::Adopt
            | Verdict::Rewrite
            | Verdict::Recreate
            | Verdict::Answer(_)
            | Verdict::Regain(_) => {}
        }
    }

    /// Brings the store to what it should say about us. `Some` text: it could not, but the
    /// session is fine and [`Self::due`] says when to try again.
    pub(super) async fn settle(
        &mut self,
        session: &Session,
        view: &mut View,
        sink: &dyn EventSink,
    ) -> Result<Option<String>, EtcdError> {
        self.retry_at = None;
        let again = self.repeat.take(Instant::now(), view.keys().count()) && view.has_flannels_daemons();
        match self.try_settle(session, view, sink, again).await {
            Ok(()) => {
                if self.retry_at.is_none() {
                    self.trouble.reset();
                }
                Ok(None)
            }
            Err(AcquireError::Etcd(error)) if !error.kind.keeps_session() => Err(error),
            Err(AcquireError::NoLease(NoLease::Contested(error))) => {
                self.retry_at = Some(Instant::now() + CONTESTED);
                let text = error.to_string();
                self.request.refused_by = Some(error.holding);
                self.keep_alive(session).await?;
                Ok(Some(text))
            }
            Err(error) => {
                self.retry_at = Some(Instant::now() + self.trouble.next());
                self.keep_alive(session).await?;
                Ok(Some(error.to_string()))
            }
        }
    }

    /// Gives the subnet back, unless it is a reservation.
    pub(super) async fn release(&mut self, session: &Session) -> Result<(), EtcdError> {
        let Some(owned) = self.owned.take() else { return Ok(()) };
        if owned.record.lease_id == 0 {
            return Ok(());
        }
        if let Write::Done(_) = session.delete(&owned.record.key, owned.record.modified).await? {
            info!(subnet = %owned.subnet, "released our lease");
            session.revoke(owned.record.lease_id).await?;
        }
        Ok(())
    }

    async fn try_settle(
        &mut self,
        session: &Session,
        view: &mut View,
        sink: &dyn EventSink,
        again: bool,
    ) -> Result<(), AcquireError> {
        loop {
            let Some(owned) = &self.owned else {
                let owned = acquire(session, &self.request, self.options.ttl).await?;
                self.hold(owned, view, sink);
                continue;
            };
            let now = view.own().cloned();
            match judge(owned, now.as_ref(), &self.request.value, self.attempted.as_deref()) {
                Verdict::Fine => break,
                Verdict::Adopt => {
                    let Some(record) = now else { break };
                    let value = alloc::parse(&record.value).unwrap_or_else(|| owned.value.clone());
                    let owned = Owned { value, record, ..owned.clone() };
                    self.hold(owned, view, sink);
                }
                Verdict::Rewrite => self.write(session, view, sink, now).await?,
                Verdict::Recreate => {
                    if let Some(reason) = self.overlapped(view) {
                        self.lose(view, sink, reason);
                        continue;
                    }
                    warn!(subnet = %owned.subnet, "our lease is gone from the store; writing it again");
                    self.write(session, view, sink, None).await?;
                }
                Verdict::Answer(reason) => {
                    sink.send(Event::Conflict { key: owned.record.key.clone(), reason });
                    self.write(session, view, sink, now).await?;
                }
                Verdict::Regain(reason) => {
                    if let Some(until) = self.quarrel_until.filter(|until| *until > Instant::now()) {
                        self.retry_at = Some(until);
                        // The key may hang on our etcd lease still, and must not expire meanwhile.
                        return Ok(self.keep_alive(session).await?);
                    }
                    debug!(subnet = %owned.subnet, reason, "somebody wrote over our lease; taking it back");
                    sink.send(Event::Conflict { key: owned.record.key.clone(), reason });
                    self.quarrel_until = Some(self.next_quarrel());
                    self.write(session, view, sink, now).await?;
                }
                Verdict::Lost(reason) => self.lose(view, sink, reason),
                Verdict::Yield(reason) => self.yield_to(view, sink, reason),
            }
        }
        if again {
            self.write_again(session, view, sink).await?;
        }
        self.renew(session, view, sink).await?;
        self.prove_right(session).await?;
        Ok(())
    }

    /// Renewing takes no right to write. Without it we could not answer who writes over our key.
    async fn prove_right(&mut self, session: &Session) -> Result<(), EtcdError> {
        if let Some(owned) = self.owned.as_ref().filter(|_| !self.may_write) {
            session.may_write(&owned.record.key).await?;
            self.may_write = true;
        }
        Ok(())
    }

    /// Writes our value over `now`, which the store must still have.
    async fn write(
        &mut self,
        session: &Session,
        view: &mut View,
        sink: &dyn EventSink,
        now: Option<LeaseRecord>,
    ) -> Result<(), EtcdError> {
        let Some(owned) = &self.owned else { return Ok(()) };
        let key = owned.record.key.clone();
        let lease = match (&now, owned.record.lease_id) {
            // A reservation stays one, until an operator deletes it.
            (Some(_), 0) => 0,
            (_, lease) if lease != 0 && session.renew(lease).await? => lease,
            _ => session.grant(self.options.ttl).await?,
        };
        let stored = now.as_ref().and_then(|now| alloc::parse(&now.value)).unwrap_or_else(|| owned.value.clone());
        let value = merged(&self.request.value, Some(&stored));
        let bytes = encode(&value);
        let (subnet, displaced) = (owned.subnet, owned.displaced.clone());
        let expected = now.as_ref().map_or(0, |now| now.modified);
        self.attempted = Some(bytes.clone());
        match session.write(&key, expected, &bytes, lease).await? {
            Write::Done(revision) => {
                let created = now.map_or(revision, |now| now.created);
                let record = LeaseRecord { key, value: bytes, created, modified: revision, lease_id: lease };
                self.hold(Owned { subnet, value, record, displaced }, view, sink);
                self.renew_at = Instant::now() + self.renew_every();
            }
            Write::Changed(now) => view.follow(Some(key), now),
        }
        self.attempted = None;
        Ok(())
    }

    /// The same value once more, for daemons that missed it.
    async fn write_again(&mut self, session: &Session, view: &mut View, sink: &dyn EventSink) -> Result<(), EtcdError> {
        let now = view.own().cloned();
        let repeat = std::mem::replace(&mut self.repeat, Repeat::after(Instant::now()));
        let outcome = self.write(session, view, sink, now).await;
        self.repeat = repeat;
        if view.own().map(|own| own.modified) != self.owned.as_ref().map(|owned| owned.record.modified) {
            // Somebody else was faster: that is to be judged first.
            self.retry_at = Some(Instant::now());
        }
        outcome
    }

    async fn renew(&mut self, session: &Session, view: &mut View, sink: &dyn EventSink) -> Result<(), EtcdError> {
        let Some(owned) = &self.owned else { return Ok(()) };
        if Instant::now() < self.renew_at {
            return Ok(());
        }
        if owned.record.lease_id != 0 && !session.renew(owned.record.lease_id).await? {
            let now = session.get(&owned.record.key).await?;
            view.follow(Some(owned.record.key.clone()), now.clone());
            if now.as_ref().is_none_or(|now| now.modified == owned.record.modified) {
                warn!(subnet = %owned.subnet, "our etcd lease expired or was revoked; hanging the subnet on a new one");
                self.write(session, view, sink, now).await?;
            } else {
                self.retry_at = Some(Instant::now());
                return Ok(());
            }
        }
        self.renew_at = Instant::now() + self.renew_every();
        self.may_write = false;
        Ok(())
    }

    /// Renews, and leaves it to the next write to notice that there is nothing to renew. For whoever
    /// has to wait with the rest: a renewal that stays due would have [`Self::due`] say "now" for ever.
    async fn keep_alive(&mut self, session: &Session) -> Result<(), EtcdError> {
        let lease = self.owned.as_ref().map_or(0, |owned| owned.record.lease_id);
        if Instant::now() >= self.renew_at {
            if lease != 0 && !session.renew(lease).await? {
                debug!(lease, "our etcd lease is gone; the next write brings another");
            }
            self.renew_at = Instant::now() + self.renew_every();
        }
        Ok(())
    }

    /// A third of the time to live, so that two renewals may fail; a little early, so that nodes
    /// that started together drift apart.
    fn renew_every(&self) -> Duration {
        (self.options.ttl / 3).min(RENEW_AT_LEAST).mul_f64(rand::random_range(0.8..1.0))
    }

    fn hold(&mut self, owned: Owned, view: &mut View, sink: &dyn EventSink) {
        view.follow(Some(owned.record.key.clone()), Some(owned.record.clone()));
        let lease = owned.lease();
        let news = self.own().as_ref() != Some(&lease)
            || self.owned.as_ref().is_some_and(|o| o.record.created != owned.record.created);
        if self.owned.as_ref().is_none_or(|before| before.record.modified != owned.record.modified) {
            self.repeat = Repeat::after(Instant::now());
        }
        self.owned = Some(owned);
        if news {
            sink.send(Event::Own(lease));
        }
    }

    fn lose(&mut self, view: &mut View, sink: &dyn EventSink, reason: String) {
        let Some(owned) = self.owned.take() else { return };
        debug!(subnet = %owned.subnet, reason, "our subnet is another's now; leaving it at once");
        view.follow(None, None);
        self.request.previous = None;
        sink.send(Event::Lost { subnet: owned.subnet, reason });
    }

    /// The holder from whom we took it lives after all: it keeps its lease, and is not asked again.
    fn yield_to(&mut self, view: &mut View, sink: &dyn EventSink, reason: String) {
        self.request.refused_by = view.own().map(Holding::of);
        self.lose(view, sink, reason);
    }

    /// While our key was gone, somebody leased a part of its range under another key.
    fn overlapped(&self, view: &View) -> Option<String> {
        let owned = self.owned.as_ref()?;
        let other = view.keys().find(|key| {
            **key != owned.record.key
                && Subnet::from_key(key)
                    .is_ok_and(|subnet| subnet.overlaps(&owned.subnet) && alloc::fits(&subnet, &self.request.network))
        })?;
        Some(format!("{other} overlaps it and was leased after ours was gone"))
    }

    /// The first overwrite is answered at once, the following ones ever later.
    fn next_quarrel(&mut self) -> Instant {
        let now = Instant::now();
        if self.quarrel_until.is_some_and(|last| now.duration_since(last) > QUIET) {
            self.quarrel.reset();
        }
        now + self.quarrel.next()
    }
}
