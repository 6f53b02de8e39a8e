//! Asks the kernel what the choice of the uplink needs to know, and chooses.

use super::StartError;
use crate::{
    config::uplink::{Reach, RouteHints, UplinkPolicy, choose as choose_from},
    kernel::links::Links,
    model::{Family, Network, Uplink},
};

pub(super) fn choose(policy: &UplinkPolicy, network: &Network) -> Result<Uplink, StartError> {
    let mut kernel = Links::open()?;
    let families: Vec<Family> = network.families().collect();
    let reach = match policy.can_reach {
        Some(target) => kernel.reach(target)?,
        None => None,
    };
    let routes = RouteHints {
        default_v4: kernel.default_links(Family::V4)?.first().copied(),
        default_v6: kernel.default_links(Family::V6)?.first().copied(),
        reach: reach.and_then(|reach| Some(Reach { index: reach.link, source: reach.source? })),
    };
    Ok(choose_from(&kernel.list()?, policy, &families, routes)?)
}
