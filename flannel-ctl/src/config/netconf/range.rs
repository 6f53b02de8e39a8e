//! One family's range and how it is cut up.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{Object, Problem, overlap};
use crate::model::{AddressRange, Family};

/// What the config says of one family. `range` is absent as well when it is refused.
pub(super) struct Parsed {
    pub enabled: bool,
    pub range: Option<AddressRange>,
}

/// The keys and numbers in which the families differ.
struct Rules {
    enable: &'static str,
    enabled_by_default: bool,
    network: &'static str,
    subnet_len: &'static str,
    min: &'static str,
    max: &'static str,
    what: &'static str,
    what_address: &'static str,
    /// Bits of an address.
    bits: u8,
    /// Preferred prefix length of a subnet.
    preferred_len: u8,
    /// Ranges that packets can never be routed to.
    unroutable: &'static [(&'static str, &'static str)],
}

const V4: Rules = Rules {
    enable: "EnableIPv4",
    enabled_by_default: true,
    network: "Network",
    subnet_len: "SubnetLen",
    min: "SubnetMin",
    max: "SubnetMax",
    what: "an IPv4 range such as \"10.244.0.0/16\"",
    what_address: "an IPv4 address",
    bits: 32,
    preferred_len: 24,
    unroutable: &[
        ("0.0.0.0/8", "\"this network\""),
        ("127.0.0.0/8", "loopback"),
        ("169.254.0.0/16", "link-local"),
        ("224.0.0.0/4", "multicast"),
        ("255.255.255.255/32", "broadcast"),
    ],
};

const V6: Rules = Rules {
    enable: "EnableIPv6",
    enabled_by_default: false,
    network: "IPv6Network",
    subnet_len: "IPv6SubnetLen",
    min: "IPv6SubnetMin",
    max: "IPv6SubnetMax",
    what: "an IPv6 range such as \"fd00:244::/48\"",
    what_address: "an IPv6 address",
    bits: 128,
    preferred_len: 64,
    unroutable: &[
        ("::/127", "unspecified and loopback"),
        ("::ffff:0:0/96", "IPv4 in disguise"),
        ("fe80::/10", "link-local"),
        ("ff00::/8", "multicast"),
    ],
};

pub(super) fn parse(object: &mut Object<'_>, family: Family) -> Parsed {
    let rules = match family {
        Family::V4 => V4,
        Family::V6 => V6,
    };
    let enabled = object.bool(rules.enable).unwrap_or(rules.enabled_by_default);
    let before = object.problems.len();
    // Read even when the family is off, so that a bad text in there is told as well.
    let network = network(object, &rules, enabled);
    let len = object.uint(rules.subnet_len, 1..=u64::from(rules.bits - 2));
    let min = address(object, &rules, rules.min);
    let max = address(object, &rules, rules.max);
    let (true, Some(network)) = (enabled, network) else { return Parsed { enabled, range: None } };

    let given = len.and_then(|len| u8::try_from(len).ok());
    let subnet_len = subnet_len(object, &rules, network, given, before);
    let range = subnet_len.and_then(|len| bounds(object, &rules, network, len, min, max));
    Parsed { enabled, range: range.filter(|_| object.problems.len() == before) }
}

fn network(object: &mut Object<'_>, rules: &Rules, enabled: bool) -> Option<IpNet> {
    let problems = object.problems.len();
    let net = match object.parsed::<IpNet>(rules.network, rules.what) {
        Some(net) if net.max_prefix_len() == rules.bits => net.trunc(),
        Some(net) => {
            object.problems.push(Problem::new(rules.network, net.to_string(), format!("must be {}", rules.what)));
            return None;
        }
        None => {
            if enabled && object.problems.len() == problems {
                let rule = format!("required while {} is true", rules.enable);
                object.problems.push(Problem::missing(rules.network, rule));
            }
            return None;
        }
    };
    if !enabled {
        return None;
    }
    for (range, name) in rules.unroutable {
        if range.parse().is_ok_and(|range: IpNet| overlap(&net, &range)) {
            let rule = format!("overlaps {range}, which is {name}");
            object.problems.push(Problem::new(rules.network, net.to_string(), rule));
        }
    }
    Some(net)
}

