//! One daemon per run directory.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg, OFlag},
};

use super::{FileError, atomic};

/// Held for as long as the value lives; the kernel lets go of it however the process ends.
#[derive(Debug)]
pub struct Lock {
    /// Locked until closed.
    file: Flock<File>,
    path: PathBuf,
}

/// The lock could not be had.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    #[error(
        "another daemon{} already runs with run directory {}: stop it, or give this one a --run-dir of its own",
        .pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default(), .run_dir.display()
    )]
    Held {
        run_dir: PathBuf,
        /// As the holder sees itself, which differs across PID namespaces.
        pid: Option<u32>,
    },
    #[error(transparent)]
    File(#[from] FileError),
}

impl Lock {
    pub const NAME: &str = "lock";

    /// Takes the lock of this run directory, made if missing, or says at once who has it.
    pub fn acquire(run_dir: &Path) -> Result<Self, LockError> {
        atomic::make_directory(run_dir)?;
        let path = run_dir.join(Self::NAME);
        loop {
            let file = open(&path).map_err(FileError::of("open lock file", &path))?;
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(mut file) => {
                    // Somebody may have removed the file between opening and locking; then
                    // this lock is on a file that nobody else will ever find.
                    if !is_at(&file, &path) {
                        continue;
                    }
                    write_pid(&mut file).map_err(FileError::of("write the pid to lock file", &path))?;
                    return Ok(Self { file, path });
                }
                Err((mut file, Errno::EWOULDBLOCK)) => {
                    return Err(LockError::Held { run_dir: run_dir.to_owned(), pid: read_pid(&mut file) });
                }
                Err((_, errno)) => return Err(FileError::of("lock", &path)(errno.into()).into()),
            }
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file is still the one that others would find; `cleanup` or a person may have removed
    /// it under a running daemon.
    pub fn is_current(&self) -> bool {
        is_at(&self.file, &self.path)
    }

    /// Who holds the lock of this run directory, if anybody: `Some(None)` has not written its
    /// pid yet. Takes nothing and makes nothing.
    pub fn holder(run_dir: &Path) -> Option<Option<u32>> {
        let file = OpenOptions::new().read(true).open(run_dir.join(Self::NAME)).ok()?;
        match Flock::lock(file, FlockArg::LockSharedNonblock) {
            Err((mut file, Errno::EWOULDBLOCK)) => Some(read_pid(&mut file)),
            _ => None,
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o644)
        .custom_flags(OFlag::O_NOFOLLOW.bits())
        .open(path)
}

fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), std::fs::symlink_metadata(path)) {
        (Ok(held), Ok(named)) => (held.dev(), held.ino()) == (named.dev(), named.ino()),
        _ => false,
    }
}

fn write_pid(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    writeln!(file, "{}", std::process::id())
}

fn read_pid(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.take(32).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead, BufReader},
        process::{Command, Stdio},
    };

    use super::*;

    const CHILD_DIR: &str = "FLANNEL_CTL_TEST_LOCK_DIR";

    #[test]
    fn the_second_is_told_who_has_it_and_the_third_gets_it() {
        let dir = tempfile::tempdir().unwrap();
        let run_dir = dir.path().join("run");
        assert_eq!(Lock::holder(&run_dir), None);
        let first = Lock::acquire(&run_dir).unwrap();
        let error = Lock::acquire(&run_dir).unwrap_err().to_string();
        assert!(error.contains(&format!("pid {}", std::process::id())), "{error}");
        assert!(error.contains(run_dir.to_str().unwrap()), "{error}");
        assert_eq!(Lock::holder(&run_dir), Some(Some(std::process::id())));
        drop(first);
        assert_eq!(Lock::holder(&run_dir), None);
        Lock::acquire(&run_dir).unwrap();
    }

    #[test]
    fn another_process_has_it_until_it_is_killed() {
        let dir = tempfile::tempdir().unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "state::lock::tests::child_holds_the_lock", "--ignored", "--nocapture"])
            .env(CHILD_DIR, dir.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap().contains("lock held")));
        let error = Lock::acquire(dir.path()).unwrap_err();
        assert!(matches!(error, LockError::Held { pid: Some(pid), .. } if pid == child.id()), "{error}");
        child.kill().unwrap();
        child.wait().unwrap();
        Lock::acquire(dir.path()).unwrap();
    }

    #[test]
    #[ignore = "the other process of the test above"]
    fn child_holds_the_lock() {
        let Some(dir) = std::env::var_os(CHILD_DIR) else { return };
        let _lock = Lock::acquire(Path::new(&dir)).unwrap();
        println!("lock held");
        // Until killed, or until the parent is gone.
        io::stdin().read_to_end(&mut Vec::new()).unwrap();
    }

    #[test]
    fn a_removed_lock_file_does_not_let_two_in_for_long() {
        let dir = tempfile::tempdir().unwrap();
        let first = Lock::acquire(dir.path()).unwrap();
        std::fs::remove_file(first.path()).unwrap();
        let second = Lock::acquire(dir.path()).unwrap();
        assert!(second.is_current());
        assert!(Lock::acquire(dir.path()).is_err());
    }
}
