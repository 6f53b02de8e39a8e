//! The set of leases that are believed, kept up to date event by event.
//!
//! What is admitted depends on what is there already: of two leases that claim the same range
//! or the same VTEP address, the one admitted first keeps it; from a cold start, the one that
//! was created first in the store. A claim that is given up goes to whoever was refused for it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use super::inspect::{Inspected, Refusal, Rules, inspect, inspect_all, judge};
use crate::model::{Family, Key, LeaseRecord, Mac, Peer};

/// Leases by key: admitted as peers, or refused with the reason.
#[derive(Debug, Default)]
pub struct Roster {
    peers: BTreeMap<Arc<str>, Arc<Peer>>,
    refused: BTreeMap<String, Refused>,
    /// What passed for our own: it may turn out to be another node's once we hold another subnet.
    own: BTreeMap<String, LeaseRecord>,
    /// Which lease holds the range with this base address. All ranges of a family have one
    /// length, so equal bases are the only overlap left to look for.
    ranges: BTreeMap<IpAddr, Arc<str>>,
    /// Which leases point at this VTEP, in order. More than one when a node left an old lease behind.
    vteps: BTreeMap<(Family, Mac), Vec<Arc<str>>>,
    reservations: usize,
}

/// A lease that is not believed, kept for a second look.
#[derive(Clone, Debug)]
pub struct Refused {
    pub reason: Refusal,
    suspect: Suspect,
}

/// What a second look looks at.
#[derive(Clone, Debug)]
enum Suspect {
    Record(LeaseRecord),
    /// Was a peer until this node changed.
    Peer(Arc<Peer>),
    /// Bad in itself, whatever others do: only its key is kept, so that bad leases cost little.
    Hopeless(String),
}

/// Who deserves a second look: after another lease let something go, only those that wanted it.
#[derive(Clone, Copy)]
enum Look {
    Collisions,
    Everybody,
}

impl Suspect {
    /// Former peers first, then in the order of creation.
    fn order(&self) -> (i64, &str) {
        match self {
            Self::Record(record) => (record.created, &record.key),
            Self::Peer(peer) => (0, &peer.key),
            Self::Hopeless(key) => (0, key),
        }
    }
}

/// What an event did to the set of peers. A changed peer is in both lists.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Changes {
    pub gone: Vec<Arc<Peer>>,
    pub come: Vec<Arc<Peer>>,
    /// Keys of leases that were refused, for the first time or again.
    pub refused: Vec<String>,
}

impl Roster {
    pub fn peers(&self) -> impl Iterator<Item = &Peer> {
        self.peers.values().map(|peer| &**peer)
    }

    pub fn peer_count(&self) -> usize {
        self.peers.len()
    }

    pub fn refused(&self) -> &BTreeMap<String, Refused> {
        &self.refused
    }

    /// Keys without owner seen in the last snapshot and since.
    pub fn reservations(&self) -> usize {
        self.reservations
    }

    /// Another peer of the set sends to this VTEP too.
    pub fn vtep_in_use(&self, family: Family, mac: Mac) -> Option<&Peer> {
        self.vteps.get(&(family, mac))?.first().and_then(|key| self.peers.get(key)).map(|peer| &**peer)
    }

    /// The peer that an object of the kernel belongs to.
    pub fn peer_of(&self, key: &Key) -> Option<&Peer> {
        match key {
            Key::Neighbour(base) => self.at(base),
            Key::Nexthop(base) => self.at(&IpAddr::V4(*base)),
            Key::Route(net) | Key::Guard(_, net) | Key::Forward(net) | Key::FastPeer(net) => self.at(&net.addr()),
            Key::Fdb(family, mac) => self.vtep_in_use(*family, *mac),
            Key::Device(_)
            | Key::Setting(..)
            | Key::Address(..)
            | Key::Filter
            | Key::Engine(_)
            | Key::LiberalConntrack
            | Key::FastPath
            | Key::Attachment(_) => None,
        }
    }

