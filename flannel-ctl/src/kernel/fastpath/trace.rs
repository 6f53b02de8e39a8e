//! Telling of chosen packets, for as long as somebody wants to hear.
//!
//! Programs that tell are loaded beside the daemon's, on the same maps, and put into their places at every attachment; then
//! the daemon's are put back. Each of these changes is atomic, so no packet is missed or treated otherwise.

use std::{
    fs::File,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use aya::maps::RingBuf;
use flannel_common::{TRACE_MAP, TraceFilter, TraceRecord};
use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
    net::if_::if_indextoname,
};

use super::{
    FastPathError, Hook, attach, clsact,
    directory::Directory,
    link_info,
    object::{self, Programs},
    table::failed,
};

/// Tracing goes on until this is dropped.
pub struct Tracing {
    ring: RingBuf<aya::maps::MapData>,
    /// Attachments, and what they ran before.
    former: Vec<(Seat, OwnedFd)>,
    /// The loaded programs, which go after they have been replaced.
    programs: Programs,
    /// Tells the daemon that the programs in its place are no accident.
    _lock: Flock<File>,
}

impl Tracing {
    /// Starts at all attachments below `directory`.
    pub fn start(directory: &Path, filter: TraceFilter) -> Result<Self, FastPathError> {
        let directory = Directory::existing(directory)?;
        let lock = lock(&directory)?;
        let mut programs = object::load_tracing(&directory, filter)?;
        let ring =
            RingBuf::try_from(programs.take_map(TRACE_MAP)?).map_err(|cause| failed("open", TRACE_MAP, cause))?;
        let mut this = Self { ring, former: Vec::new(), programs, _lock: lock };
        for (seat, hook, program) in seats(&directory)? {
            let failed = |cause| FastPathError::Trace { path: directory.links(), cause };
            let former = link_info::program(program).map_err(failed)?;
            seat.run(this.programs.fd(hook)?)?;
            this.former.push((seat, former));
        }
        Ok(this)
    }

    /// How many attachments tell.
    pub fn attachments(&self) -> usize {
        self.former.len()
    }

    /// What is there to tell by now.
    pub fn records(&mut self) -> Vec<TraceRecord> {
        let mut records = Vec::new();
        while let Some(item) = self.ring.next() {
            records.extend(bytemuck::try_pod_read_unaligned::<TraceRecord>(&item));
        }
        records
    }
}

impl AsFd for Tracing {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ring.as_fd()
    }
}

impl Drop for Tracing {
    fn drop(&mut self) {
        for (seat, former) in &self.former {
            // That the interface went away meanwhile is no failure.
            if let Err(cause) = seat.run(former.as_fd())
                && seat.is_there()
            {
                tracing::warn!(%cause, "cannot end tracing; the daemon does within a second");
            }
        }
    }
}

/// Where a program of ours is attached.
enum Seat {
    Link(PathBuf),
    /// Before Linux 6.6.
    Filter(Hook, u32),
}

impl Seat {
    /// Has it run another program, from one packet to the next.
    fn run(&self, program: BorrowedFd<'_>) -> Result<(), FastPathError> {
        match self {
            Self::Link(path) => {
                link_info::update(path, program).map_err(|cause| FastPathError::Trace { path: path.clone(), cause })
            }
            Self::Filter(hook, interface) => clsact::replace(*hook, *interface, program),
        }
    }

    fn is_there(&self) -> bool {
        match self {
            Self::Link(path) => link_info::of(path).is_some_and(|info| info.interface != 0),
            Self::Filter(_, interface) => if_indextoname(*interface).is_ok(),
        }
    }
}

/// All attachments below `directory` and in this network namespace, with what they run.
fn seats(directory: &Directory) -> Result<Vec<(Seat, Hook, u32)>, FastPathError> {
    let links = attach::pins(directory)?.into_iter().filter_map(|(path, hook, _)| {
        // One without an interface runs nothing.
        let info = link_info::of(&path).filter(|info| info.interface != 0)?;
        Some((Seat::Link(path), hook, info.program))
    });
    let filters = clsact::filters()?
        .into_iter()
        .filter_map(|(hook, interface, program)| Some((Seat::Filter(hook, interface), hook, program?)));
    Ok(links.chain(filters).collect())
}

/// Does somebody trace now?
pub(super) fn is_under_way(directory: &Directory) -> bool {
    let Ok(links) = File::open(directory.links()) else { return false };
    Flock::lock(links, FlockArg::LockSharedNonblock).is_err_and(|(_, errno)| errno == Errno::EWOULDBLOCK)
}

fn lock(directory: &Directory) -> Result<Flock<File>, FastPathError> {
    /// The daemon holds it for a moment when it looks.
    const TRIES: usize = 20;
    let path = directory.links();
    let failed = |cause| FastPathError::Trace { path: path.clone(), cause };
    let mut links = File::open(&path).map_err(failed)?;
    for _ in 0..TRIES {
        match Flock::lock(links, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((file, Errno::EWOULDBLOCK)) => links = file,
            Err((_, errno)) => return Err(failed(errno.into())),
        }
        thread::sleep(Duration::from_millis(20));
    }
    Err(FastPathError::Traced { path })
}
