//! Telling containers and peers that they may count on this node.

use std::time::Duration;

use super::Agent;
use crate::{
    kernel::Kernel,
    model::Key,
    reconcile::{Host, vital},
};

impl<K: Kernel<Notice: Clone>, H: Host> Agent<K, H> {
    /// Tells the outside (the lease, subnet.env) what changed, once our own part is in place.
    pub(super) fn publish(&mut self) {
        let now = self.now();
        self.due.grace = None;
        if !self.unpublished && self.ready.is_empty() {
            return;
        }
        if self.world.is_fenced() || self.memory.observe_problem.is_some() {
            return;
        }
        let in_place = |key: &Key| self.world.wanted().get(key) == self.world.observed().get(key);
        match vital::judge(self.world.facts(), in_place, &self.retries, now, self.grace) {
            vital::Readiness::Ready => {}
            vital::Readiness::WithoutV6 => {
                if self.unpublished {
                    tracing::warn!("IPv6 of this node does not work; not waiting for it any longer");
                }
            }
            vital::Readiness::Wait(until) => {
                self.due.grace = until;
                return;
            }
        }
        if self.unpublished && self.due.publish.is_none_or(|at| at <= now) {
            self.due.publish = None;
            match self.host.publish(self.world.facts()) {
                Ok(()) => {
                    self.unpublished = false;
                    self.memory.publish_problem = None;
                }
                Err(problem) => {
                    if self.memory.publish_problem.as_ref() != Some(&problem) {
                        tracing::error!(problem, "cannot publish; trying again every second");
                    }
                    self.memory.publish_problem = Some(problem);
                    self.due.publish = Some(now + Duration::from_secs(1));
                }
            }
        }
        if !self.unpublished && self.world.is_complete() {
            self.ready.clear();
        }
    }
}
