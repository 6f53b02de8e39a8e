//! Who on this host would stop the overlay's packets; for the `check` verb.

use std::fs;

use super::{
    Flavour, HostFilter,
    object::{CHAIN_HOOK, CHAIN_NAME, CHAIN_POLICY, field, message, table_of},
    refused,
    socket::request,
};
use crate::{
    filter::{iptables::forward_needs_accept, nft::TABLE},
    kernel::netlink::wire::{attributes, text},
    model::{Family, FilterPolicy},
};

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Good to know; we deal with it.
    Note,
    /// Some traffic may not work.
    Warning,
    /// Packets between pods will not pass.
    Fatal,
}

/// One thing about this host, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub subject: Subject,
    pub severity: Severity,
    pub text: String,
    /// A command, or empty if there is nothing to do.
    pub cure: String,
}

/// What a [`Finding`] is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// What this host's tools and kernel cannot do.
    Limits,
    /// The kernel forwards packets at all.
    Forwarding,
    /// Bridged packets meet the packet filter.
    Bridge,
    /// Other tables at the forward hook.
    Nftables,
    Firewalld,
    Iptables,
}

/// `NF_INET_FORWARD` and `NF_DROP`.
const FORWARD: u32 = 2;
const DROP: u32 = 0;
const HOOK_NUMBER: u16 = 1;

impl HostFilter {
    /// Looks at everything that commonly kills forwarded packets; changes nothing.
    pub fn diagnose(&mut self, policy: &FilterPolicy) -> Vec<Finding> {
        let mut findings = Vec::new();
        for limit in self.limits(policy) {
            findings.push(finding(Subject::Limits, Severity::Warning, limit, "install the nftables package"));
        }
        forwarding(policy, &mut findings);
        self.dropping_tables(&mut findings);
        self.dropping_iptables(policy, &mut findings);
        findings
    }

    /// Base chains at the forward hook; those that drop by policy are fatal: an accept elsewhere does not help.
    fn dropping_tables(&mut self, findings: &mut Vec<Finding>) {
        let Some(socket) = &mut self.socket else { return };
        let chains = socket.dump(request(message::GETCHAIN, 0, 0), |payload, found| {
            let number = |kind| field(payload, kind).and_then(|value| Some(u32::from_be_bytes(value.try_into().ok()?)));
            let hook = field(payload, CHAIN_HOOK)
                .and_then(|hook| attributes(hook, 0).find(|(kind, _)| *kind == HOOK_NUMBER))
                .and_then(|(_, value)| Some(u32::from_be_bytes(value.try_into().ok()?)));
            if hook == Some(FORWARD) {
                let chain = text(field(payload, CHAIN_NAME).unwrap_or_default());
                found.push((table_of(payload), chain, number(CHAIN_POLICY) == Some(DROP)));
            }
        });
        let chains = match chains {
            Ok(chains) => chains,
            Err(refusal) => {
                let error = refused("list nftables chains", &refusal);
                findings.push(finding(Subject::Nftables, Severity::Warning, error.to_string(), ""));
                return;
            }
        };
        let chains_of_firewalld = chains.iter().any(|(table, _, _)| table == "firewalld");
        for (table, chain, _) in chains.into_iter().filter(|(_, _, drops)| *drops) {
            // iptables-nft's own; looked at with its tool.
            if table == TABLE || (table == "filter" && chain == "FORWARD") {
                continue;
            }
            let cure = if table == "firewalld" {
                "firewall-cmd --permanent --zone=trusted --add-source=POD-NETWORK && firewall-cmd --reload".to_owned()
            } else {
                format!("add accepts for the pod network to table {table}, chain {chain}")
            };
            findings.push(finding(
                Subject::Nftables, Severity::Fatal,
                format!("nftables table {table}, chain {chain} drops forwarded packets by policy, and no rule of ours can override that"),
                &cure,
            ));
        }
        if chains_of_firewalld {
            findings.push(finding(
                Subject::Firewalld,
                Severity::Warning,
                "firewalld is active: it rejects what its zones do not name".to_owned(),
                "firewall-cmd --permanent --zone=trusted --add-interface=flannel.1 && firewall-cmd --reload",
            ));
        }
    }

    fn dropping_iptables(&mut self, policy: &FilterPolicy, findings: &mut Vec<Finding>) {
        let mut variants = Vec::new();
        for tool in self.tools.all.clone() {
            match self.tools.read(&tool, "filter", self.socket.as_mut()) {
                Ok(filter) => {
                    if !filter.rules.is_empty() && tool.family == Family::V4 {
                        variants.push(tool.variant);
                    }
                    let works = self.flavour != Flavour::None
                        && policy.forward.iter().any(|net| Family::of_net(net) == tool.family);
                    if forward_needs_accept(&filter) {
                        let name = tool.variant.name();
                        findings.push(if works {
                            let text = format!("{name}'s FORWARD chain drops {} packets or belongs to Docker: accepted there in chain FLANNEL-FWD", tool.family);
                            finding(Subject::Iptables, Severity::Note, text, "")
                        } else {
                            let text = format!("{name}'s FORWARD chain drops {} packets, and forwarding rules are off", tool.family);
                            finding(Subject::Iptables, Severity::Fatal, text, "run with --iptables-forward-rules")
                        });
                    }
                }
                Err(error) => findings.push(finding(Subject::Iptables, Severity::Warning, error.to_string(), "")),
            }
        }
        if variants.len() > 1 {
            findings.push(finding(
                Subject::Iptables,
                Severity::Warning,
                "both iptables-nft and iptables-legacy hold rules; each drops what the other accepts".to_owned(),
                "update-alternatives --config iptables, then move the rules of one to the other",
            ));
        }
    }
}

fn forwarding(policy: &FilterPolicy, findings: &mut Vec<Finding>) {
    let wants = |family| {
        let nets = policy.forward.iter().chain(policy.masquerade.iter().map(|masquerade| &masquerade.network));
        nets.into_iter().any(|net| Family::of_net(net) == family)
    };
    for (family, file, key) in [
        (Family::V4, "/proc/sys/net/ipv4/ip_forward", "net.ipv4.ip_forward"),
        (Family::V6, "/proc/sys/net/ipv6/conf/all/forwarding", "net.ipv6.conf.all.forwarding"),
    ] {
        let on = fs::read_to_string(file).is_ok_and(|value| value.trim() != "0");
        if wants(family) && !on {
            let text = format!("{family} forwarding is off: pods reach nobody beyond this node");
            findings.push(finding(Subject::Forwarding, Severity::Fatal, text, &format!("sysctl -w {key}=1")));
        }
    }
    if !fs::exists("/proc/sys/net/bridge/bridge-nf-call-iptables").unwrap_or(false) {
        findings.push(finding(
            Subject::Bridge,
            Severity::Warning,
            "br_netfilter is not loaded: kube-proxy's rules miss packets between pods of one bridge".to_owned(),
            "modprobe br_netfilter",
        ));
    }
}

fn finding(subject: Subject, severity: Severity, text: String, cure: &str) -> Finding {
    Finding { subject, severity, text, cure: cure.to_owned() }
}
