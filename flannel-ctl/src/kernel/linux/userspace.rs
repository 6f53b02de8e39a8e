//! The userspace datapath's share of the state.

use nix::errno::Errno;

use super::{LinuxKernel, classify, explain::refused};
use crate::{
    kernel::{KernelError, netlink::refusal::Refusal},
    model::{Family, Key, Op, State},
};

impl LinuxKernel {
    /// Ends what was carried in user space before, which has port and name of what comes.
    pub(super) fn end_leaving(&mut self) {
        if let Some(leaving) = self.leaving.take() {
            leaving.stop_all();
        }
    }

    pub(super) fn apply_to_userspace(&mut self, ops: &[Op]) -> Vec<Result<(), KernelError>> {
        let devices = self.devices();
        if let Some(userspace) = &mut self.userspace {
            return userspace.apply(ops, |family| classify::index(devices, family));
        }
        let refusal = Refusal::new(Errno::EOPNOTSUPP, "this node has no userspace datapath");
        ops.iter().map(|op| Err(refused(op, &refusal))).collect()
    }

    pub(super) fn observe_userspace(&self, state: &mut State) {
        if let Some(userspace) = &self.userspace {
            userspace.observe(|family| self.device_index(family), state);
        }
    }

    /// Nobody but us has the table; engines may end by themselves.
    pub(super) fn engines_are_still(&self, known: &State) -> bool {
        let Some(userspace) = &self.userspace else { return true };
        let mut found = State::new();
        userspace.observe_engines(|family| self.device_index(family), &mut found);
        Family::ALL.into_iter().map(Key::Engine).all(|key| known.get(&key) == found.get(&key))
    }
}
