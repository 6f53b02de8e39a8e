//! The fast path between two passes: attachments that go without a word, and doubts that come too often.

use std::time::Duration;

use super::Agent;
use crate::{kernel::Kernel, reconcile::Host};

/// The kernel tells nobody that a program was detached.
const ATTACHMENTS: Duration = Duration::from_secs(1);

impl<K: Kernel<Notice: Clone>, H: Host> Agent<K, H> {
    /// Looks at what is attached and has flows doubted, where either is due. Whether a pass has to mend something.
    pub(super) fn look_after_fast_path(&mut self) -> bool {
        if self.world.facts().options.fast_path.is_none() {
            return false;
        }
        let now = self.now();
        let mut differs = false;
        if self.due.attachments.is_none_or(|at| at <= now) {
            self.due.attachments = Some(now + ATTACHMENTS);
            self.kernel.renew_fast_path();
            differs = self.look_at_attachments();
        }
        self.due.doubts = self.kernel.settle_doubts().map(|wait| now + wait);
        differs
    }

    fn look_at_attachments(&mut self) -> bool {
        match self.kernel.fast_path() {
            None => false,
            Some(Ok(found)) => {
                let changed = self.world.noticed_silent(found);
                changed.iter().for_each(|key| self.memory.disturbed(*key));
                !changed.is_empty()
            }
            // A full look finds the same, and says so.
            Some(Err(_)) => {
                self.observe_after(Duration::ZERO, "the fast path cannot be looked at");
                true
            }
        }
    }
}
