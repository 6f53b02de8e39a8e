//! Uplink, MTU, sysctls and what else on this host meets the overlay's packets.

use std::fs;

use super::{Finding, port};
use crate::{
    config::{Settings, uplink::UplinkPolicy},
    daemon::{datapath, facts, uplink},
    kernel::filter::{HostFilter, Severity, Subject},
    model::{Backend, Family, LinkInfo, Network, Uplink},
};

/// `policy`: how `run` would choose the uplink.
pub(super) fn check(settings: &Settings, policy: &UplinkPolicy, network: &Network, known: bool) -> Vec<Finding> {
    let mut findings = Vec::new();
    match uplink::find(policy, network) {
        Ok((uplink, links)) => {
            findings.push(Finding::ok("uplink", describe(&uplink)));
            if known {
                findings.extend(fits(network, &uplink, &links));
            }
            findings.push(mtu(network, uplink.mtu));
            if network.v4.is_some() {
                findings.push(reverse_path(&uplink.name));
            }
        }
        Err(error) => findings.push(Finding::fail(
            "uplink",
            error.to_string(),
            "name the interface with --iface, or give it an address and a default route",
        )),
    }
    let userspace = datapath::in_userspace(settings, network);
    match &network.backend {
        Backend::Vxlan(vxlan) if userspace => findings.push(port::check_userspace(vxlan.port, network)),
        Backend::Vxlan(vxlan) => findings.push(port::check(vxlan, network)),
        Backend::Udp { port } => findings.push(port::check_userspace(*port, network)),
        Backend::HostGw | Backend::Alloc => {}
    }
    findings.extend(filter(settings, network));
    findings
}

fn describe(uplink: &Uplink) -> String {
    let both = |v4: Option<std::net::Ipv4Addr>, v6: Option<std::net::Ipv6Addr>| {
        let texts = [v4.map(|ip| ip.to_string()), v6.map(|ip| ip.to_string())];
        texts.into_iter().flatten().collect::<Vec<_>>().join(" and ")
    };
    let (own, public) = (both(uplink.v4, uplink.v6), both(uplink.public_v4, uplink.public_v6));
    let dialled = if own == public { String::new() } else { format!(", peers dial {public}") };
    format!("{}, {own}{dialled}, MTU {}", uplink.name, uplink.mtu)
}

fn fits(network: &Network, uplink: &Uplink, links: &[LinkInfo]) -> Option<Finding> {
    let error = uplink::check_network(network, uplink, links).err()?;
    Some(Finding::fail("network config", error.to_string(), "publish another network config, or name another uplink"))
}

/// `uplink`: bytes of IP packet.
fn mtu(network: &Network, uplink: u32) -> Finding {
    let vxlan = match &network.backend {
        Backend::Vxlan(vxlan) => vxlan,
        Backend::Udp { .. } => {
            let mtu = uplink.saturating_sub(Family::V4.udp_overhead());
            return Finding::ok("MTU", format!("pods may send {mtu} bytes"));
        }
        Backend::HostGw | Backend::Alloc => return Finding::ok("MTU", format!("pods may send {uplink} bytes")),
    };
    let underlay = vxlan.mtu.map_or(uplink, |mtu| mtu.min(uplink));
    let overhead = network.families().map(Family::vxlan_overhead).max().unwrap_or(0);
    let pods = underlay.saturating_sub(overhead);
    // RFC 8200 section 5 and RFC 791.
    let least = if network.v6.is_some() { 1280 } else { 68 };
    if pods < least {
        let detail = format!("{pods} bytes are left for pods, less than the {least} that IP asks for");
        return Finding::fail("MTU", detail, "raise the uplink's MTU, or the network config's Backend.MTU");
    }
    match vxlan.mtu {
        Some(wish) if wish > uplink => Finding::warn(
            "MTU",
            format!("the network config's {wish} is more than the uplink's {uplink}; pods may send {pods} bytes"),
            "raise the uplink's MTU, or lower Backend.MTU",
        ),
        _ => Finding::ok("MTU", format!("pods may send {pods} bytes")),
    }
}

/// The kernel takes the stricter of the interface's and everybody's.
fn reverse_path(uplink: &str) -> Finding {
    let value = |of: &str| {
        let text = fs::read_to_string(format!("/proc/sys/net/ipv4/conf/{of}/rp_filter")).unwrap_or_default();
        text.trim().parse::<u8>().unwrap_or(0)
    };
    match value("all").max(value(uplink)) {
        1 => Finding::warn(
            "reverse path filter",
            format!("is strict on {uplink}: tunnel packets that come in another way than they go out are dropped"),
            format!("sysctl -w net/ipv4/conf/all/rp_filter=2 net/ipv4/conf/{uplink}/rp_filter=2"),
        ),
        2 => Finding::ok("reverse path filter", format!("is loose on {uplink}")),
        _ => Finding::ok("reverse path filter", format!("is off on {uplink}")),
    }
}

fn filter(settings: &Settings, network: &Network) -> Vec<Finding> {
    let mut filter = HostFilter::open(facts::filter_choice(settings.filter.flavour));
    let policy = facts::filter_policy(settings, network).unwrap_or_default();
    let mut findings: Vec<_> = filter
        .diagnose(&policy)
        .into_iter()
        .map(|found| {
            let name = match found.subject {
                Subject::Limits => "packet filter",
                Subject::Forwarding => "forwarding",
                Subject::Bridge => "bridged packets",
                Subject::Nftables => "nftables",
                Subject::Firewalld => "firewalld",
                Subject::Iptables => "iptables",
            };
            match found.severity {
                Severity::Note => Finding::ok(name, found.text),
                Severity::Warning => Finding::warn(name, found.text, found.cure),
                // Container runtimes turn it on when the first pod comes.
                Severity::Fatal if found.subject == Subject::Forwarding => Finding::warn(name, found.text, found.cure),
                Severity::Fatal => Finding::fail(name, found.text, found.cure),
            }
        })
        .collect();
    if !findings.iter().any(|finding| finding.name == "forwarding") {
        findings.push(Finding::ok("forwarding", "is on, or not ours to care for"));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{check::Outcome, config::netconf};

    fn network(rest: &str) -> Network {
        netconf::parse(format!(r#"{{"Network":"10.5.0.0/16",{rest}}}"#).as_bytes()).unwrap()
    }

    #[test]
    fn the_mtu_is_the_smallest_of_all_paths() {
        let plain = network(r#""Backend":{"Type":"vxlan"}"#);
        let dual = network(r#""EnableIPv6":true,"IPv6Network":"fc00:5::/48","Backend":{"Type":"vxlan"}"#);
        let wish = network(r#""Backend":{"Type":"vxlan","MTU":9000}"#);
        assert_eq!(mtu(&plain, 1500), Finding::ok("MTU", "pods may send 1450 bytes"));
        assert_eq!(mtu(&dual, 1500), Finding::ok("MTU", "pods may send 1430 bytes"));
        assert_eq!(mtu(&dual, 1349).result, Outcome::Fail);
        assert_eq!(mtu(&plain, 1349).result, Outcome::Ok);
        assert_eq!(mtu(&wish, 1500).result, Outcome::Warn);
        assert_eq!(mtu(&wish, 9000).result, Outcome::Ok);
        assert_eq!(
            mtu(&network(r#""Backend":{"Type":"host-gw"}"#), 1500),
            Finding::ok("MTU", "pods may send 1500 bytes")
        );
    }
}
