//! Staying on a core.

use nix::{
    sched::{CpuSet, sched_getaffinity, sched_getcpu, sched_setaffinity},
    unistd::Pid,
};

/// The calling thread.
const SELF: Pid = Pid::from_raw(0);

/// Keeps the calling thread on one core for a while. Where that is not allowed, nothing happens: it is for speed alone.
#[derive(Debug, Default)]
pub(super) struct Stay {
    /// The cores that it may run on otherwise.
    before: Option<CpuSet>,
}

impl Stay {
    /// Stays, or does so no longer.
    pub(super) fn set(&mut self, stays: bool) {
        match (stays, self.before) {
            (true, None) => self.before = stay().ok(),
            (false, Some(before)) => {
                // All that it may refuse is a set of cores that are gone, and then it has chosen others itself.
                sched_setaffinity(SELF, &before).unwrap_or_default();
                self.before = None;
            }
            (true, Some(_)) | (false, None) => {}
        }
    }
}

fn stay() -> nix::Result<CpuSet> {
    let before = sched_getaffinity(SELF)?;
    let mut here = CpuSet::new();
    here.set(sched_getcpu()?)?;
    sched_setaffinity(SELF, &here)?;
    Ok(before)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn afterwards_it_may_run_where_it_could_before() {
        // A thread of its own, whatever happens to it.
        let thread = std::thread::spawn(|| {
            let many = |cores: &CpuSet| (0..CpuSet::count()).filter(|core| cores.is_set(*core).unwrap()).count();
            let (before, mut stay) = (sched_getaffinity(SELF).unwrap(), Stay::default());
            for _ in 0..2 {
                stay.set(true);
                assert_eq!(many(&sched_getaffinity(SELF).unwrap()), 1);
            }
            for _ in 0..2 {
                stay.set(false);
                assert_eq!(sched_getaffinity(SELF).unwrap(), before);
            }
        });
        thread.join().unwrap();
    }
}
