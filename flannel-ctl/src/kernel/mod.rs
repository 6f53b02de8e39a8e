//! The only place that talks to the kernel.
//!
//! Everything here is blocking and belongs to one thread, the reconcile loop's: a netlink
//! socket answers in microseconds, and order is easier to see than concurrency.

#[cfg(test)]
pub mod fake;

use std::net::IpAddr;

use crate::model::{Op, State};

/// What the reconcile loop needs from a kernel, real or in memory.
pub trait Kernel {
    /// Reads everything that is ours, or that we would take over from flannel. Objects of
    /// others do not appear. `wanted` lets the packet filter answer "is exactly this in force?".
    fn observe(&mut self, wanted: &State) -> Result<State, KernelError>;

    /// Carries out the changes in order; one outcome per op. Putting replaces, deleting what
    /// is absent succeeds. A failed op does not hold up the others.
    fn apply(&mut self, ops: &[Op]) -> Vec<Result<(), KernelError>>;

    /// Which of these addresses are reached through the uplink without a gateway.
    fn on_link(&mut self, addresses: &[IpAddr]) -> Result<Vec<bool>, KernelError>;
}

/// What was tried, on what, what the kernel answered, and what usually explains it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{attempt}: {answer}{}", .hint.map(|hint| format!(" ({hint})")).unwrap_or_default())]
pub struct KernelError {
    /// "add route 10.5.48.0/24 via flannel.1"
    pub attempt: String,
    /// errno text, with the kernel's own extended message if it sent one.
    pub answer: String,
    /// What usually explains it.
    pub hint: Option<&'static str>,
    /// 0 when the failure was not an errno.
    pub errno: i32,
}
