//! Programs on interfaces, each attachment a pinned TCX link.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use aya::programs::{
    LinkOrder, ProgramError,
    links::{FdLink, PinnedLink},
    tc::{SchedClassifierLink, TcAttachOptions},
};
use nix::net::if_::if_indextoname;

use super::{
    FastPathError, Hook, Indexes,
    directory::{Directory, forget},
    link_info::{self, LinkInfo},
    object::Programs,
};
use crate::{
    kernel::KernelError,
    model::{Family, Place},
};

/// What is attached where, by the kernel's program numbers.
pub(super) fn places(
    directory: &Directory,
    indexes: Indexes,
) -> Result<BTreeMap<Place, Vec<(Hook, u32)>>, KernelError> {
    let mut places: BTreeMap<Place, Vec<(Hook, u32)>> = BTreeMap::new();
    for (path, hook, index) in pins(directory).map_err(|error| error.into_kernel("list the BPF links".into()))? {
        let Some(place) = place(hook, index, indexes) else {
            // Of a VXLAN device that is no more. Its link went with it.
            forget(&path).map_err(|error| error.into_kernel("forget a BPF link".into()))?;
            continue;
        };
        let attached = places.entry(place).or_default();
        // One that cannot be read, or that has somebody behind it, counts as missing, and is made anew.
        if let Some(program) = program_of(hook, &path) {
            attached.push((hook, program));
        }
    }
    Ok(places)
}

/// Puts our programs on an interface, in place of older ones of ours.
pub(super) fn attach(
    directory: &Directory,
    programs: &mut Programs,
    place: Place,
    index: u32,
) -> Result<(), FastPathError> {
    let name = if_indextoname(index)
        .map_err(|errno| FastPathError::NoInterface { index, cause: errno.into() })?
        .to_string_lossy()
        .into_owned();
    for hook in Hook::at(place) {
        let path = pin(directory, *hook, index);
        if renewed(programs, *hook, &path)? {
            continue;
        }
        forget(&path)?;
        let failed =
            |cause| FastPathError::Attach { program: hook.program(), interface: name.clone(), cause: Box::new(cause) };
        let program = programs.get(*hook)?;
        // Behind whoever is there: what they decide is decided.
        let options = TcAttachOptions::TcxOrder(LinkOrder::last());
        let id = program.attach_with_options(&name, hook.direction(), options).map_err(failed)?;
        let link = program.take_link(id).map_err(failed)?;
        let link: FdLink =
            link.try_into().map_err(|cause| FastPathError::Link { path: path.clone(), cause: Box::new(cause) })?;
        link.pin(&path).map_err(|cause| FastPathError::Pin { path, cause: Box::new(cause) })?;
    }
    Ok(())
}

/// Takes our programs off an interface, gone or not.
pub(super) fn detach(directory: &Directory, place: Place, indexes: Indexes) -> Result<(), FastPathError> {
    for (path, hook, index) in pins(directory)? {
        if self::place(hook, index, indexes) == Some(place) {
            forget(&path)?;
        }
    }
    Ok(())
}

/// Lets a link that is still attached run our program. `false`: there is no such link.
fn renewed(programs: &mut Programs, hook: Hook, path: &Path) -> Result<bool, FastPathError> {
    match program_of(hook, path) {
        None => return Ok(false),
        program if program == programs.id(hook) => return Ok(true),
        Some(_) => {}
    }
    let Ok(pinned) = PinnedLink::from_pin(path) else { return Ok(false) };
    let link = FdLink::from(pinned);
    let Ok(link) = SchedClassifierLink::try_from(link) else { return Ok(false) };
    let program = programs.get(hook)?;
    match program.attach_to_link(link) {
        Ok(id) => {
            // Its pin keeps it.
            drop(program.take_link(id));
            Ok(true)
        }
        // Its interface is gone, or somebody detached it.
        Err(ProgramError::SyscallError(_)) => Ok(false),
        Err(cause) => Err(FastPathError::Attach {
            program: hook.program(),
            interface: path.display().to_string(),
            cause: Box::new(cause),
        }),
    }
}

/// The program that the pinned link runs. A link outlives its interface, and a forced detachment, as an empty shell
/// without an interface: that is as good as none. So is one in front of somebody else's program: what that one would drop,
/// or count, the fast path would take before its eyes, or learn although it is dropped.
fn program_of(hook: Hook, path: &Path) -> Option<u32> {
    let works = |info: &LinkInfo| info.interface != 0 && (!hook.has_to_be_last() || info.is_last());
    link_info::of(path).filter(works).map(|info| info.program)
}

fn pin(directory: &Directory, hook: Hook, index: u32) -> PathBuf {
    directory.links().join(format!("{}-{index}", hook.program()))
}

pub(super) fn pins(directory: &Directory) -> Result<Vec<(PathBuf, Hook, u32)>, FastPathError> {
    let links = directory.links();
    let failed = |cause| FastPathError::Directory { what: "list", path: links.clone(), cause };
    let mut found = Vec::new();
    let entries = match fs::read_dir(&links) {
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(found),
        listed => listed.map_err(failed)?,
    };
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let Some((program, index)) = name.rsplit_once('-') else { continue };
        if let (Some(hook), Ok(index)) = (Hook::named(program), index.parse()) {
            found.push((path, hook, index));
        }
    }
    found.sort_unstable_by_key(|(_, hook, index)| (*index, *hook));
    Ok(found)
}

pub(super) fn place(hook: Hook, index: u32, indexes: Indexes) -> Option<Place> {
    match hook {
        Hook::UplinkIngress | Hook::UplinkEgress => Some(Place::Uplink(index)),
        Hook::PodIngress | Hook::PodEgress => Some(Place::Pod(index)),
        Hook::VtepIngress if index == indexes.v4 => Some(Place::Vtep(Family::V4)),
        Hook::VtepIngress if index == indexes.v6 => Some(Place::Vtep(Family::V6)),
        Hook::VtepIngress => None,
    }
}
