//! What the source tells, taken into the picture.

use std::time::Duration;

use super::Agent;
use crate::{
    kernel::Kernel,
    reconcile::Host,
    source::{Event, OwnLease},
};

impl<K: Kernel<Notice: Clone>, H: Host> Agent<K, H> {
    pub(super) fn event(&mut self, event: Event) {
        self.memory.event(&event);
        match event {
            Event::Snapshot(records) => {
                tracing::info!(leases = records.len(), "the source told its whole list");
                let refused = self.world.snapshot(records);
                self.memory.refused(&self.world, &refused);
            }
            Event::Put(record) => {
                let refused = self.world.put(record);
                self.memory.refused(&self.world, &refused);
            }
            Event::Delete(key) => {
                let refused = self.world.delete(&key);
                self.memory.refused(&self.world, &refused);
            }
            Event::Own(lease) => self.own(&lease),
            Event::Lost { subnet, reason } => {
                tracing::error!(%subnet, reason, "lost our subnet; its traffic is stopped until we have another");
                self.world.fence(true);
                self.ready.push(self.readiness.wait_for("another subnet"));
            }
            Event::Conflict { key, reason } => tracing::warn!(key, reason, "conflict over our lease; taking it back"),
            // Whoever holds them has said so.
            Event::Holding(_) => {}
            Event::NetworkChanged(what) if what.is_empty() => {
                tracing::info!("the network config is again the one that we started with");
            }
            Event::NetworkChanged(what) => {
                tracing::warn!(what, "the network config has changed; we go on with the old one until the next start");
            }
            Event::Connected => tracing::debug!("connected to the source of leases"),
            Event::Disconnected(why) => {
                tracing::warn!(why, "no connection to the source of leases; what is known stays in force");
            }
        }
    }

    pub(super) fn own(&mut self, lease: &OwnLease) {
        let mut facts = self.world.facts().clone();
        let mut rules = self.world.rules().clone();
        if facts.subnet != lease.subnet || self.world.is_fenced() {
            tracing::info!(subnet = %lease.subnet, "our subnet");
            // Which local networks are our own pods' depends on it.
            self.due.surroundings = Some(Duration::ZERO);
        }
        facts.subnet = lease.subnet;
        rules.own_subnet = lease.subnet;
        rules.own_key.clone_from(&lease.key);
        self.world.fence(false);
        if facts != *self.world.facts() || rules.own_key != self.world.rules().own_key {
            self.set_facts(facts, rules);
        }
    }
}
