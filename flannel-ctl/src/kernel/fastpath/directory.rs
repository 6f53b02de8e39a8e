//! Where everything is pinned.

use std::{
    fmt, fs, io,
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
};

use nix::{
    mount::{MsFlags, mount},
    sys::statfs::{BPF_FS_MAGIC, statfs},
    unistd::geteuid,
};

use super::FastPathError;

/// Where the BPF file system usually is.
const USUAL: &str = "/sys/fs/bpf";
/// Where links are pinned, below [`Directory`].
const LINKS: &str = "links";

/// The directory below which everything is pinned. Nobody but us may enter it.
#[derive(Clone, Debug)]
pub(super) struct Directory(PathBuf);

impl fmt::Display for Directory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.display().fmt(f)
    }
}

impl Directory {
    /// Makes sure that it is there, ours, and on a BPF file system, which is mounted if there is none.
    pub(super) fn prepare(path: &Path) -> Result<Self, FastPathError> {
        let error = |what, path: &Path| {
            let path = path.to_owned();
            move |cause| FastPathError::Directory { what, path, cause }
        };
        // The usual place, if it is below that; else there is one of our own.
        let root = if path.starts_with(USUAL) { Path::new(USUAL) } else { path };
        if root == path {
            fs::create_dir_all(path).map_err(error("make", path))?;
        }
        if !on_bpffs(root).map_err(error("look at", root))? {
            mount(Some("bpf"), root, Some("bpf"), MsFlags::empty(), Some("mode=0700"))
                .map_err(|errno| error("mount a BPF file system on", root)(errno.into()))?;
        }
        let parent = path.parent().filter(|_| root != path).unwrap_or(root);
        fs::create_dir_all(parent).map_err(error("make", parent))?;
        let this = Self(path.to_owned());
        for directory in [this.0.clone(), this.maps(), this.links()] {
            match fs::DirBuilder::new().mode(0o700).create(&directory) {
                Err(cause) if cause.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(error("make", &directory)(cause));
                }
                _ => {}
            }
            let owner = fs::metadata(&directory).map_err(error("look at", &directory))?.uid();
            if owner != geteuid().as_raw() {
                return Err(FastPathError::Stranger { path: directory, owner });
            }
        }
        Ok(this)
    }

    /// Makes what somebody removed of it.
    pub(super) fn restore(&self) -> Result<(), FastPathError> {
        Self::prepare(&self.0).map(drop)
    }

    /// One that may be there.
    pub(super) fn at(path: &Path) -> Self {
        Self(path.to_owned())
    }

    /// One with maps of this layout in it; for reading.
    pub(super) fn existing(path: &Path) -> Result<Self, FastPathError> {
        let this = Self::at(path);
        match fs::metadata(this.maps()) {
            Ok(_) => Ok(this),
            Err(cause) if cause.kind() == io::ErrorKind::PermissionDenied => {
                Err(FastPathError::Forbidden { path: path.to_owned() })
            }
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => Err(this.absent()),
            Err(cause) => Err(FastPathError::Directory { what: "look at", path: this.maps(), cause }),
        }
    }

    fn absent(self) -> FastPathError {
        let entries = fs::read_dir(&self.0).into_iter().flatten().flatten();
        let other = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
        match other.filter(|name| name.starts_with("maps-v")).max() {
            Some(found) => FastPathError::OtherLayout { path: self.0, found, wanted: flannel_common::LAYOUT },
            None => FastPathError::Absent { path: self.0 },
        }
    }

    pub(super) fn map(&self, name: &str) -> PathBuf {
        self.maps().join(name)
    }

    /// Leaves a mark: a BPF file system holds no files but directories.
    pub(super) fn mark(&self, name: &str) -> Result<(), FastPathError> {
        let path = self.0.join(name);
        match fs::create_dir(&path) {
            Err(cause) if cause.kind() != io::ErrorKind::AlreadyExists => {
                Err(FastPathError::Directory { what: "make", path, cause })
            }
            _ => Ok(()),
        }
    }

    pub(super) fn is_marked(&self, name: &str) -> bool {
        self.0.join(name).is_dir()
    }

    /// Removes a mark. Whether there was one.
    pub(super) fn unmark(&self, name: &str) -> Result<bool, FastPathError> {
        let path = self.0.join(name);
        match fs::remove_dir(&path) {
            Ok(()) => Ok(true),
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(cause) => Err(FastPathError::Directory { what: "remove", path, cause }),
        }
    }

    pub(super) fn links(&self) -> PathBuf {
        self.0.join(LINKS)
    }

    /// Gives up the maps of other layouts: programs of another version that are still attached keep theirs until they
    /// are replaced.
    pub(super) fn forget_other_layouts(&self) -> Result<(), FastPathError> {
        for directory in ours(&self.0)? {
            if directory != self.maps() && directory != self.links() {
                remove_pins(&directory)?;
            }
        }
        Ok(())
    }

    /// How much is pinned, by whichever version.
    pub(super) fn pins(&self) -> Result<usize, FastPathError> {
        ours(&self.0)?.iter().try_fold(0, |sum, directory| Ok(sum + list(directory)?.len()))
    }

    /// There is nothing of ours in it any more. Whether it could go: it may be a mount point, or somebody else's as well.
    pub(super) fn remove_itself(&self) -> Result<bool, FastPathError> {
        match fs::remove_dir(&self.0) {
            Ok(()) => Ok(true),
            Err(cause) if matches!(cause.kind(), io::ErrorKind::NotFound | io::ErrorKind::ResourceBusy) => Ok(false),
            Err(cause) => Err(FastPathError::Directory { what: "remove", path: self.0.clone(), cause }),
        }
    }

    fn maps(&self) -> PathBuf {
        self.0.join(format!("maps-v{}", flannel_common::LAYOUT))
    }
}

