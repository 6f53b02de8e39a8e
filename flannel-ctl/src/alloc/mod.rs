//! PURE: which subnet to take.
//!
//! [`choose()`] reads the list of leases once and says which of them is ours, which of ours no
//! longer fits the network, and what to create when there is none.

mod choose;
mod free;
mod owner;

pub use choose::{Claim, Decision, Exhausted, Take, choose};
pub(crate) use owner::parse;
pub use owner::{Owner, owner};

use crate::model::{AddressRange, Family, Network, Subnet};

/// The subnet has exactly the network's families, each with the configured length and between
/// the first and the last subnet that may be leased.
pub fn fits(subnet: &Subnet, network: &Network) -> bool {
    Family::ALL.into_iter().all(|family| match (subnet.net(family), network.range(family)) {
        (None, None) => true,
        (Some(net), Some(range)) => {
            net.prefix_len() == range.subnet_len && range.min.addr() <= net.addr() && net.addr() <= range.max.addr()
        }
        (Some(_), None) | (None, Some(_)) => false,
    })
}

/// How many subnets the range can lease in all.
pub fn capacity(range: &AddressRange) -> u128 {
    let (first, last) = free::bounds(range);
    last.saturating_sub(first).saturating_add(1)
}
