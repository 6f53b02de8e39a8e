//! PURE: from leases to wanted kernel state, and from wanted and observed state to changes.
//!
//! [`inspect`] believes or refuses one lease, [`roster`] keeps the set of those believed,
//! [`desire`] says what they want from the kernel, [`diff()`] compares and orders.

pub mod announce;
pub mod desire;
pub mod diff;
pub mod explain;
pub mod facts;
pub mod inspect;
pub mod roster;
mod userspace;

#[cfg(test)]
pub(crate) mod fixtures;

pub use diff::{diff, diff_keys};
pub use facts::Facts;
pub use inspect::{Refusal, Rules};
pub use roster::{Changes, Roster};
