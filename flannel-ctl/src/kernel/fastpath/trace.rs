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
};

use super::{
    FastPathError, attach,
    directory::Directory,
    link_info,
    object::{self, Programs},
    table::failed,
};

/// Tracing goes on until this is dropped.
pub struct Tracing {
    ring: RingBuf<aya::maps::MapData>,
    /// Links, and what they ran before.
    former: Vec<(PathBuf, OwnedFd)>,
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
        for (path, hook, _) in attach::pins(&directory)? {
            // One without an interface runs nothing.
            let Some(info) = link_info::of(&path).filter(|info| info.interface != 0) else { continue };
            let failed = |cause| FastPathError::Trace { path: path.clone(), cause };
            let former = link_info::program(info.program).map_err(failed)?;
            let program = this
                .programs
                .look(hook)?
                .fd()
                .map_err(|cause| FastPathError::Program { program: hook.program(), cause: Box::new(cause) })?;
            link_info::update(&path, program.as_fd()).map_err(failed)?;
            this.former.push((path, former));
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
        for (path, former) in &self.former {
            match link_info::update(path, former.as_fd()) {
                // The interface went away meanwhile.
                Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => {}
                Err(cause) => {
                    tracing::warn!(link = %path.display(), %cause, "cannot end tracing; the daemon does within a second");
                }
                Ok(()) => {}
            }
        }
    }
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
