//! The node around the kernel tables: its uplink, its other interfaces, who is on-link.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use tracing::field;

use super::{Agent, PODS_SETTLE};
use crate::{
    kernel::Kernel,
    plan::{Facts, Rules},
    reconcile::{Host, Surroundings},
};

impl<K: Kernel<Notice: Clone>, H: Host> Agent<K, H> {
    pub(super) fn choose_uplink(&mut self) {
        match self.host.uplink() {
            Ok(uplink) => {
                self.memory.uplink_problem = None;
                if uplink != self.world.facts().uplink {
                    tracing::info!(
                        interface = uplink.name,
                        mtu = uplink.mtu,
                        v4 = uplink.v4.map(field::display),
                        v6 = uplink.v6.map(field::display),
                        public_v4 = uplink.public_v4.map(field::display),
                        public_v6 = uplink.public_v6.map(field::display),
                        "the uplink changed"
                    );
                    let facts = Facts { uplink, ..self.world.facts().clone() };
                    let rules = self.world.rules().clone();
                    self.set_facts(facts, rules);
                    self.due.surroundings = Some(Duration::ZERO);
                }
            }
            Err(problem) => {
                let problem = format!("{problem}; staying with the uplink {}", self.world.facts().uplink.name);
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
        self.world.forget_on_link();
        self.unanswered.clear();
        let everybody: BTreeSet<_> = self.world.asked_on_link().collect();
        self.ask_on_link(&Vec::from_iter(everybody));
    }

    pub(super) fn look_at_pods_soon(&mut self) {
        if self.world.facts().options.fast_path.is_some() {
            let due = self.now() + PODS_SETTLE;
            self.due.pods.get_or_insert(due);
        }
    }

    /// Which interfaces lead to pods now.
    pub(super) fn look_at_pods(&mut self) {
        self.due.pods = None;
        if self.world.facts().options.fast_path.is_none() {
            return;
        }
        match self.kernel.pods() {
            Ok(pods) => {
                for (index, pod) in &pods {
                    if let Some(why) = pod.spared
                        && self.world.facts().pods.get(index) != Some(pod)
                    {
                        tracing::info!(interface = pod.name, why, "this pod stays on the kernel path");
                    }
                }
                self.world.set_pods(pods);
            }
            Err(error) => {
                tracing::warn!(%error, "new pods stay on the kernel path until the next try");
                self.due.pods = Some(self.now() + Duration::from_secs(1));
            }
        }
    }

    /// Asks after new peers. Who could not be looked up is asked after with the next look around.
    pub(super) fn learn_on_link(&mut self) {
        let mut unknown = self.world.unknown_on_link();
        unknown.retain(|ip| !self.unanswered.contains(ip));
        self.ask_on_link(&unknown);
    }

    pub(super) fn ask_on_link(&mut self, addresses: &[IpAddr]) {
        if addresses.is_empty() && self.unanswered.is_empty() {
            self.memory.on_link_problem = None;
            return;
        }
        let (mut answers, mut first_error) = (BTreeMap::new(), None);
        for (ip, answer) in addresses.iter().zip(self.kernel.on_link(addresses)) {
            match answer {
                Ok(on_link) => drop(answers.insert(*ip, on_link)),
                Err(error) => {
                    self.unanswered.insert(*ip);
                    first_error.get_or_insert(error);
                }
            }
        }
        self.world.set_on_link(answers);
        if let Some(error) = first_error {
            let problem = error.to_string();
            if self.memory.on_link_problem.as_ref() != Some(&problem) {
                let peers = self.unanswered.len();
                tracing::warn!(problem, peers, "cannot look up routes to peers; new ones stay on the overlay");
            }
            self.memory.on_link_problem = Some(problem);
        } else if self.unanswered.is_empty() {
            self.memory.on_link_problem = None;
        }
    }
}
