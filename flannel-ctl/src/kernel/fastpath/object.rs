//! The BPF object that is part of the binary.

use std::{
    collections::BTreeMap,
    fs,
    os::fd::{AsFd as _, BorrowedFd},
};

use aya::{
    EbpfLoader,
    maps::Map,
    programs::{ProgramError, SchedClassifier, TcAttachType},
    util::KernelVersion,
};
use flannel_common::{TRACE_FILTER, TRACE_MAP, TraceFilter};

use super::{
    FastPathError,
    directory::Directory,
    maps::{self, Maps, Sizes},
    table::Raw,
};
use crate::model::Place;

/// Whether this binary was built with the BPF programs (`FLANNEL_BPF`, see `build.rs`).
pub const EMBEDDED: bool = cfg!(bpf_object);

/// The object file; empty if not [`EMBEDDED`].
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/flannel-ebpf"));

/// A program and where it belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hook {
    PodIngress,
    PodEgress,
    UplinkIngress,
    UplinkEgress,
    VtepIngress,
}

impl Hook {
    pub const ALL: [Self; 5] =
        [Self::PodIngress, Self::PodEgress, Self::UplinkIngress, Self::UplinkEgress, Self::VtepIngress];

    /// What is attached to an interface, the learners first: the fast path has nothing to do without them.
    pub const fn at(place: Place) -> &'static [Self] {
        match place {
            Place::Uplink(_) => &[Self::UplinkEgress, Self::UplinkIngress],
            Place::Vtep(_) => &[Self::VtepIngress],
            Place::Pod(_) => &[Self::PodEgress, Self::PodIngress],
        }
    }

    /// The program's name in the object.
    pub const fn program(self) -> &'static str {
        match self {
            Self::PodIngress => "pod_ingress",
            Self::PodEgress => "pod_egress",
            Self::UplinkIngress => "uplink_ingress",
            Self::UplinkEgress => "uplink_egress",
            Self::VtepIngress => "vtep_ingress",
        }
    }

    /// Whether others' programs on the hook have to run before it. What leaves by the uplink passes all of them anyway, and
    /// what comes out of the VXLAN device is only remembered.
    pub(super) const fn has_to_be_last(self) -> bool {
        matches!(self, Self::PodIngress | Self::PodEgress | Self::UplinkIngress)
    }

    /// The one whose program has that name.
    pub(super) fn named(program: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|hook| hook.program() == program)
    }

    /// What went wrong with its program.
    pub(super) fn failed(self, cause: ProgramError) -> FastPathError {
        FastPathError::Program { program: self.program(), cause: Box::new(cause) }
    }

    pub const fn direction(self) -> TcAttachType {
        match self {
            Self::PodIngress | Self::UplinkIngress | Self::VtepIngress => TcAttachType::Ingress,
            Self::PodEgress | Self::UplinkEgress => TcAttachType::Egress,
        }
    }
}

/// The programs, verified and in the kernel.
pub(super) struct Programs {
    bpf: aya::Ebpf,
    ids: BTreeMap<Hook, u32>,
}

impl Programs {
    pub(super) fn get(&mut self, hook: Hook) -> Result<&mut SchedClassifier, FastPathError> {
        let missing = FastPathError::Missing(hook.program());
        let Some(program) = self.bpf.program_mut(hook.program()) else { return Err(missing) };
        program.try_into().map_err(|_| missing)
    }

    /// The same to look at.
    pub(super) fn look(&self, hook: Hook) -> Result<&SchedClassifier, FastPathError> {
        let missing = FastPathError::Missing(hook.program());
        let Some(program) = self.bpf.program(hook.program()) else { return Err(missing) };
        program.try_into().map_err(|_| missing)
    }

    pub(super) fn fd(&self, hook: Hook) -> Result<BorrowedFd<'_>, FastPathError> {
        let fd = self.look(hook)?.fd();
        Ok(fd.map_err(|cause| hook.failed(cause))?.as_fd())
    }

    /// Pins the maps that somebody has unpinned.
    pub(super) fn pin_maps(&self, directory: &Directory) -> Result<(), FastPathError> {
        for name in maps::names() {
            let path = directory.map(name);
            if !path.exists() {
                let map = self.bpf.map(name).ok_or(FastPathError::Missing(name))?;
                map.pin(&path).map_err(|cause| FastPathError::Pin { path, cause: Box::new(cause) })?;
            }
        }
        Ok(())
    }

    /// A map that is not pinned.
    pub(super) fn take_map(&mut self, name: &'static str) -> Result<Map, FastPathError> {
        self.bpf.take_map(name).ok_or(FastPathError::Missing(name))
    }

    /// The kernel's number of it.
    pub(super) fn id(&self, hook: Hook) -> Option<u32> {
        self.ids.get(&hook).copied()
    }
}

