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
    config::{Settings, netconf, settings::DatapathChoice},
    daemon::preview,
    kernel::fastpath,
    model::{Backend, Network},
};

pub use finding::{Finding, Outcome, is_fit};

/// What is looked at while the network config is unknown.
const ASSUMED: &[u8] = br#"{"Network":"10.244.0.0/16","Backend":{"Type":"vxlan"}}"#;

/// Everything that decides whether `run` would work here, the datapath last.
pub fn check(settings: &Settings) -> Vec<Finding> {
    let mut findings = kernel::host();
    findings.extend(files::check(&settings.paths));
    let (found, network) = source::check(settings);
    findings.extend(found);
    let known = network.is_some();
    if !known {
        let detail = "without the network config, what follows assumes one IPv4 network and VXLAN's defaults";
        findings.push(Finding::warn("assumption", detail, ""));
    }
    let network = network.unwrap_or_else(|| netconf::parse(ASSUMED).expect("a valid network config"));
    findings.extend(kernel::proofs(settings, &network));
    findings.extend(network::check(settings, &network, known));
    findings.push(datapath(settings, &network));
    findings
}

/// Which datapath `run` would use, and why not another.
fn datapath(settings: &Settings, network: &Network) -> Finding {
    let detail = match &network.backend {
        Backend::Vxlan(_) => vxlan_datapath(settings.datapath),
        Backend::HostGw => "host-gw, plain routes: the network config's backend".into(),
        Backend::Alloc => "none, leases only: the network config's backend".into(),
        Backend::Udp { .. } => "userspace, on the wire of flannel's udp backend: the network config's backend".into(),
    };
    Finding::ok("datapath", detail)
}

fn vxlan_datapath(choice: DatapathChoice) -> String {
    match choice {
        DatapathChoice::Vxlan => return "vxlan, asked for by --datapath vxlan".into(),
        DatapathChoice::Userspace => return "userspace, asked for by --datapath userspace".into(),
        DatapathChoice::Ebpf => {}
        DatapathChoice::Auto => {
            if let Err(error) = preview::has_vxlan() {
                return format!("userspace; the kernel has no VXLAN device: {error}");
            }
        }
    }
    match fastpath::probe() {
        Ok(()) => "ebpf, beside the kernel's VXLAN device: the kernel takes the BPF programs".into(),
        Err(error) => format!("vxlan; not ebpf: {error}"),
    }
}
