//! Which datapath this node gets: BPF where the kernel takes it, its VXLAN device where not, the engine in user space
//! where it has not even that.

use super::fast;
use crate::{
    config::{Settings, settings::DatapathChoice},
    kernel::{
        KernelError,
        fastpath::{FastPath, FastPathError, probe},
        links::Links,
    },
    model::{Backend, Network},
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
        FastPath::open(&settings.paths.bpf_dir, fast::sizes(settings, network))
            .map(|fast_path| Datapath { fast_path: Some(fast_path), userspace: false, kind: BPF, why: why.into() })
            .map_err(Unwanted::without_bpf)
    });
    opened.unwrap_or_else(|Unwanted { kind, why, lack }| {
        match lack {
            Some(Lack::Bpf(error)) => {
                tracing::warn!(%error, "no fast path; the kernel's VXLAN device carries everything");
            }
            Some(Lack::Vxlan(error)) => tracing::warn!(%error, "no VXLAN device; packets are carried in user space"),
            None => {}
        }
        match FastPath::retire(&settings.paths.bpf_dir) {
            Ok(removed) if removed.is_empty() => {}
            Ok(removed) => tracing::info!(?removed, "the fast path of an earlier run is gone"),
            Err(error) => tracing::error!(%error, "cannot remove the fast path of an earlier run"),
        }
        Datapath { fast_path: None, userspace: kind == USERSPACE, kind, why }
    })
}

/// What [`choose`] would choose, and why. Programs are tried, and not kept.
pub(crate) fn foresee(settings: &Settings, network: &Network) -> (&'static str, String) {
    match possible(settings, network) {
        Ok(why) => (BPF, why.into()),
        Err(unwanted) => (unwanted.kind, unwanted.why),
    }
}

/// What [`choose`] would choose, as far as the userspace datapath is concerned.
pub(crate) fn in_userspace(settings: &Settings, network: &Network) -> bool {
    matches!(wanted(settings, network), Err(Unwanted { kind: USERSPACE, .. }))
}

/// What [`choose`] would change of the fast path, without changing it.
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
    Ok(match possible(settings, network) {
        Ok(_) if pins == 0 => Outlook::Attach,
        Ok(_) => Outlook::Nothing(None),
        Err(unwanted) if pins > 0 => Outlook::Retire(pins, unwanted.why),
        Err(Unwanted { why, lack, .. }) => Outlook::Nothing(matches!(lack, Some(Lack::Bpf(_))).then_some(why)),
    })
}

const BPF: &str = "ebpf";
const VXLAN: &str = "vxlan";
const USERSPACE: &str = "userspace";

/// Another datapath than BPF, and why.
struct Unwanted {
    kind: &'static str,
    why: String,
    /// What the kernel would not have, if it was asked.
    lack: Option<Lack>,
}

enum Lack {
    Vxlan(KernelError),
    Bpf(FastPathError),
}

impl Unwanted {
    fn without_bpf(error: FastPathError) -> Self {
        Self { kind: VXLAN, why: format!("no BPF fast path: {error}"), lack: Some(Lack::Bpf(error)) }
    }
}

/// Whether BPF is to be tried, and why.
fn wanted(settings: &Settings, network: &Network) -> Result<&'static str, Unwanted> {
    let unwanted = |kind, why: &str| Err(Unwanted { kind, why: why.into(), lack: None });
    if settings.datapath == DatapathChoice::Auto
        && matches!(network.backend, Backend::Vxlan(_))
        && let Err(error) = Links::open().and_then(|mut links| links.has_vxlan())
    {
        let why = format!("auto: the kernel has no VXLAN device: {error}");
        return Err(Unwanted { kind: USERSPACE, why, lack: Some(Lack::Vxlan(error)) });
    }
    match (&network.backend, settings.datapath) {
        (Backend::Vxlan(_), DatapathChoice::Ebpf) => Ok("asked for by --datapath ebpf"),
        (Backend::Vxlan(_), DatapathChoice::Auto) => {
            Ok("auto: the kernel takes the BPF programs, which are faster than its VXLAN device alone")
        }
        (Backend::Vxlan(_), DatapathChoice::Vxlan) => unwanted(VXLAN, "asked for by --datapath vxlan"),
        (Backend::Vxlan(_), DatapathChoice::Userspace) => unwanted(USERSPACE, "asked for by --datapath userspace"),
        (Backend::HostGw, _) => unwanted("host-gw", "the network config's backend"),
        (Backend::Udp { .. }, _) => unwanted(USERSPACE, "the network config's backend udp"),
        (Backend::Alloc, _) => unwanted("none", "the network config's backend alloc"),
    }
}

/// [`wanted`], and the kernel's verifier takes the programs.
fn possible(settings: &Settings, network: &Network) -> Result<&'static str, Unwanted> {
    let why = wanted(settings, network)?;
    probe().map_err(Unwanted::without_bpf)?;
    Ok(why)
}
