//! Getting hold of a lease.

use std::time::Duration;

use tokio::task::JoinSet;
use tracing::{info, warn};

use super::{
    EtcdError, Session,
    challenge::{self, Answer},
    error::Kind,
    owned::{Owned, encode, merged},
    session::{Listing, Write},
};
use crate::{
    alloc::{self, Claim, Owner, Take},
    model::{LeaseRecord, Subnet},
    source::{Contested, Holding, LeaseRequest, NoLease},
};

/// Why there is no lease.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AcquireError {
    #[error(transparent)]
    Etcd(#[from] EtcdError),
    #[error(transparent)]
    NoLease(#[from] NoLease),
}

/// Finds or creates this node's lease. Whoever loses a race takes the next candidate at once.
pub(super) async fn acquire(session: &Session, request: &LeaseRequest, ttl: Duration) -> Result<Owned, AcquireError> {
    let mut attempt = Attempt { session, request, ttl, granted: None, silent: Vec::new() };
    let outcome = attempt.run().await;
    attempt.take_back_questions(outcome.as_ref().ok()).await;
    if let (Some(lease), true) =
        (attempt.granted, outcome.as_ref().map_or(true, |o| Some(o.record.lease_id) != attempt.granted))
        && let Err(error) = session.revoke(lease).await
    {
        // It holds nothing and expires by itself.
        info!(lease, %error, "an unused etcd lease stays until it expires");
    }
    outcome
}

struct Attempt<'a> {
    session: &'a Session,
    request: &'a LeaseRequest,
    ttl: Duration,
    granted: Option<i64>,
    /// Leases as they were before their holders were asked and gave no answer, and the mod
    /// revision of the question that stands in each.
    silent: Vec<(LeaseRecord, i64)>,
}

