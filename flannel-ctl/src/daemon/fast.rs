//! Which datapath this node gets: BPF where the kernel takes it, its VXLAN device where not, the engine in user space
//! where it has not even that.

use std::fs;

use crate::{
    config::{Settings, settings::DatapathChoice},
    kernel::{
        KernelError,
        fastpath::{FastPath, FastPathError, Sizes, probe},
        links::Links,
    },
    model::{Backend, Network},
    plan::desire::FastOptions,
};

/// The outcome, and what it rests on.
pub(super) struct Datapath {
    pub(super) fast_path: Option<FastPath>,
    /// A vxlan network's packets are carried by the engine.
    pub(super) userspace: bool,
    pub(super) kind: &'static str,
    pub(super) why: String,
}

/// Loads the BPF programs if they are wanted and can be had. What an earlier run left of them goes if not.
pub(super) fn choose(settings: &Settings, network: &Network) -> Datapath {
    let opened =
        wanted(settings, network).and_then(|why| match FastPath::open(&settings.paths.bpf_dir, sizes(settings)) {
            Ok(fast_path) => {
                Ok(Datapath { fast_path: Some(fast_path), userspace: false, kind: "ebpf", why: why.into() })
            }
            Err(error) => {
                tracing::warn!(%error, "no fast path; the kernel's VXLAN device carries everything");
                Err(Unwanted { kind: "vxlan", why: format!("no BPF fast path: {error}"), lack: None })
            }
        });
    opened.unwrap_or_else(|Unwanted { kind, why, lack }| {
        if let Some(error) = lack {
            tracing::warn!(%error, "no VXLAN device; packets are carried in user space");
        }
        match FastPath::retire(&settings.paths.bpf_dir) {
            Ok(removed) if removed.is_empty() => {}
            Ok(removed) => tracing::info!(?removed, "the fast path of an earlier run is gone"),
            Err(error) => tracing::error!(%error, "cannot remove the fast path of an earlier run"),
        }
        Datapath { fast_path: None, userspace: kind == USERSPACE, kind, why }
    })
}

/// What [`choose`] would change, without changing it.
pub(super) enum Outlook {
    /// Programs would be attached where none are.
    Attach,
    /// So many pins of an earlier run would be removed, because of this.
    Retire(usize, String),
    /// Programs are attached, and new ones would take their places; or there is and shall be no fast path, because of this.
    Nothing(Option<String>),
}

pub(super) fn outlook(settings: &Settings, network: &Network) -> Result<Outlook, FastPathError> {
    let pins = FastPath::pins(&settings.paths.bpf_dir)?;
    let wanted = wanted(settings, network).map_err(|unwanted| (unwanted.why, false));
    let possible = wanted.and_then(|_| probe().map_err(|error| (format!("no BPF fast path: {error}"), true)));
    Ok(match possible {
        Ok(()) if pins == 0 => Outlook::Attach,
        Ok(()) => Outlook::Nothing(None),
        Err((why, _)) if pins > 0 => Outlook::Retire(pins, why),
        Err((why, worth_telling)) => Outlook::Nothing(Some(why).filter(|_| worth_telling)),
    })
}

const USERSPACE: &str = "userspace";

/// Another datapath, and why.
struct Unwanted {
    kind: &'static str,
    why: String,
    /// What the kernel said when it was to make a VXLAN device.
    lack: Option<KernelError>,
}

/// Whether BPF is to be tried, and why.
fn wanted(settings: &Settings, network: &Network) -> Result<&'static str, Unwanted> {
    let unwanted = |kind, why: &str| Err(Unwanted { kind, why: why.into(), lack: None });
    if settings.datapath == DatapathChoice::Auto
        && matches!(network.backend, Backend::Vxlan(_))
        && let Err(error) = has_vxlan()
    {
        let why = format!("auto: the kernel has no VXLAN device: {error}");
        return Err(Unwanted { kind: USERSPACE, why, lack: Some(error) });
    }
    match (&network.backend, settings.datapath) {
        (Backend::Vxlan(_), DatapathChoice::Ebpf) => Ok("asked for by --datapath ebpf"),
        (Backend::Vxlan(_), DatapathChoice::Auto) => {
            Ok("auto: the kernel takes the BPF programs, which are faster than its VXLAN device alone")
        }
        (Backend::Vxlan(_), DatapathChoice::Vxlan) => unwanted("vxlan", "asked for by --datapath vxlan"),
        (Backend::Vxlan(_), DatapathChoice::Userspace) => unwanted(USERSPACE, "asked for by --datapath userspace"),
        (Backend::HostGw, _) => unwanted("host-gw", "the network config's backend"),
        (Backend::Udp { .. }, _) => unwanted(USERSPACE, "the network config's backend udp"),
        (Backend::Alloc, _) => unwanted("none", "the network config's backend"),
    }
}

/// Whether this kernel has VXLAN devices at all.
pub(super) fn has_vxlan() -> Result<(), KernelError> {
    Links::open()?.has_vxlan()
}

/// What [`choose`] would choose, as far as the userspace datapath is concerned.
pub(super) fn in_userspace(settings: &Settings, network: &Network) -> bool {
    matches!(wanted(settings, network), Err(Unwanted { kind: USERSPACE, .. }))
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
    /// Each processor keeps up to 128 entries in stock (`LOCAL_FREE_TARGET`, `kernel/bpf/bpf_lru_list.c`, 6.18), where no
    /// flow is: four times that leaves most of a small map to flows.
    const FEWEST_PER_CPU: u64 = 512;
    const MOST: u64 = 1 << 18;
    const MEMORY_PER_FLOW_KIB: u64 = 256;
    let flows = settings.fast_path.flows.unwrap_or_else(|| {
        let flows = memory_kib().unwrap_or(0) / MEMORY_PER_FLOW_KIB;
        let cpus = aya::util::nr_cpus().unwrap_or(1) as u64;
        let fewest = FEWEST.max(FEWEST_PER_CPU * cpus).min(MOST);
        u32::try_from(flows.clamp(fewest, MOST).next_power_of_two()).unwrap_or(u32::MAX)
    });
    Sizes { flows, peers: 65_536, pods: 4096 }
}

/// Of the whole machine.
fn memory_kib() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.split_whitespace().next()?.parse().ok()
}
