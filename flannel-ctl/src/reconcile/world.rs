//! PURE: what is wanted, what is there, and which of it may differ.
//!
//! Events and notices only mark keys as dirty; [`World::ops`] compares those, or everything
//! after a full look at the kernel.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use crate::{
    model::{Backend, Key, LeaseRecord, Object, Op, PodLink, State},
    plan::{
        Changes, Facts, Roster, Rules,
        desire::{desire, desire_peer, desire_pods},
        diff, diff_keys,
    },
};

/// The agent's picture of the cluster and of the kernel.
#[derive(Debug)]
pub struct World {
    facts: Facts,
    rules: Rules,
    roster: Roster,
    wanted: State,
    observed: State,
    dirty: BTreeSet<Key>,
    all_dirty: bool,
    /// The source has told its whole list at least once.
    complete: bool,
    /// Our subnet went to another node: nothing is wanted until we have one again.
    fenced: bool,
}

impl World {
    pub fn new(facts: Facts, rules: Rules) -> Self {
        let mut world = Self {
            facts,
            rules,
            roster: Roster::default(),
            wanted: State::new(),
            observed: State::new(),
            dirty: BTreeSet::new(),
            all_dirty: true,
            complete: false,
            fenced: false,
        };
        world.rebuild();
        world
    }

    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    pub fn roster(&self) -> &Roster {
        &self.roster
    }

    pub fn wanted(&self) -> &State {
        &self.wanted
    }

    pub fn observed(&self) -> &State {
        &self.observed
    }

    pub fn is_complete(&self) -> bool {
        self.complete
    }

    pub fn is_fenced(&self) -> bool {
        self.fenced
    }

    /// Takes the source's whole list. These three return the keys of leases that were refused.
    pub fn snapshot(&mut self, records: Vec<LeaseRecord>) -> Vec<String> {
        let changes = self.roster.snapshot(&self.rules, records);
        if self.complete {
            self.follow(&changes);
        } else {
            // What left while we were away is only in the kernel: it takes a full comparison.
            self.complete = true;
            self.rebuild();
        }
        changes.refused
    }

    pub fn put(&mut self, record: LeaseRecord) -> Vec<String> {
        let changes = self.roster.put(&self.rules, record);
        self.follow(&changes);
        changes.refused
    }

    pub fn delete(&mut self, key: &str) -> Vec<String> {
        let changes = self.roster.delete(&self.rules, key);
        self.follow(&changes);
        changes.refused
    }

    /// Our IPv6 device takes zero checksums, or does not: only the lease says so, nothing else depends on it. Whether
    /// that is news.
    pub fn set_zero_checksum(&mut self, takes: bool) -> bool {
        std::mem::replace(&mut self.facts.zero_checksum_v6, takes) != takes
    }

    /// This node changed.
    pub fn set_facts(&mut self, facts: Facts, rules: Rules) -> Vec<String> {
        self.facts = facts;
        self.rules = rules;
        let changes = self.roster.rules_changed(&self.rules);
        self.rebuild();
        changes.refused
    }

    /// Stops wanting anything until [`Self::set_facts`] brings another subnet.
    pub fn fence(&mut self, fenced: bool) {
        if self.fenced != fenced {
            self.fenced = fenced;
            self.rebuild();
        }
    }

    /// Peer addresses for which it is not known whether they are on-link, though it matters.
    pub fn unknown_on_link(&self) -> Vec<IpAddr> {
        self.asked_on_link().filter(|ip| !self.facts.on_link.contains_key(ip)).collect()
    }

