//! Building the state again from what a file held.

use std::collections::BTreeSet;

use super::{Change, Core, Effects, Lease, MAX_LEASE_TTL};

/// What a file held.
#[derive(Debug, Default)]
pub struct Saved {
    pub revision: i64,
    pub compacted: i64,
    /// In order of revision and position.
    pub changes: Vec<Change>,
    /// Ids and TTLs in seconds.
    pub leases: Vec<(i64, i64)>,
}

/// A file's content that no store can have written.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    #[error("compacted revision {compacted} is newer than the newest revision {revision}")]
    Compacted { compacted: i64, revision: i64 },
    #[error("the change at revision {revision} position {sub} is out of order")]
    Order { revision: i64, sub: u32 },
    #[error("the change at revision {revision} position {sub} does not follow from its key's history")]
    History { revision: i64, sub: u32 },
    #[error("the key written at revision {revision} position {sub} names lease {lease:x}, which does not exist")]
    NoLease { revision: i64, sub: u32, lease: i64 },
    #[error("lease {id:x} has the impossible life of {ttl} s")]
    Lease { id: i64, ttl: i64 },
}

impl Core {
    /// The state that wrote `saved`.
    pub fn restore(saved: Saved, quota: u64) -> Result<Self, Damage> {
        let Saved { revision, compacted, changes, leases } = saved;
        if compacted > revision || revision < 1 {
            return Err(Damage::Compacted { compacted, revision });
        }
        let mut core = Self::new(quota);
        core.revision = revision;
        core.compacted = compacted;
        for (id, ttl) in leases {
            if id == 0 || !(1..=MAX_LEASE_TTL).contains(&ttl) {
                return Err(Damage::Lease { id, ttl });
            }
            core.leases.insert(id, Lease { ttl, keys: BTreeSet::new() });
        }
        let mut last = (0, 0);
        for change in changes {
            let at = (change.revision(), change.sub);
            if at <= last || at.0 > revision || change.kv.key.is_empty() {
                return Err(Damage::Order { revision: at.0, sub: at.1 });
            }
            last = at;
            core.replay(change)?;
        }
        let keys: Vec<_> = core.keys.keys().cloned().collect();
        for key in keys {
            core.forget_versions(&key, compacted, &mut Effects::default());
        }
        core.attach_leases()?;
        Ok(core)
    }

    fn replay(&mut self, change: Change) -> Result<(), Damage> {
        let kv = &change.kv;
        let damage = Damage::History { revision: change.revision(), sub: change.sub };
        let before = self.keys.get(&kv.key).and_then(|versions| versions.last()).filter(|last| !last.is_deletion());
        let follows = match before {
            Some(_) if change.is_deletion() => true,
            Some(last) => kv.version == last.kv.version + 1 && kv.create_revision == last.kv.create_revision,
            // What came before may be compacted away.
            None if change.revision() <= self.compacted => kv.version >= 0,
            None => kv.version == 1 && kv.create_revision == kv.mod_revision,
        };
        if !follows {
            return Err(damage);
        }
        if change.revision() >= self.compacted {
            self.record(change);
        } else {
            self.weight += change.weight();
            self.keys.entry(change.kv.key.clone()).or_default().push(change);
        }
        Ok(())
    }

    fn attach_leases(&mut self) -> Result<(), Damage> {
        let attached: Vec<Change> = self
            .keys
            .values()
            .filter_map(|versions| versions.last())
            .filter(|last| !last.is_deletion() && last.kv.lease != 0)
            .cloned()
            .collect();
        for Change { sub, kv } in attached {
            if !self.has_lease(kv.lease) {
                return Err(Damage::NoLease { revision: kv.mod_revision, sub, lease: kv.lease });
            }
            self.attach(kv.lease, &kv.key);
        }
        Ok(())
    }
}