/// flannel takes the zero address for an absent one.
fn address(object: &mut Object<'_>, rules: &Rules, key: &str) -> Option<IpAddr> {
    let ip = object.parsed::<IpAddr>(key, rules.what_address).filter(|ip| !ip.is_unspecified())?;
    if ip.is_ipv4() == (rules.bits == 32) {
        return Some(ip);
    }
    object.problems.push(Problem::new(key, ip.to_string(), format!("must be {}", rules.what_address)));
    None
}

fn subnet_len(
    object: &mut Object<'_>,
    rules: &Rules,
    network: IpNet,
    given: Option<u8>,
    problems_before: usize,
) -> Option<u8> {
    let least = network.prefix_len() + 2;
    let refused_already = object.problems[problems_before..].iter().any(|problem| problem.key == rules.subnet_len);
    match given {
        Some(len) if len >= least => Some(len),
        Some(len) => {
            let rule = format!("must be at least {least}, so that {network} has room for four subnets");
            object.problems.push(Problem::new(rules.subnet_len, len.to_string(), rule));
            None
        }
        None if refused_already => None,
        None if least > rules.bits - 2 => {
            let rule = format!("too small: it must be /{} or wider to hold four subnets", rules.bits - 4);
            object.problems.push(Problem::new(rules.network, network.to_string(), rule));
            None
        }
        None => Some(least.max(rules.preferred_len)),
    }
}

/// First and last subnet. `subnet_len` is at least two longer than the network's prefix, hence
/// never 0, and leaves at least two host bits.
fn bounds(
    object: &mut Object<'_>,
    rules: &Rules,
    network: IpNet,
    subnet_len: u8,
    min: Option<IpAddr>,
    max: Option<IpAddr>,
) -> Option<AddressRange> {
    let at = |ip: IpAddr| IpNet::new(ip, subnet_len).ok();
    // The very first subnet is left out: its base address is the network's own.
    let first = at(after(network.network(), rules.bits - subnet_len))?;
    let last = at(network.broadcast())?.trunc();
    let min = checked(object, rules.min, rules.network, network, min.and_then(at).unwrap_or(first));
    let max = checked(object, rules.max, rules.network, network, max.and_then(at).unwrap_or(last));
    let (min, max) = (min?, max?);
    if min.addr() > max.addr() {
        object.problems.push(Problem::new(
            rules.min,
            min.addr().to_string(),
            format!("must not lie behind {}, {}", rules.max, max.addr()),
        ));
        return None;
    }
    Some(AddressRange { network, subnet_len, min, max })
}

fn checked(object: &mut Object<'_>, key: &str, network_key: &str, network: IpNet, subnet: IpNet) -> Option<IpNet> {
    let before = object.problems.len();
    if !network.contains(&subnet.addr()) {
        let rule = format!("must lie inside {network_key}, {network}");
        object.problems.push(Problem::new(key, subnet.addr().to_string(), rule));
    }
    if subnet.addr() != subnet.network() {
        let rule = format!(
            "must be the first address of a /{} subnet; next to it is {}",
            subnet.prefix_len(),
            subnet.network()
        );
        object.problems.push(Problem::new(key, subnet.addr().to_string(), rule));
    }
    (object.problems.len() == before).then_some(subnet)
}

/// The address `2^host_bits` further on. Stays inside the family because the caller's network
/// holds at least four such steps.
fn after(ip: IpAddr, host_bits: u8) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => IpAddr::V4(ip.to_bits().wrapping_add(1 << host_bits).into()),
        IpAddr::V6(ip) => IpAddr::V6(ip.to_bits().wrapping_add(1 << host_bits).into()),
    }
}