    /// Peer addresses for which it matters whether they are on-link.
    pub fn asked_on_link(&self) -> impl Iterator<Item = IpAddr> + use<'_> {
        let matters = matches!(&self.facts.network.backend, Backend::Vxlan(vxlan) if vxlan.direct_routing);
        self.public_addresses().take_while(move |_| matters)
    }

    /// All peers' public addresses.
    pub fn public_addresses(&self) -> impl Iterator<Item = IpAddr> + use<'_> {
        self.roster
            .peers()
            .flat_map(|peer| [peer.public_v4.map(IpAddr::V4), peer.public_v6.map(IpAddr::V6)].into_iter().flatten())
    }

    /// Answers to [`Self::unknown_on_link`], or to asking again about everybody.
    pub fn set_on_link(&mut self, answers: BTreeMap<IpAddr, bool>) {
        // Who has not been asked after counts as being elsewhere.
        let changed = answers.iter().any(|(ip, on)| self.facts.on_link.get(ip).copied().unwrap_or(false) != *on);
        self.facts.on_link.extend(answers);
        if changed {
            self.rebuild();
        }
    }

    /// Forgets the answers about those who are no peers any more. Nobody's routes depend on them.
    pub fn forget_on_link(&mut self) {
        if !self.facts.on_link.is_empty() {
            let asked: BTreeSet<IpAddr> = self.asked_on_link().collect();
            self.facts.on_link.retain(|ip, _| asked.contains(ip));
        }
    }

    /// The interfaces that lead to pods are these. Whether that is news.
    pub fn set_pods(&mut self, pods: BTreeMap<u32, PodLink>) -> bool {
        if self.facts.pods == pods {
            return false;
        }
        let before: Vec<Key> = desire_pods(&self.facts).map(|(key, _)| key).collect();
        self.facts.pods = pods;
        if self.fenced {
            return true;
        }
        for key in before {
            self.wanted.remove(&key);
            self.dirty.insert(key);
        }
        for (key, object) in desire_pods(&self.facts) {
            self.wanted.insert(key, object);
            self.dirty.insert(key);
        }
        true
    }

    /// A full look at the kernel.
    pub fn observe(&mut self, observed: State) {
        self.observed = observed;
        self.all_dirty = true;
    }

    /// One object of the kernel changed, as far as the kernel told. What we knew already, most
    /// of all the echo of our own changes, makes nothing dirty.
    pub fn noticed(&mut self, key: Key, object: Option<Object>) -> bool {
        if self.observed.get(&key) == object.as_ref() {
            return false;
        }
        match object {
            Some(object) => self.observed.insert(key, object),
            None => self.observed.remove(&key),
        };
        self.dirty.insert(key);
        true
    }

    /// These are the objects that change without a notice. Which of them are news.
    pub fn noticed_silent(&mut self, mut found: State) -> Vec<Key> {
        let known = Key::silent(&self.observed).map(|(key, _)| *key);
        let keys: BTreeSet<Key> = known.chain(found.keys().copied()).collect();
        keys.into_iter().filter(|key| self.noticed(*key, found.remove(key))).collect()
    }

    /// A change was carried out.
    pub fn applied(&mut self, op: &Op) {
        match &op.to {
            Some(object) => self.observed.insert(op.key, object.clone()),
            None => self.observed.remove(&op.key),
        };
    }

    /// Gives back what growing one by one has left half empty: worth it after a large change.
    pub fn compact(&mut self) {
        for state in [&mut self.wanted, &mut self.observed] {
            *state = std::mem::take(state).into_iter().collect();
        }
    }

    /// Makes a key be compared again.
    pub fn doubt(&mut self, key: Key) {
        self.dirty.insert(key);
    }

    /// What to change now. Keys for which `held` says so wait, and stay dirty.
    pub fn ops(&mut self, held: impl Fn(&Key) -> bool) -> Vec<Op> {
        let dirty = std::mem::take(&mut self.dirty);
        let mut ops = if std::mem::take(&mut self.all_dirty) {
            diff(&self.wanted, &self.observed, self.complete)
        } else {
            diff_keys(&self.wanted, &self.observed, dirty.into_iter(), self.complete)
        };
        ops.retain(|op| {
            // A guard that knows no peers yet would cut them all off: on a node that another
            // daemon left running they are talking right now.
            let early = !self.complete && guards(op.to.as_ref());
            let held = early || held(&op.key);
            if held {
                self.dirty.insert(op.key);
            }
            !held
        });
        ops
    }

    /// All differences, without forgetting them: for `plan`.
    pub fn preview(&self) -> Vec<Op> {
        diff(&self.wanted, &self.observed, self.complete)
    }

    fn rebuild(&mut self) {
        self.wanted = if self.fenced { State::new() } else { desire(&self.facts, self.roster.peers()) };
        self.all_dirty = true;
    }

    /// Carries a change of the peer set into the wanted state, touching only what it concerns.
    fn follow(&mut self, changes: &Changes) {
        if self.fenced {
            return;
        }
        for peer in &changes.gone {
            desire_peer(&self.facts, peer, &mut |key, _| {
                self.wanted.remove(&key);
                self.dirty.insert(key);
            });
        }
        // Two leases of one node share its FDB entry: what the one left behind, the other wants.
        let sharing = changes.gone.iter().flat_map(|gone| {
            let roster = &self.roster;
            crate::model::Family::ALL
                .into_iter()
                .filter_map(move |family| roster.vtep_in_use(family, gone.vtep(family)?))
        });
        let come: Vec<_> = sharing.chain(changes.come.iter().map(|peer| &**peer)).collect();
        for peer in come {
            desire_peer(&self.facts, peer, &mut |key, object| {
                self.wanted.insert(key, object);
                self.dirty.insert(key);
            });
        }
    }
}

/// Packet filter rules that drop what comes from no peer.
fn guards(object: Option<&Object>) -> bool {
    let Some(Object::Filter(policy)) = object else { return false };
    policy.guard.as_ref().is_some_and(|guard| guard.judges_peers() && !guard.count_only)
}

#[cfg(test)]
#[path = "world_tests.rs"]
mod tests;
