//! The node around the kernel tables: its uplink, its other interfaces, who is on-link.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use super::Agent;
use crate::{
    kernel::Kernel,
    plan::{Facts, Rules},
    reconcile::{Host, Surroundings},
};

impl<K: Kernel, H: Host> Agent<K, H> {
    pub(super) fn choose_uplink(&mut self) {
        match self.host.uplink() {
            Ok(uplink) => {
                self.memory.uplink_problem = None;
                if uplink != self.world.facts().uplink {
                    tracing::info!(interface = uplink.name, mtu = uplink.mtu, v4 = ?uplink.v4, v6 = ?uplink.v6,
                        public_v4 = ?uplink.public_v4, public_v6 = ?uplink.public_v6, "the uplink changed");
                    let facts = Facts { uplink, ..self.world.facts().clone() };
                    let rules = self.world.rules().clone();
                    self.set_facts(facts, rules);
                    self.due.surroundings = Some(Duration::ZERO);
                }
            }
            Err(problem) => {
                if self.memory.uplink_problem.as_ref() != Some(&problem) {
                    tracing::warn!(problem, "no usable uplink; staying with the last one");
                }
                self.memory.uplink_problem = Some(problem);
            }
        }
    }

    pub(super) fn set_facts(&mut self, facts: Facts, rules: Rules) {
        self.kernel.set_facts(&facts);
        let refused = self.world.set_facts(facts, rules);
        self.memory.refused(&self.world, &refused);
        self.unpublished = true;
        self.observe_after(Duration::ZERO, "this node changed");
    }

    pub(super) fn look_around(&mut self) {
        match self.host.surroundings(self.world.facts()) {
            Ok(Surroundings { local_addresses, local_nets }) => {
                let rules = Rules { local_addresses, local_nets, ..self.world.rules().clone() };
                if rules.local_addresses != self.world.rules().local_addresses
                    || rules.local_nets != self.world.rules().local_nets
                {
                    let facts = self.world.facts().clone();
                    let refused = self.world.set_facts(facts, rules);
                    self.memory.refused(&self.world, &refused);
                }
            }
            Err(problem) => tracing::warn!(problem, "cannot list this node's interfaces"),
        }
        let everybody: Vec<_> = self.world.facts().on_link.keys().copied().collect();
        self.ask_on_link(&everybody);
    }

    pub(super) fn learn_on_link(&mut self) {
        let unknown = self.world.unknown_on_link();
        self.ask_on_link(&unknown);
    }

    pub(super) fn ask_on_link(&mut self, addresses: &[IpAddr]) {
        if addresses.is_empty() {
            return;
        }
        match self.kernel.on_link(addresses) {
            Ok(answers) => {
                let answers: BTreeMap<_, _> = addresses.iter().copied().zip(answers).collect();
                self.world.set_on_link(answers);
            }
            Err(error) => tracing::warn!(%error, "cannot look up routes to peers; they stay on the overlay"),
        }
    }
}