fn on_bpffs(path: &Path) -> io::Result<bool> {
    Ok(statfs(path)?.filesystem_type() == BPF_FS_MAGIC)
}

/// Removes all that is pinned: what is not pinned any more is detached and freed. In words, what that was.
pub(super) fn remove(path: &Path) -> Result<Vec<String>, FastPathError> {
    let mut removed = Vec::new();
    for directory in ours(path)? {
        let pins = remove_pins(&directory)?;
        if pins > 0 {
            removed.push(format!("{pins} BPF pins in {}", directory.display()));
        }
    }
    Ok(removed)
}

/// The directories of pins below `path`, links first: a program that is not attached needs no maps.
fn ours(path: &Path) -> Result<Vec<PathBuf>, FastPathError> {
    let name = |path: &Path| path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
    let mut found = list(path)?;
    found.retain(|path| name(path) == LINKS || name(path).starts_with("maps-v"));
    found.sort_unstable();
    Ok(found)
}

/// Removes a pin that may be there.
pub(super) fn forget(pin: &Path) -> Result<(), FastPathError> {
    match fs::remove_file(pin) {
        Err(cause) if cause.kind() != io::ErrorKind::NotFound => {
            Err(FastPathError::Directory { what: "remove", path: pin.to_owned(), cause })
        }
        _ => Ok(()),
    }
}

/// How many there were.
fn remove_pins(directory: &Path) -> Result<usize, FastPathError> {
    let error = |path: &Path| {
        let path = path.to_owned();
        move |cause| FastPathError::Directory { what: "remove", path, cause }
    };
    let pins = list(directory)?;
    for pin in &pins {
        fs::remove_file(pin).map_err(error(pin))?;
    }
    fs::remove_dir(directory).map_err(error(directory))?;
    Ok(pins.len())
}

/// What is in a directory; nothing if there is none.
fn list(path: &Path) -> Result<Vec<PathBuf>, FastPathError> {
    let listed = fs::read_dir(path)
        .and_then(|entries| entries.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<Vec<_>>>());
    match listed {
        Err(cause) if cause.kind() != io::ErrorKind::NotFound => {
            Err(FastPathError::Directory { what: "list", path: path.to_owned(), cause })
        }
        listed => Ok(listed.unwrap_or_default()),
    }
}