/// A build without the programs has an empty file in their place.
pub(super) fn embedded(object: &[u8]) -> Result<&[u8], FastPathError> {
    if object.is_empty() { Err(FastPathError::NotEmbedded) } else { Ok(object) }
}

/// The programs can be had from this binary, whatever the kernel says of them.
pub(super) fn is_embedded() -> Result<(), FastPathError> {
    embedded(OBJECT).map(drop)
}

/// Would the kernel take the programs? Leaves nothing behind.
pub fn probe() -> Result<(), FastPathError> {
    load_unpinned(Sizes { flows: 1024, peers: 16, pods: 16 })?;
    can_encapsulate()
}

/// The programs on maps that go away with them.
pub(super) fn load_unpinned(sizes: Sizes) -> Result<Programs, FastPathError> {
    let mut loader = EbpfLoader::new();
    for map in maps::pinned(sizes) {
        loader.map_max_entries(map.name, map.entries);
    }
    verified(loader.load(embedded(OBJECT)?).map_err(|error| FastPathError::Load(Box::new(error)))?)
}

/// Creates the maps that are not pinned yet, and hands the programs to the verifier.
pub(super) fn load(directory: &Directory, sizes: Sizes) -> Result<(Programs, Maps), FastPathError> {
    let mut loader = EbpfLoader::new();
    for map in maps::pinned(sizes) {
        let path = directory.map(map.name);
        maps::unpin_unlike(&map, &path)?;
        loader.map_pin_path(map.name, path).map_max_entries(map.name, map.entries);
    }
    let bpf = loader.load(embedded(OBJECT)?).map_err(|error| FastPathError::Load(Box::new(error)))?;
    let programs = verified(bpf)?;
    can_encapsulate()?;
    directory.forget_other_layouts()?;
    Ok((programs, Maps::open(directory)?))
}

/// Older kernels take the programs, and refuse `BPF_F_ADJ_ROOM_ENCAP_L2_ETH` with every packet.
fn can_encapsulate() -> Result<(), FastPathError> {
    match KernelVersion::current() {
        Ok(version) if version < KernelVersion::new(5, 13, 0) => {
            let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
            Err(FastPathError::TooOld(release.trim().into()))
        }
        _ => Ok(()),
    }
}

/// Programs that tell of packets, on the maps that are there.
pub(super) fn load_tracing(directory: &Directory, filter: TraceFilter) -> Result<Programs, FastPathError> {
    /// Room for some thousands of records that nobody has read yet.
    const RING: u32 = 1 << 20;
    let filter = Raw(filter);
    let mut loader = EbpfLoader::new();
    loader.map_max_entries(TRACE_MAP, RING).override_global(TRACE_FILTER, &filter, true);
    // They are there: the sizes given here do not matter.
    for name in maps::names() {
        loader.map_pin_path(name, directory.map(name));
    }
    verified(loader.load(embedded(OBJECT)?).map_err(|error| FastPathError::Load(Box::new(error)))?)
}

fn verified(bpf: aya::Ebpf) -> Result<Programs, FastPathError> {
    let mut programs = Programs { bpf, ids: BTreeMap::new() };
    for hook in Hook::ALL {
        let program = programs.get(hook)?;
        hand_over(program).map_err(|cause| hook.failed(cause))?;
        let id = program.info().map_err(|cause| hook.failed(cause))?.id();
        programs.ids.insert(hook, id);
    }
    Ok(programs)
}

/// Has the verifier look at a program. A signal that comes meanwhile makes it give up with EAGAIN (`do_check`,
/// kernel/bpf/verifier.c, 6.18), which says nothing about the program: libbpf tries again as well.
fn hand_over(program: &mut SchedClassifier) -> Result<(), ProgramError> {
    const ATTEMPTS: u32 = 5;
    for _ in 1..ATTEMPTS {
        match program.load() {
            Err(ProgramError::LoadError { io_error, .. }) if io_error.kind() == std::io::ErrorKind::WouldBlock => {}
            outcome => return outcome,
        }
    }
    program.load()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_without_the_programs_names_the_cure() {
        let error = embedded(&[]).unwrap_err().to_string();
        assert!(error.contains("built without the BPF programs") && error.contains("FLANNEL_BPF=require"), "{error}");
        assert_eq!(embedded(OBJECT).is_ok(), EMBEDDED);
    }
}
