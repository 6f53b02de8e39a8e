//! Rules that let only peers inject packets into the overlay, and no pod pass for its node.
//!
//! A tunnel packet comes in if the pair (outer source, inner source cut to the subnet length)
//! stands in our set. One hash lookup per packet, however many peers there are; behind GRO it
//! is one per super-packet, whose inner headers stand where a single packet has them.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::model::{Family, GuardPolicy};

pub const PEERS_V4: &str = "peers-v4";
pub const PEERS_V6: &str = "peers-v6";
/// The base chain, and the chain that judges.
pub const HOOK: &str = "guard";
pub const JUDGE: &str = "tunnel";

/// Why a packet was refused; each is a named counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refused {
    /// Nobody leased that inner source to that outer source.
    NotAPeer(Family),
    /// One of our pods made it itself, for a node: masqueraded it would come from this node.
    FromAPod(Family),
    /// What is inside is not IP, or of the other family, or cut short.
    NotIp(Family),
}

impl Refused {
    pub const ALL: [Self; 6] = [
        Self::NotAPeer(Family::V4),
        Self::NotAPeer(Family::V6),
        Self::FromAPod(Family::V4),
        Self::FromAPod(Family::V6),
        Self::NotIp(Family::V4),
        Self::NotIp(Family::V6),
    ];

    /// The counter's name in our table.
    pub const fn counter(self) -> &'static str {
        match self {
            Self::NotAPeer(Family::V4) => "refused-not-a-peer-v4",
            Self::NotAPeer(Family::V6) => "refused-not-a-peer-v6",
            Self::FromAPod(Family::V4) => "refused-from-a-pod-v4",
            Self::FromAPod(Family::V6) => "refused-from-a-pod-v6",
            Self::NotIp(Family::V4) => "refused-not-ip-v4",
            Self::NotIp(Family::V6) => "refused-not-ip-v6",
        }
    }
}

/// One element of a set: inner sources under `inner` may come from `outer`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Entry {
    pub outer: IpAddr,
    /// Base address of the peer's range.
    pub inner: IpAddr,
}

impl Entry {
    /// `None` when the families differ: flannel keeps them apart.
    pub fn new(outer: IpAddr, inner: IpNet) -> Option<Self> {
        let inner = inner.network();
        (outer.is_ipv4() == inner.is_ipv4()).then_some(Self { outer, inner })
    }

    pub fn family(&self) -> Family {
        Family::of(&self.outer)
    }

    /// As nft writes it: the inner source is a number there, since it is read by offset.
    pub fn text(&self) -> String {
        match self.inner {
            IpAddr::V4(inner) => format!("{} . {:#x}", self.outer, u32::from(inner)),
            IpAddr::V6(inner) => format!("{} . {:#x}", self.outer, u128::from(inner)),
        }
    }
}

/// The set of that family.
pub const fn set(family: Family) -> &'static str {
    match family {
        Family::V4 => PEERS_V4,
        Family::V6 => PEERS_V6,
    }
}

/// Where things are, in bits from the outer UDP header: 8 bytes UDP, 8 VXLAN, 14 Ethernet
/// (RFC 7348 section 5), then the inner source at byte 12 (IPv4) or 8 (IPv6).
const VNI: &str = "@th,96,24";
/// On flannel's udp wire the inner packet comes right behind the UDP header: version, source.
const RAW_VERSION: &str = "@th,64,4";
const RAW_SOURCE: &str = "@th,160,32";
const ETHERTYPE: &str = "@th,224,16";
const fn inner_source(family: Family) -> &'static str {
    match family {
        Family::V4 => "@th,336,32",
        Family::V6 => "@th,304,128",
    }
}

/// What that set's elements are: outer source, inner source.
pub fn elements(family: Family) -> String {
    let outer = match family {
        Family::V4 => "ip saddr",
        Family::V6 => "ip6 saddr",
    };
    format!("{outer} . {}", inner_source(family))
}

