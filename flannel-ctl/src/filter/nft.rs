//! The policy as an nftables script: one table of ours, changed in one transaction.

use std::{collections::BTreeMap, fmt::Write as _};

use ipnet::IpNet;

use super::{
    Fingerprint,
    guard::{self, Entry, Refused},
};
use crate::model::{Family, FilterPolicy, Masquerade};

pub const FAMILY: &str = "inet";
pub const TABLE: &str = "flannel-ctl";
pub const POSTROUTING: &str = "postrouting";
pub const FORWARD: &str = "forward";
/// An empty chain whose comment says which policy was loaded and what the kernel made of it.
pub const SEAL: &str = "seal";

/// kube-proxy marks what it will masquerade itself.
const KUBE_MARK: &str = "0x4000";

/// A policy's rules as a script, and what the kernel must hold afterwards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    pub script: String,
    /// Chain name to number of rules; no other chain, save the seal.
    pub chains: BTreeMap<&'static str, usize>,
}

impl Rules {
    /// The same for the same policy rendered by the same version.
    pub fn fingerprint(&self) -> u64 {
        let mut fingerprint = Fingerprint::new();
        fingerprint.add(self.script.as_bytes());
        fingerprint.value()
    }
}

/// Table, and with `guard` its sets and counters. Changes nothing that is there.
pub fn foundation(guard: bool) -> String {
    let mut text = format!("add table {FAMILY} {TABLE}\n");
    if guard {
        for family in Family::ALL {
            let (set, elements) = (guard::set(family), guard::elements(family));
            writeln!(text, "add set {FAMILY} {TABLE} {set} {{ typeof {elements}; }}").expect("a String takes it");
        }
        for reason in Refused::ALL {
            writeln!(text, "add counter {FAMILY} {TABLE} {}", reason.counter()).expect("a String takes it");
        }
    }
    text
}

/// Puts the rules in the place of those before. Sets, and what is in them, stay. The
/// foundation must be in place or stand before it in the same script.
pub fn rules(policy: &FilterPolicy) -> Rules {
    let mut out = Rules { script: String::new(), chains: BTreeMap::new() };
    let masquerade = policy.masquerade.iter().flat_map(masquerade_rules).collect::<Vec<_>>();
    out.chain(POSTROUTING, "type nat hook postrouting priority srcnat; policy accept;", &kube_first(masquerade));
    let forward = policy.forward.iter().flat_map(forward_rules).collect::<Vec<_>>();
    out.chain(FORWARD, "type filter hook forward priority filter; policy accept;", &forward);
    let (hook, judge) =
        policy.guard.as_ref().map(|guard| (guard::hook_rules(guard), guard::judge_rules(guard))).unwrap_or_default();
    // Judge before hook when adding, since the hook names it; the other way when removing.
    if policy.guard.is_some() {
        out.chain(guard::JUDGE, "", &judge);
    }
    out.chain(guard::HOOK, "type filter hook prerouting priority raw; policy accept;", &hook);
    if policy.guard.is_none() {
        out.chain(guard::JUDGE, "", &[]);
    }
    out
}

/// From nothing, whatever stands there now, still in one transaction: for a table that was
/// tampered with beyond what [`rules`] replaces. `entries` are the sets' content to keep.
pub fn rebuild(rules: &Rules, guard: bool, entries: &[Entry]) -> String {
    let mut text = format!("add table {FAMILY} {TABLE}\ndelete table {FAMILY} {TABLE}\n");
    text += &foundation(guard);
    if guard {
        for entry in entries {
            let set = guard::set(entry.family());
            writeln!(text, "add element {FAMILY} {TABLE} {set} {{ {} }}", entry.text()).expect("a String takes it");
        }
    }
    text + &rules.script
}

impl Rules {
    fn chain(&mut self, name: &'static str, hook: &str, rules: &[String]) {
        let mut text = String::new();
        // A base chain costs every packet a little, a nat one switches on connection tracking:
        // without rules it goes. Adding it first makes the deletion succeed always.
        let block = if hook.is_empty() { String::new() } else { format!(" {{ {hook} }}") };
        write!(text, "add chain {FAMILY} {TABLE} {name}{block}\nflush chain {FAMILY} {TABLE} {name}\n")
            .expect("a String takes it");
        if rules.is_empty() {
            writeln!(text, "delete chain {FAMILY} {TABLE} {name}").expect("a String takes it");
        } else {
            self.chains.insert(name, rules.len());
        }
        for rule in rules {
            writeln!(text, "add rule {FAMILY} {TABLE} {name} {rule}").expect("a String takes it");
        }
        self.script += &text;
    }
}

/// flannel's order. `return` in a base chain is the policy: accept, unchanged.
fn masquerade_rules(masquerade: &Masquerade) -> Vec<String> {
    let Masquerade { network, subnet, exclude, fully_random } = masquerade;
    let (ip, multicast) = match network {
        IpNet::V4(_) => ("ip", "224.0.0.0/4"),
        IpNet::V6(_) => ("ip6", "ff00::/8"),
    };
    let target = if *fully_random { "masquerade fully-random" } else { "masquerade" };
    let mut rules = vec![
        format!("{ip} saddr {subnet} {ip} daddr {network} return"),
        format!("{ip} saddr {network} {ip} daddr {subnet} return"),
        format!("{ip} saddr != {network} {ip} daddr {subnet} return"),
    ];
    rules.extend(exclude.iter().map(|net| format!("{ip} saddr {network} {ip} daddr {} return", net.trunc())));
    rules.push(format!("{ip} saddr {network} {ip} daddr != {multicast} {target}"));
    rules.push(format!("{ip} saddr != {network} {ip} daddr {network} {target}"));
    rules
}

fn kube_first(mut masquerade: Vec<String>) -> Vec<String> {
    if !masquerade.is_empty() {
        masquerade.insert(0, format!("meta mark & {KUBE_MARK} == {KUBE_MARK} return"));
    }
    masquerade
}

fn forward_rules(network: &IpNet) -> [String; 2] {
    let ip = match network {
        IpNet::V4(_) => "ip",
        IpNet::V6(_) => "ip6",
    };
    [format!("{ip} saddr {network} accept"), format!("{ip} daddr {network} accept")]
}

#[cfg(test)]
#[path = "nft_tests.rs"]
mod tests;
