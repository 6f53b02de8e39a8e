//! Where everything is pinned.

use std::{
    fs, io,
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

/// The directory below which everything is pinned. Nobody but us may enter it.
#[derive(Clone, Debug)]
pub(super) struct Directory(PathBuf);

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

    /// One that is there already; for reading.
    pub(super) fn existing(path: &Path) -> Self {
        Self(path.to_owned())
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
        self.0.join("links")
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
    let error = |what, path: &Path| {
        let path = path.to_owned();
        move |cause| FastPathError::Directory { what, path, cause }
    };
    let list = |path: &Path| match fs::read_dir(path) {
        Ok(entries) => entries.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<Vec<_>>>(),
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(cause) => Err(cause),
    };
    let ours = |path: &Path| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name == "links" || name.starts_with("maps-v")
    };
    let mut removed = Vec::new();
    for directory in list(path).map_err(error("list", path))?.into_iter().filter(|path| ours(path)) {
        let pins = list(&directory).map_err(error("list", &directory))?;
        for pin in &pins {
            fs::remove_file(pin).map_err(error("remove", pin))?;
        }
        fs::remove_dir(&directory).map_err(error("remove", &directory))?;
        if !pins.is_empty() {
            removed.push(format!("{} pins in {}", pins.len(), directory.display()));
        }
    }
    Ok(removed)
}