impl Attempt<'_> {
    async fn run(&mut self) -> Result<Owned, AcquireError> {
        let mut warned = false;
        loop {
            let mut listing = self.session.list().await?;
            let owned = loop {
                let silent: Vec<_> = self.silent.iter().map(|(was, asked)| (was.key.clone(), *asked)).collect();
                let claim = Claim {
                    network: &self.request.network,
                    value: &self.request.value,
                    previous: self.request.previous,
                    random: rand::random(),
                    silent: &silent,
                };
                let decision = alloc::choose(&claim, &listing.records).map_err(NoLease::from)?;
                if !decision.ask.is_empty() {
                    if !self.ask(decision.ask).await? {
                        info!("a lease changed while its holder was asked; looking again");
                    }
                    break None;
                }
                if !warned && !decision.rivals.is_empty() {
                    warned = true;
                    warn!(
                        leases = %decision.rivals.join(" "), public_ip = %self.request.value.public_ip,
                        "another node's lease has our public address; if that node is gone, release it"
                    );
                }
                let (taken, created) = match decision.take {
                    Take::Keep(subnet, record) => (self.keep(subnet, record).await?, false),
                    Take::Create(subnet) => (self.create(subnet, &mut listing).await?, true),
                };
                match taken {
                    Outcome::Owned(owned) => {
                        self.release(decision.release).await?;
                        break Some((owned, created));
                    }
                    Outcome::Raced => {}
                    Outcome::Stale => break None,
                }
            };
            if let Some((owned, created)) = owned
                && self.is_first(&owned, created).await?
            {
                return Ok(*owned);
            }
        }
    }

    /// Asks all these holders at once. An error if one of them lives; `false` if the list is out
    /// of date.
    async fn ask(&mut self, records: Vec<LeaseRecord>) -> Result<bool, AcquireError> {
        let contested =
            |record: &LeaseRecord, remembered| NoLease::from(Contested::new(record, &self.request.value, remembered));
        if let Some(record) = records.iter().find(|record| self.request.refused_by == Some(Holding::of(record))) {
            return Err(contested(record, true).into());
        }
        let mut asking = JoinSet::new();
        for record in records {
            let (session, us) = (self.session.clone(), self.request.value.clone());
            info!(key = %record.key, "somebody may live with our node id or address; asking the holder");
            asking.spawn(async move { (challenge::ask(&session, &record, &us).await, record) });
        }
        let mut up_to_date = true;
        while let Some(asked) = asking.join_next().await {
            let Ok((answer, record)) = asked else { continue };
            match answer? {
                Answer::Alive => return Err(contested(&record, false).into()),
                Answer::Silent(revision) => self.silent.push((record, revision)),
                Answer::Changed => up_to_date = false,
            }
        }
        Ok(up_to_date)
    }

    /// What nobody answered and we did not take is put back as it was.
    async fn take_back_questions(&self, owned: Option<&Owned>) {
        for (was, asked) in &self.silent {
            if owned.is_some_and(|owned| owned.record.key == was.key) {
                continue;
            }
            match self.session.write(&was.key, *asked, &was.value, was.lease_id).await {
                Ok(_) => {}
                Err(error) if error.kind == Kind::LeaseGone => {}
                // Its holder takes it out when it comes back.
                Err(error) => info!(key = %was.key, %error, "our question stays in a lease"),
            }
        }
    }

    async fn keep(&mut self, subnet: Subnet, record: LeaseRecord) -> Result<Outcome, EtcdError> {
        let stored = alloc::parse(&record.value);
        let owner = alloc::owner(&record.value, &self.request.value);
        let ours = owner == Owner::Us;
        let asked = self.silent.iter().find(|(was, asked)| was.key == record.key && *asked == record.modified);
        let displaced = asked.and_then(|(was, _)| alloc::parse(&was.value));
        let lease = if record.lease_id == 0 {
            0
        } else if ours && self.session.granted_ttl(record.lease_id).await? == Some(self.ttl) {
            record.lease_id
        } else {
            self.granted().await?
        };
        let value = merged(&self.request.value, stored.as_ref());
        if lease == record.lease_id && stored.as_ref() == Some(&value) {
            info!(%subnet, "our lease is still there");
            return Ok(Outcome::Owned(Box::new(Owned { subnet, value, record, displaced })));
        }
        let bytes = encode(&value);
        match self.session.write(&record.key, record.modified, &bytes, lease).await? {
            Write::Done(revision) => {
                let was_flannels = owner == Owner::OurAddress;
                let from = displaced.as_ref().map(crate::source::contested::name);
                info!(%subnet, was_flannels, reservation = lease == 0, from, "took our lease");
                let record = LeaseRecord { value: bytes, modified: revision, lease_id: lease, ..record };
                Ok(Outcome::Owned(Box::new(Owned { subnet, value, record, displaced })))
            }
            Write::Changed(_) => Ok(Outcome::Stale),
        }
    }

    async fn create(&mut self, subnet: Subnet, listing: &mut Listing) -> Result<Outcome, EtcdError> {
        let lease = self.granted().await?;
        let key = subnet.key();
        let value = self.request.value.clone();
        let bytes = encode(&value);
        match self.session.write(&key, 0, &bytes, lease).await? {
            Write::Done(revision) => {
                info!(%subnet, "leased a subnet");
                let record = LeaseRecord { key, value: bytes, created: revision, modified: revision, lease_id: lease };
                Ok(Outcome::Owned(Box::new(Owned { subnet, value, record, displaced: None })))
            }
            Write::Changed(Some(winner)) => {
                info!(%subnet, "another node was faster; trying the next candidate");
                listing.records.push(winner);
                Ok(Outcome::Raced)
            }
            Write::Changed(None) => Ok(Outcome::Stale),
        }
    }

    /// "Key absent" does not decide everything: in dual stack two different keys may share a range
    /// of one family, and a node with our id or address may have created another key meanwhile.
    /// Then the older key counts.
    async fn is_first(&self, owned: &Owned, created: bool) -> Result<bool, EtcdError> {
        if !created && owned.subnet.nets().count() < 2 {
            return Ok(true);
        }
        let older = self.session.list().await?.records.into_iter().find(|record| {
            record.key != owned.record.key
                && record.created < owned.record.created
                && (self.overlaps(owned, record) || created && self.contends(record))
        });
        let Some(older) = older else { return Ok(true) };
        info!(subnet = %owned.subnet, older = %older.key, "another node was faster with what only one can have; trying again");
        if owned.record.lease_id != 0 {
            self.withdraw(owned).await?;
        }
        Ok(false)
    }

    fn overlaps(&self, owned: &Owned, record: &LeaseRecord) -> bool {
        Subnet::from_key(&record.key)
            .is_ok_and(|subnet| subnet.overlaps(&owned.subnet) && alloc::fits(&subnet, &self.request.network))
    }

    /// It was not there when we chose: then we would have kept it, or asked its holder.
    fn contends(&self, record: &LeaseRecord) -> bool {
        let asked = || self.silent.iter().any(|(was, _)| was.key == record.key && was.created == record.created);
        record.lease_id != 0
            && matches!(alloc::owner(&record.value, &self.request.value), Owner::Us | Owner::Rival)
            && !asked()
    }

    /// Deletes what we just created, with a question that somebody put into it meanwhile.
    async fn withdraw(&self, owned: &Owned) -> Result<(), EtcdError> {
        let mut revision = owned.record.modified;
        while let Write::Changed(Some(now)) = self.session.delete(&owned.record.key, revision).await? {
            if now.created != owned.record.created || alloc::owner(&now.value, &self.request.value) != Owner::Us {
                break;
            }
            revision = now.modified;
        }
        Ok(())
    }

    async fn release(&self, records: Vec<LeaseRecord>) -> Result<(), EtcdError> {
        for record in records {
            match self.session.delete(&record.key, record.modified).await? {
                Write::Done(_) => info!(key = %record.key, "released a lease of ours that is not to be used"),
                Write::Changed(_) => {
                    info!(key = %record.key, "a lease of ours that is not to be used changed meanwhile");
                }
            }
        }
        Ok(())
    }

    async fn granted(&mut self) -> Result<i64, EtcdError> {
        if let Some(lease) = self.granted {
            return Ok(lease);
        }
        let lease = self.session.grant(self.ttl).await?;
        self.granted = Some(lease);
        Ok(lease)
    }
}

enum Outcome {
    Owned(Box<Owned>),
    /// The candidate is gone; the list now knows it.
    Raced,
    /// The list is out of date.
    Stale,
}
