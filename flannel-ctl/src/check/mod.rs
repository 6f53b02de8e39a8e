//! Can this node do it: findings, each with its cure.
//!
//! Looks and tries, but only in a network namespace that is thrown away; the node itself stays
//! as it is.

mod files;
mod finding;
mod kernel;
mod network;
mod port;
mod source;

use crate::{
    config::{Settings, netconf},
    daemon::{datapath, facts},
};

pub use finding::{Finding, Outcome, is_fit};

/// What is looked at while the network config is unknown.
const ASSUMED: &[u8] = br#"{"Network":"10.244.0.0/16","Backend":{"Type":"vxlan"}}"#;

/// Everything that decides whether `run` would work here, the datapath last.
pub fn check(settings: &Settings) -> Vec<Finding> {
    let mut findings = kernel::host();
    findings.extend(files::check(&settings.paths));
    let source::Answer { findings: found, network, words } = source::check(settings);
    findings.extend(found);
    let known = network.is_some();
    if !known {
        let detail = "without the network config, what follows assumes one IPv4 network and VXLAN's defaults";
        findings.push(Finding::warn("assumption", detail, ""));
    }
    let network = network.unwrap_or_else(|| netconf::parse(ASSUMED).expect("a valid network config"));
    findings.extend(kernel::proofs(settings, &network));
    findings.extend(network::check(settings, &facts::told_policy(&settings.uplink, &words), &network, known));
    let (datapath, why) = datapath::foresee(settings, &network);
    findings.push(Finding::ok("datapath", format!("{datapath} ({why})")));
    findings
}