    /// Takes the complete list: what is not in it is gone.
    pub fn snapshot(&mut self, rules: &Rules, mut records: Vec<LeaseRecord>) -> Changes {
        let mut changes = Changes::default();
        if !self.peers.is_empty() {
            let listed: BTreeSet<&str> = records.iter().map(|record| record.key.as_str()).collect();
            let absent: Vec<_> = self.peers.keys().filter(|key| !listed.contains(&***key)).cloned().collect();
            for key in absent {
                changes.gone.extend(self.release(&key));
            }
        }
        self.refused.clear();
        self.own.clear();
        self.reservations = 0;
        records.sort_by(|a, b| (a.created, &a.key).cmp(&(b.created, &b.key)));
        let inspected = inspect_all(rules, &records);
        let admitted = self.peers.is_empty() && self.admit_all(&inspected, &mut changes);
        for (record, inspected) in records.into_iter().zip(inspected) {
            if !(admitted && matches!(inspected, Ok(Inspected::Peer(_)))) {
                self.take(record, inspected, &mut changes);
            }
        }
        self.second_look(rules, Look::Collisions, &mut changes);
        changes
    }

    /// A lease was added or changed.
    pub fn put(&mut self, rules: &Rules, record: LeaseRecord) -> Changes {
        let mut changes = Changes::default();
        self.refused.remove(&record.key);
        self.own.remove(&record.key);
        let inspected = inspect(rules, &record);
        self.take(record, inspected, &mut changes);
        if !changes.gone.is_empty() {
            self.second_look(rules, Look::Collisions, &mut changes);
        }
        changes
    }

    /// A lease was removed. A key that was never seen changes nothing.
    pub fn delete(&mut self, rules: &Rules, key: &str) -> Changes {
        let mut changes = Changes::default();
        self.refused.remove(key);
        self.own.remove(key);
        changes.gone.extend(self.release(key));
        if !changes.gone.is_empty() {
            self.second_look(rules, Look::Collisions, &mut changes);
        }
        changes
    }

    /// This node changed (subnet, address, MAC, interfaces): everybody is judged again.
    pub fn rules_changed(&mut self, rules: &Rules) -> Changes {
        let mut changes = Changes::default();
        let unbelievable: Vec<(Arc<str>, Refusal)> = self
            .peers
            .values()
            .filter_map(|peer| judge(rules, peer).err().map(|reason| (peer.key.clone(), reason)))
            .collect();
        for (key, reason) in unbelievable {
            if let Some(peer) = self.release(&key) {
                changes.gone.push(peer.clone());
                self.refuse(Refused { reason, suspect: Suspect::Peer(peer) }, &mut changes);
            }
        }
        for record in std::mem::take(&mut self.own).into_values() {
            let inspected = inspect(rules, &record);
            self.take(record, inspected, &mut changes);
        }
        self.second_look(rules, Look::Everybody, &mut changes);
        changes
    }

    fn at(&self, base: &IpAddr) -> Option<&Peer> {
        self.ranges.get(base).and_then(|key| self.peers.get(key)).map(|peer| &**peer)
    }

    fn take(&mut self, record: LeaseRecord, inspected: Result<Inspected, Refusal>, changes: &mut Changes) {
        if let Ok(Inspected::Peer(peer)) = &inspected
            && self.peers.get(record.key.as_str()) == Some(peer)
        {
            return;
        }
        changes.gone.extend(self.release(&record.key));
        let reason = match inspected {
            Ok(Inspected::Own) => {
                self.own.insert(record.key.clone(), record);
                return;
            }
            Ok(Inspected::Reservation) => {
                self.reservations += 1;
                return;
            }
            Ok(Inspected::Peer(peer)) => match self.collision(&peer) {
                None => return self.admit(peer, changes),
                Some(reason) => reason,
            },
            Err(reason) => reason,
        };
        let suspect = if reason.may_pass() { Suspect::Record(record) } else { Suspect::Hopeless(record.key) };
        self.refuse(Refused { reason, suspect }, changes);
    }

    /// Tries the refused again.
    fn second_look(&mut self, rules: &Rules, look: Look, changes: &mut Changes) {
        let worth = |refused: &Refused| match look {
            Look::Everybody => !matches!(refused.suspect, Suspect::Hopeless(_)),
            Look::Collisions => {
                matches!(refused.reason, Refusal::OverlapsPeer(..) | Refusal::DuplicateMac(..))
            }
        };
        let mut waiting: Vec<Suspect> =
            self.refused.extract_if(.., |_, refused| worth(refused)).map(|(_, refused)| refused.suspect).collect();
        waiting.sort_by(|a, b| a.order().cmp(&b.order()));
        for suspect in waiting {
            match suspect {
                Suspect::Record(record) => {
                    let inspected = inspect(rules, &record);
                    self.take(record, inspected, changes);
                }
                Suspect::Hopeless(_) => {}
                Suspect::Peer(peer) => match judge(rules, &peer).err().or_else(|| self.collision(&peer)) {
                    None => self.admit(peer, changes),
                    Some(reason) => self.refuse(Refused { reason, suspect: Suspect::Peer(peer) }, changes),
                },
            }
        }
    }

