//! Which datapath this node gets: BPF where the kernel takes it, its VXLAN device where not.

use std::fs;

use crate::{
    config::{Settings, settings::DatapathChoice},
    kernel::fastpath::{FastPath, Sizes},
    model::{Backend, Network},
    plan::desire::FastOptions,
};

/// The outcome, and what it rests on.
pub(super) struct Datapath {
    pub(super) fast_path: Option<FastPath>,
    pub(super) kind: &'static str,
    pub(super) why: String,
}

/// Loads the BPF programs if they are wanted and can be had. What an earlier run left of them goes if not.
pub(super) fn choose(settings: &Settings, network: &Network) -> Datapath {
    let plain = |kind, why: String| {
        match FastPath::remove(&settings.paths.bpf_dir) {
            Ok(removed) if removed.is_empty() => {}
            Ok(removed) => tracing::info!(?removed, "the fast path of an earlier run is gone"),
            Err(error) => tracing::error!(%error, "cannot remove the fast path of an earlier run"),
        }
        Datapath { fast_path: None, kind, why }
    };
    match (&network.backend, settings.datapath) {
        (Backend::Vxlan(_), DatapathChoice::Auto | DatapathChoice::Ebpf) => {}
        (Backend::Vxlan(_), DatapathChoice::Vxlan | DatapathChoice::Userspace) => {
            return plain("vxlan", "asked for by --datapath vxlan".into());
        }
        (Backend::HostGw, _) => return plain("host-gw", "the network config's backend".into()),
        (Backend::Udp { .. } | Backend::Alloc, _) => return plain("none", "the network config's backend".into()),
    }
    match FastPath::open(&settings.paths.bpf_dir, sizes(settings)) {
        Ok(fast_path) => {
            let why = match settings.datapath {
                DatapathChoice::Ebpf => "asked for by --datapath ebpf",
                DatapathChoice::Auto | DatapathChoice::Vxlan | DatapathChoice::Userspace => {
                    "auto: the kernel takes the BPF programs, which are faster than its VXLAN device alone"
                }
            };
            Datapath { fast_path: Some(fast_path), kind: "ebpf", why: why.into() }
        }
        Err(error) => {
            tracing::warn!(%error, "no fast path; the kernel's VXLAN device carries everything");
            plain("vxlan", format!("no BPF fast path: {error}"))
        }
    }
}

pub(super) fn options(settings: &Settings) -> FastOptions {
    FastOptions {
        enabled: settings.fast_path.enabled,
        validity: settings.fast_path.validity,
        pod_rate: settings.fast_path.pod_rate,
    }
}

/// Room for one flow in each direction for every 256 KiB of memory, within bounds: on a machine of 16 GiB that is 65,536
/// flows and some 35 MB, a fifth of a hundredth.
fn sizes(settings: &Settings) -> Sizes {
    const FEWEST: u64 = 8192;
    const MOST: u64 = 1 << 18;
    const MEMORY_PER_FLOW_KIB: u64 = 256;
    let flows = settings.fast_path.flows.unwrap_or_else(|| {
        let flows = memory_kib().unwrap_or(0) / MEMORY_PER_FLOW_KIB;
        u32::try_from(flows.clamp(FEWEST, MOST).next_power_of_two()).unwrap_or(u32::MAX)
    });
    Sizes { flows, peers: 65_536, pods: 4096 }
}

/// Of the whole machine.
fn memory_kib() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.split_whitespace().next()?.parse().ok()
}
