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
    plan::facts::FastOptions,
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
    let opened = wanted(settings, network).and_then(|why| {
        match FastPath::open(&settings.paths.bpf_dir, sizes(settings, network)) {
            Ok(fast_path) => {
                Ok(Datapath { fast_path: Some(fast_path), userspace: false, kind: "ebpf", why: why.into() })
            }
            Err(error) => {
                tracing::warn!(%error, "no fast path; the kernel's VXLAN device carries everything");
                Err(Unwanted { kind: "vxlan", why: format!("no BPF fast path: {error}"), lack: None })
            }
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

/// What the operator says, or what fits this machine and network.
fn sizes(settings: &Settings, network: &Network) -> Sizes {
    let memory = memory_kib().unwrap_or(0);
    let cpus = aya::util::nr_cpus().unwrap_or(1) as u64;
    let asked = &settings.fast_path;
    Sizes {
        flows: asked.flows.unwrap_or_else(|| room_for_flows(memory, cpus)),
        peers: asked.peers.unwrap_or_else(|| room_for_peers(network)),
        pods: asked.pods.unwrap_or_else(|| room_for_pods(memory)),
    }
}

/// One in each direction for every 256 KiB of memory, within bounds: on a machine of 16 GiB that is 65,536
/// flows and some 35 MB, a fifth of a hundredth.
fn room_for_flows(memory_kib: u64, cpus: u64) -> u32 {
    const FEWEST: u64 = 8192;
    /// Each processor keeps up to 128 entries in stock (`LOCAL_FREE_TARGET`, `kernel/bpf/bpf_lru_list.c`, 6.18), where no
    /// flow is: four times that leaves most of a small map to flows.
    const FEWEST_PER_CPU: u64 = 512;
    const MOST: u64 = 1 << 18;
    const MEMORY_PER_FLOW_KIB: u64 = 256;
    let fewest = FEWEST.max(FEWEST_PER_CPU * cpus).min(MOST);
    power_of_two((memory_kib / MEMORY_PER_FLOW_KIB).clamp(fewest, MOST))
}

/// One for each subnet that the network can be cut into, of both families: more than that cannot be leased. A tenth of a KiB each.
fn room_for_peers(network: &Network) -> u32 {
    const FEWEST: u64 = 256;
    const MOST: u64 = 1 << 16;
    let subnets = |family| {
        let range = network.range(family)?;
        1_u64.checked_shl(range.subnet_len.saturating_sub(range.network.prefix_len()).into())
    };
    let all = network.families().map(|family| subnets(family).unwrap_or(MOST)).fold(0, u64::saturating_add);
    power_of_two(all.clamp(FEWEST, MOST))
}

/// One for every 4 MiB of memory, within bounds. A tenth of a KiB each.
fn room_for_pods(memory_kib: u64) -> u32 {
    power_of_two((memory_kib / 4096).clamp(1 << 10, 1 << 14))
}

fn power_of_two(count: u64) -> u32 {
    u32::try_from(count.next_power_of_two()).unwrap_or(u32::MAX)
}

/// Of the whole machine.
fn memory_kib() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::netconf;

    #[test]
    fn there_is_room_for_every_subnet_of_the_network() {
        let room = |keys: &str| {
            let text = format!(r#"{{{keys}, "Backend": {{"Type": "vxlan"}}}}"#);
            room_for_peers(&netconf::parse(text.as_bytes()).unwrap())
        };
        assert_eq!(room(r#""Network": "10.5.0.0/24", "SubnetLen": 28"#), 256, "not fewer than that");
        assert_eq!(room(r#""Network": "10.5.0.0/16", "SubnetLen": 26"#), 1024);
        let both = r#""Network": "10.5.0.0/16", "EnableIPv6": true, "IPv6Network""#;
        assert_eq!(room(&format!(r#"{both}: "fd05::/56""#)), 512);
        assert_eq!(room(&format!(r#"{both}: "fd05::/16", "IPv6SubnetLen": 112"#)), 65_536);
    }

    #[test]
    fn flows_and_pods_get_a_share_of_the_memory() {
        const GIB: u64 = 1 << 20;
        assert_eq!([0, 16 * GIB, 1024 * GIB].map(|memory| room_for_flows(memory, 4)), [8192, 65_536, 262_144]);
        assert_eq!(room_for_flows(GIB, 64), 32_768, "processors keep some in stock");
        assert_eq!([0, 16 * GIB, 1024 * GIB].map(room_for_pods), [1024, 4096, 16_384]);
    }
}
