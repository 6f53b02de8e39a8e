//! Which link-layer addresses our VXLAN devices have.
//!
//! Peers send to the address that our lease publishes, so it must not change by itself: not at
//! a restart, not when the device is lost. The first run decides (the device that flannel left
//! keeps its address, one that is lost gets the address that its node's lease still tells, where the
//! source has that; a new one gets an address made from the node id) and it is remembered in the state
//! directory.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use crate::{
    kernel::{KernelError, links::Links},
    model::{Family, Mac},
    plan::Facts,
    state::{FileError, NodeId, atomic, vtep_mac},
};

/// The address of the device of this VNI and family. `remember`: write down a first choice.
pub(super) fn choose(
    state_dir: &Path,
    node: NodeId,
    vni: u32,
    family: Family,
    published: Option<Mac>,
    remember: bool,
) -> Result<Mac, Error> {
    let path = path(state_dir, vni, family);
    if let Some(mac) = remembered(&path)? {
        return Ok(mac);
    }
    let existing = Links::open()?.vxlan(&Facts::device_name(vni, family))?;
    let existing = existing.and_then(|link| link.mac).filter(|mac| mac.is_unicast());
    let mac = existing.or(published).unwrap_or_else(|| vtep_mac::vtep_mac(node, vni, family));
    if remember {
        atomic::replace(&path, format!("{mac}\n").as_bytes(), 0o644)?;
    }
    Ok(mac)
}

/// The IPv6 device that is there takes tunnel packets without UDP checksum. One that is still to be made will say so
/// later.
pub(super) fn takes_zero_checksum(vni: u32) -> Result<bool, Error> {
    let device = Links::open()?.vxlan(&Facts::device_name(vni, Family::V6))?;
    Ok(device.and_then(|link| link.vxlan).is_some_and(|vxlan| vxlan.zero_checksum))
}

/// What stands there, if it can be used.
pub(super) fn remembered(path: &Path) -> Result<Option<Mac>, FileError> {
    match fs::read_to_string(path) {
        Ok(text) => match text.trim().parse::<Mac>() {
            Ok(mac) if mac.is_unicast() => Ok(Some(mac)),
            Ok(_) | Err(_) => {
                tracing::warn!(path = %path.display(), "not an Ethernet address of one interface; choosing anew");
                Ok(None)
            }
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(FileError::of("read", path)(error)),
    }
}

/// Where it is remembered.
pub(super) fn path(state_dir: &Path, vni: u32, family: Family) -> PathBuf {
    state_dir.join(match family {
        Family::V4 => format!("vtep-mac.{vni}"),
        Family::V6 => format!("vtep-mac-v6.{vni}"),
    })
}

#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    Kernel(#[from] KernelError),
}

impl From<Error> for super::StartError {
    fn from(error: Error) -> Self {
        match error {
            Error::File(error) => Self::File(error),
            Error::Kernel(error) => Self::Kernel(error),
        }
    }
}
