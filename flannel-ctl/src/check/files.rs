//! The directories that the daemon writes to, its identity and its lock.

use std::path::{Path, PathBuf};

use nix::{
    sys::statfs::{TMPFS_MAGIC, statfs},
    unistd::{AccessFlags, access},
};

use super::Finding;
use crate::{
    config::settings::Paths,
    state::{Lock, NodeId},
};

pub(super) fn check(paths: &Paths) -> Vec<Finding> {
    let mut findings = vec![writable("run directory", &paths.run_dir), writable("state directory", &paths.state_dir)];
    if let Some(parent) = paths.subnet_file.parent().filter(|parent| *parent != paths.run_dir) {
        findings.push(writable("subnet file", parent));
    }
    findings.extend(volatile(&paths.state_dir));
    findings.push(match NodeId::load(&paths.state_dir) {
        Ok(Some(id)) => Finding::ok("node identity", id.to_string()),
        Ok(None) => Finding::ok("node identity", "none yet; the first run makes it"),
        Err(error) => Finding::fail("node identity", error.to_string(), ""),
    });
    findings.push(Finding::ok(
        "lock",
        match Lock::holder(&paths.run_dir) {
            Some(Some(pid)) => format!("a daemon runs with this run directory, pid {pid}"),
            Some(None) => "a daemon starts with this run directory".into(),
            None => "no daemon runs with this run directory".into(),
        },
    ));
    findings
}

fn writable(name: &'static str, dir: &Path) -> Finding {
    let (existing, shown) = (nearest(dir), dir.display());
    if !existing.is_dir() {
        return Finding::fail(name, format!("{} is not a directory", existing.display()), "remove it, or name another");
    }
    match access(&existing, AccessFlags::W_OK | AccessFlags::X_OK) {
        Ok(()) if existing == dir => Finding::ok(name, format!("{shown} can be written")),
        Ok(()) => Finding::ok(name, format!("{shown} is not there yet and can be made")),
        Err(errno) => Finding::fail(
            name,
            format!("{} cannot be written: {}", existing.display(), errno.desc()),
            "make it writable for us, or name another directory",
        ),
    }
}

/// What is kept there does not outlive a reboot.
fn volatile(dir: &Path) -> Option<Finding> {
    let on_tmpfs = statfs(&nearest(dir)).is_ok_and(|found| found.filesystem_type() == TMPFS_MAGIC);
    on_tmpfs.then(|| {
        let detail = format!("{} is on a tmpfs: at a reboot the node loses its identity", dir.display());
        Finding::warn("node identity", detail, "name a directory on a disk with --state-dir")
    })
}

/// The directory, or the deepest of its parents that is there.
fn nearest(dir: &Path) -> PathBuf {
    dir.ancestors().find(|ancestor| ancestor.symlink_metadata().is_ok()).unwrap_or(Path::new("/")).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Outcome;

    #[test]
    fn a_directory_that_is_a_file_fails_and_a_missing_one_is_made_later() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert_eq!(writable("x", &file).result, Outcome::Fail);
        assert_eq!(writable("x", &file.join("below")).result, Outcome::Fail);
        let missing = dir.path().join("a/b");
        let finding = writable("x", &missing);
        assert_eq!(finding.result, Outcome::Ok);
        assert!(finding.detail.ends_with("can be made"), "{finding:?}");
        assert!(!missing.exists());
    }
}