    fn refuse(&mut self, refused: Refused, changes: &mut Changes) {
        let key = refused.suspect.order().1.to_owned();
        changes.refused.push(key.clone());
        self.refused.insert(key, refused);
    }

    fn collision(&self, peer: &Peer) -> Option<Refusal> {
        for net in peer.subnet.nets() {
            if let Some(holder) = self.ranges.get(&net.addr()) {
                return Some(Refusal::OverlapsPeer(net, holder.to_string()));
            }
        }
        for family in Family::ALL {
            let Some(mac) = peer.vtep(family) else { continue };
            let Some(holder) = self.vtep_in_use(family, mac) else { continue };
            if holder.public(family) != peer.public(family) {
                return Some(Refusal::DuplicateMac(mac, holder.key.to_string()));
            }
        }
        None
    }

    fn admit(&mut self, peer: Arc<Peer>, changes: &mut Changes) {
        for net in peer.subnet.nets() {
            self.ranges.insert(net.addr(), peer.key.clone());
        }
        for family in Family::ALL {
            if let Some(mac) = peer.vtep(family) {
                let keys = self.vteps.entry((family, mac)).or_insert_with(|| Vec::with_capacity(1));
                if let Err(place) = keys.binary_search(&peer.key) {
                    keys.insert(place, peer.key.clone());
                }
            }
        }
        changes.come.push(peer.clone());
        self.peers.insert(peer.key.clone(), peer);
    }

    /// The first peers of all, together. `false`: two of them claim the same, so they have to be taken one after another.
    fn admit_all(&mut self, inspected: &[Result<Inspected, Refusal>], changes: &mut Changes) -> bool {
        let peers = || {
            inspected.iter().filter_map(|inspected| match inspected {
                Ok(Inspected::Peer(peer)) => Some(peer),
                _ => None,
            })
        };
        let ranges = || peers().flat_map(|peer| peer.subnet.nets().map(|net| (net.addr(), peer.key.clone())));
        let vteps = || {
            peers().flat_map(|peer| {
                let vtep = |family: Family| Some(((family, peer.vtep(family)?), vec![peer.key.clone()]));
                Family::ALL.into_iter().filter_map(vtep)
            })
        };
        // Sorted once, a map is built in less time than entry by entry, and takes less room.
        let (by_key, by_range, by_vtep): (BTreeMap<_, _>, BTreeMap<_, _>, BTreeMap<_, _>) =
            (peers().map(|peer| (peer.key.clone(), peer.clone())).collect(), ranges().collect(), vteps().collect());
        let claims = |of: fn(&Peer) -> usize| peers().map(|peer| of(peer)).sum::<usize>();
        let distinct = by_key.len() == peers().count()
            && by_range.len() == claims(|peer| peer.subnet.nets().count())
            && by_vtep.len()
                == claims(|peer| usize::from(peer.vtep_v4.is_some()) + usize::from(peer.vtep_v6.is_some()));
        if distinct {
            changes.come.extend(peers().cloned());
            (self.peers, self.ranges, self.vteps) = (by_key, by_range, by_vtep);
        }
        distinct
    }

    fn release(&mut self, key: &str) -> Option<Arc<Peer>> {
        let peer = self.peers.remove(key)?;
        for net in peer.subnet.nets() {
            self.ranges.remove(&net.addr());
        }
        for family in Family::ALL {
            let Some(mac) = peer.vtep(family) else { continue };
            if let Some(keys) = self.vteps.get_mut(&(family, mac)) {
                keys.retain(|other| **other != *key);
                if keys.is_empty() {
                    self.vteps.remove(&(family, mac));
                }
            }
        }
        Some(peer)
    }
}

#[cfg(test)]
#[path = "roster_tests.rs"]
mod tests;
