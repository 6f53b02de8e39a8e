//! How programs get onto interfaces: TCX links from Linux 6.6 on, clsact filters before.

use std::collections::BTreeMap;

use aya::programs::{SchedClassifier, TcAttachType};

use super::{FastPathError, Hook, Indexes, attach, clsact, directory::Directory, object::Programs};
use crate::{kernel::KernelError, model::Place};

/// What this kernel has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hooks {
    Links,
    Filters,
}

impl Hooks {
    /// Asks for the links of the loopback interface: older kernels do not know the question.
    pub(super) fn of_this_kernel() -> Self {
        match SchedClassifier::query_tcx("lo", TcAttachType::Ingress) {
            Ok(_) => Self::Links,
            Err(error) => {
                tracing::debug!(%error, "no TCX links; clsact filters take their place");
                Self::Filters
            }
        }
    }

    /// What is attached where, by the kernel's program numbers.
    pub(super) fn places(
        self,
        directory: &Directory,
        indexes: Indexes,
    ) -> Result<BTreeMap<Place, Vec<(Hook, u32)>>, KernelError> {
        match self {
            Self::Links => attach::places(directory, indexes),
            Self::Filters => {
                let mut places: BTreeMap<Place, Vec<(Hook, u32)>> = BTreeMap::new();
                let filters = clsact::filters().map_err(|error| error.into_kernel("list the BPF filters".into()))?;
                for (hook, interface, program) in filters {
                    if let Some(place) = attach::place(hook, interface, indexes) {
                        places.entry(place).or_default().extend(program.map(|program| (hook, program)));
                    }
                }
                Ok(places)
            }
        }
    }

    /// Puts our programs on an interface, in place of older ones of ours.
    pub(super) fn attach(
        self,
        directory: &Directory,
        programs: &mut Programs,
        place: Place,
        index: u32,
    ) -> Result<(), FastPathError> {
        match self {
            Self::Links => attach::attach(directory, programs, place, index),
            Self::Filters => clsact::attach(programs, place, index),
        }
    }

    /// Takes our programs off an interface, gone or not.
    pub(super) fn detach(self, directory: &Directory, place: Place, indexes: Indexes) -> Result<(), FastPathError> {
        match self {
            Self::Links => attach::detach(directory, place, indexes),
            Self::Filters => clsact::detach(indexes.of(place)),
        }
    }
}
