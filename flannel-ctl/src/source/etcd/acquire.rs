//! Getting hold of a lease.

use std::time::Duration;

use tracing::{info, warn};

use super::{
    EtcdError, Session,
    hold::Owned,
    session::{Listing, Write},
};
use crate::{
    alloc::{self, Claim, Exhausted, Owner, Take},
    model::{LeaseRecord, LeaseValue, Subnet},
    source::LeaseRequest,
};

/// Why there is no lease.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AcquireError {
    #[error(transparent)]
    Etcd(#[from] EtcdError),
    #[error(transparent)]
    Exhausted(#[from] Exhausted),
}

/// Finds or creates this node's lease. Whoever loses a race takes the next candidate at once.
pub(super) async fn acquire(session: &Session, request: &LeaseRequest, ttl: Duration) -> Result<Owned, AcquireError> {
    let mut attempt = Attempt { session, request, ttl, granted: None };
    let outcome = attempt.run().await;
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
}

impl Attempt<'_> {
    async fn run(&mut self) -> Result<Owned, AcquireError> {
        let mut warned = false;
        loop {
            let mut listing = self.session.list().await?;
            let owned = loop {
                let claim = Claim {
                    network: &self.request.network,
                    value: &self.request.value,
                    previous: self.request.previous,
                    random: rand::random(),
                };
                let decision = alloc::choose(&claim, &listing.records)?;
                if !warned && !decision.rivals.is_empty() {
                    warned = true;
                    warn!(
                        leases = %decision.rivals.join(" "), public_ip = %self.request.value.public_ip,
                        "another node holds a lease with our public address; if that node is gone, release its lease"
                    );
                }
                let taken = match decision.take {
                    Take::Keep(subnet, record) => self.keep(subnet, record).await?,
                    Take::Create(subnet) => self.create(subnet, &mut listing).await?,
                };
                match taken {
                    Outcome::Owned(owned) => {
                        self.release(decision.release).await?;
                        break Some(owned);
                    }
                    Outcome::Raced => {}
                    Outcome::Stale => break None,
                }
            };
            if let Some(owned) = owned
                && self.is_first(&owned).await?
            {
                return Ok(*owned);
            }
        }
    }

    async fn keep(&mut self, subnet: Subnet, record: LeaseRecord) -> Result<Outcome, EtcdError> {
        let stored = alloc::parse(&record.value);
        let ours = alloc::owner(&record.value, &self.request.value) == Owner::Us;
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
            return Ok(Outcome::Owned(Box::new(Owned { subnet, value, record })));
        }
        let bytes = encode(&value);
        match self.session.write(&record.key, record.modified, &bytes, lease).await? {
            Write::Done(revision) => {
                info!(%subnet, was_flannels = !ours, reservation = lease == 0, "took our lease");
                let record = LeaseRecord { value: bytes, modified: revision, lease_id: lease, ..record };
                Ok(Outcome::Owned(Box::new(Owned { subnet, value, record })))
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
                Ok(Outcome::Owned(Box::new(Owned { subnet, value, record })))
            }
            Write::Changed(Some(winner)) => {
                info!(%subnet, "another node was faster; trying the next candidate");
                listing.records.push(winner);
                Ok(Outcome::Raced)
            }
            Write::Changed(None) => Ok(Outcome::Stale),
        }
    }

    /// In dual stack two different keys may share a range of one family, so that "key absent"
    /// does not decide. Then the older key does.
    async fn is_first(&self, owned: &Owned) -> Result<bool, EtcdError> {
        if owned.subnet.nets().count() < 2 {
            return Ok(true);
        }
        let older = self.session.list().await?.records.into_iter().find(|record| {
            record.key != owned.record.key
                && record.created < owned.record.created
                && Subnet::from_key(&record.key)
                    .is_ok_and(|subnet| subnet.overlaps(&owned.subnet) && alloc::fits(&subnet, &self.request.network))
        });
        let Some(older) = older else { return Ok(true) };
        info!(subnet = %owned.subnet, older = %older.key, "another node was faster with an overlapping subnet; trying again");
        if owned.record.lease_id != 0 {
            self.session.delete(&owned.record.key, owned.record.modified).await?;
        }
        Ok(false)
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

/// What we want to say, with the fields that others put into what is stored.
pub(super) fn merged(wish: &LeaseValue, stored: Option<&LeaseValue>) -> LeaseValue {
    let mut value = wish.clone();
    for (field, content) in stored.iter().flat_map(|stored| &stored.other) {
        value.other.entry(field.clone()).or_insert_with(|| content.clone());
    }
    value
}

pub(super) fn encode(value: &LeaseValue) -> Vec<u8> {
    serde_json::to_vec(value).expect("a lease value is plain JSON")
}