/// Rules of the base chain.
pub fn hook_rules(guard: &GuardPolicy) -> Vec<String> {
    let mut rules = Vec::new();
    for (family, length) in [("ipv4", guard.v4_len), ("ipv6", guard.v6_len)] {
        if length.is_some() {
            rules.push(format!("meta nfproto {family} udp dport {} goto {JUDGE}", guard.port));
        }
    }
    if !guard.judges_peers() {
        // The engine's own packets are spared the way there.
        rules.extend(guard.pods.iter().map(|pods| format!("{} udp dport {} goto {JUDGE}", leaves(pods), guard.port)));
    }
    rules
}

/// From a pod to anything but a pod.
fn leaves(pods: &IpNet) -> String {
    let ip = if pods.addr().is_ipv4() { "ip" } else { "ip6" };
    format!("{ip} saddr {pods} {ip} daddr != {pods}")
}

/// What makes it a packet of our tunnel: the identifier, or where there is none, an inner source that a peer would take.
/// What is too short for either matches nothing.
fn ours(vni: Option<u32>, pods: &IpNet) -> String {
    match (vni, pods) {
        (Some(vni), _) => format!("{VNI} {vni}"),
        (None, IpNet::V4(pods)) => {
            let (mask, network) = (u32::from(pods.netmask()), u32::from(pods.network()));
            format!("{RAW_VERSION} 4 {RAW_SOURCE} & {mask:#010x} {network:#010x}")
        }
        // That wire has IPv4 alone.
        (None, IpNet::V6(_)) => format!("{RAW_VERSION} 6"),
    }
}

/// Rules of the judging chain. A load beyond the packet's end makes a rule not match, so what
/// is cut short falls through to the refusals.
pub fn judge_rules(guard: &GuardPolicy) -> Vec<String> {
    let verdict = if guard.count_only { "accept" } else { "drop" };
    let mut rules = Vec::new();
    if let (Some(vni), true) = (guard.vni, guard.judges_peers()) {
        rules.push(format!("{VNI} != {vni} accept"));
    }
    if let Some(length) = guard.v4_len {
        let mask = u32::MAX.checked_shl(32 - u32::from(length.min(32))).unwrap_or(0);
        rules.push(format!(
            "{ETHERTYPE} 0x0800 ip saddr . ({} & {mask:#010x}) @{PEERS_V4} accept",
            inner_source(Family::V4)
        ));
    }
    if let Some(length) = guard.v6_len {
        let mask = u128::MAX.checked_shl(128 - u32::from(length.min(128))).unwrap_or(0);
        rules.push(format!(
            "{ETHERTYPE} 0x86dd ip6 saddr . ({} & {mask:#034x}) @{PEERS_V6} accept",
            inner_source(Family::V6)
        ));
    }
    // From pod to pod it is their own tunnel. What a pod sends to a node's is none of ours, whoever routes it there.
    for network in &guard.pods {
        let refused = Refused::FromAPod(Family::of_net(network)).counter();
        let ours = ours(guard.vni, network);
        rules.push(format!("{} {ours} counter name {refused} {verdict}", leaves(network)));
    }
    if !guard.judges_peers() {
        return rules;
    }
    // Behind the lookup: peers' packets are spared the route lookup. What is not for this host
    // is somebody else's tunnel passing through.
    rules.push("fib daddr type != local accept".to_owned());
    for (family, protocol, ethertype) in [(Family::V4, "ipv4", "0x0800"), (Family::V6, "ipv6", "0x86dd")] {
        let (stranger, other) = (Refused::NotAPeer(family).counter(), Refused::NotIp(family).counter());
        rules.push(format!("meta nfproto {protocol} {ETHERTYPE} {ethertype} counter name {stranger} {verdict}"));
        rules.push(format!("meta nfproto {protocol} counter name {other} {verdict}"));
    }
    rules
}
