//! Asks the kernel what the choice of the uplink needs to know, and chooses; at start and whenever
//! something changed.

use super::StartError;
use crate::{
    config::{
        ConfigErrors, netconf,
        uplink::{Reach, RouteHints, UplinkPolicy, choose as choose_from},
    },
    kernel::links::Links,
    model::{Family, LinkInfo, Network, Uplink},
};

/// One that can carry this network.
pub(super) fn choose(policy: &UplinkPolicy, network: &Network) -> Result<Uplink, StartError> {
    let (uplink, links) = find(policy, network)?;
    check_network(network, &uplink, &links)?;
    Ok(uplink)
}

/// The one that the policy names, and all interfaces.
pub(crate) fn find(policy: &UplinkPolicy, network: &Network) -> Result<(Uplink, Vec<LinkInfo>), StartError> {
    let mut kernel = Links::open()?;
    let families: Vec<Family> = network.families().collect();
    let reach = match policy.can_reach {
        Some(target) => kernel.reach(target)?,
        None => None,
    };
    let mut default = |family: Family| {
        let decides = policy.names_none() && families.contains(&family);
        Ok::<_, StartError>(if decides { kernel.default_links(family)?.first().copied() } else { None })
    };
    let routes = RouteHints {
        default_v4: default(Family::V4)?,
        default_v6: default(Family::V6)?,
        reach: reach.and_then(|reach| Some(Reach { index: reach.link, source: reach.source? })),
    };
    let links = kernel.list()?;
    let mut uplink = choose_from(&links, policy, &families, routes)?;
    uplink.filtered = kernel.is_filtered_by_others(uplink.index)?;
    Ok((uplink, links))
}

/// This uplink can carry this network. `links`: all interfaces.
pub(crate) fn check_network(network: &Network, uplink: &Uplink, links: &[LinkInfo]) -> Result<(), StartError> {
    for family in network.families() {
        let missing = match family {
            Family::V4 => uplink.v4.is_none() || uplink.public_v4.is_none(),
            Family::V6 => uplink.v6.is_none() || uplink.public_v6.is_none(),
        };
        if missing {
            return Err(StartError::NoAddress { family, interface: uplink.name.clone() });
        }
    }
    let on_uplink: Vec<_> = links
        .iter()
        .filter(|link| link.index == uplink.index)
        .flat_map(|link| link.addresses.iter().map(|address| address.net().trunc()))
        .collect();
    let problems = netconf::overlaps(network, &on_uplink);
    if problems.is_empty() {
        Ok(())
    } else {
        Err(StartError::Network { interface: uplink.name.clone(), problems: ConfigErrors(problems) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::netconf,
        kernel::netlink::namespace::{ip, isolated},
    };

    #[test]
    fn an_uplink_inside_of_the_overlay_is_refused_by_name() {
        isolated(|| {
            for (name, address) in [("good", "192.0.2.1/24"), ("bad", "10.244.9.1/24")] {
                ip(&format!("link add {name} type veth peer name {name}far"));
                ip(&format!("link set {name} up"));
                ip(&format!("addr add {address} dev {name}"));
            }
            let network = netconf::parse(br#"{"Network":"10.244.0.0/16","Backend":{"Type":"vxlan"}}"#).unwrap();
            let policy = UplinkPolicy::default();
            ip("route add default via 192.0.2.254");
            assert_eq!(choose(&policy, &network).unwrap().name, "good");
            ip("route replace default via 10.244.9.254");
            let error = choose(&policy, &network).unwrap_err();
            assert!(error.is_config(), "what would be refused at start");
            let text = error.to_string();
            assert!(text.contains("10.244.9.0/24") && text.contains("uplink bad"), "{text}");
            ip("route replace default via 192.0.2.254");
            ip("addr add 10.244.7.1/32 dev good");
            assert!(choose(&policy, &network).is_err(), "the same uplink, grown into the overlay");
        });
    }
}
