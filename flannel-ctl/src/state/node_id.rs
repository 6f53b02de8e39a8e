//! Who this node is, whatever its address and name: a number on disk.

use std::{
    fmt,
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    str::FromStr,
};

use nix::fcntl::{Flock, FlockArg};

use super::{FileError, atomic};

/// 128 random bits, made once per node and written in hexadecimal to `node-id` in the state
/// directory.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId([u8; 16]);

/// The identity could not be read or made.
#[derive(Debug, thiserror::Error)]
pub enum NodeIdError {
    #[error(
        "{} does not hold 32 hexadecimal digits: restore it to keep this node's subnet, or remove it to make this a \
         new node, which takes a new subnet",
        .path.display()
    )]
    Damaged { path: PathBuf },
    #[error(transparent)]
    File(#[from] FileError),
}

/// The text was not 32 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not 32 hexadecimal digits")]
pub struct ParseNodeIdError;

impl NodeId {
    pub const NAME: &str = "node-id";

    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// Reads the identity. A damaged one is an error and not a new identity: that would give
    /// this node's subnet away without a word.
    pub fn load(state_dir: &Path) -> Result<Option<Self>, NodeIdError> {
        let path = state_dir.join(Self::NAME);
        let mut bytes = Vec::new();
        match File::open(&path).and_then(|file| file.take(256).read_to_end(&mut bytes)) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(FileError::of("read", &path)(error).into()),
        }
        match std::str::from_utf8(&bytes).ok().and_then(|text| text.trim().parse().ok()) {
            Some(id) => Ok(Some(id)),
            None => Err(NodeIdError::Damaged { path }),
        }
    }

    /// Reads the identity, or makes it: on disk before it is returned. Of several processes that
    /// start at once, all get the same one.
    pub fn load_or_create(state_dir: &Path) -> Result<Self, NodeIdError> {
        if let Some(id) = Self::load(state_dir)? {
            return Ok(id);
        }
        atomic::make_directory(state_dir)?;
        let directory = File::open(state_dir).map_err(FileError::of("open directory", state_dir))?;
        let _locked = Flock::lock(directory, FlockArg::LockExclusive)
            .map_err(|(_, errno)| FileError::of("lock directory", state_dir)(errno.into()))?;
        if let Some(id) = Self::load(state_dir)? {
            return Ok(id);
        }
        let id = Self(rand::random());
        atomic::replace(&state_dir.join(Self::NAME), format!("{id}\n").as_bytes(), 0o600)?;
        Ok(id)
    }
}

/// This machine's name, for people.
pub fn host_name() -> String {
    nix::unistd::gethostname().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

impl FromStr for NodeId {
    type Err = ParseNodeIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() != 32 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(ParseNodeIdError);
        }
        u128::from_str_radix(text, 16).map(|bits| Self(bits.to_be_bytes())).map_err(|_| ParseNodeIdError)
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;

    #[test]
    fn made_once_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let state_dir = dir.path().join("lib/flannel");
        assert_eq!(NodeId::load(&state_dir).unwrap(), None);
        assert!(!state_dir.exists());
        let id = NodeId::load_or_create(&state_dir).unwrap();
        assert_eq!(NodeId::load_or_create(&state_dir).unwrap(), id);
        let path = state_dir.join("node-id");
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{id}\n"));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(&state_dir).unwrap().count(), 1);
        assert_ne!(NodeId::load_or_create(dir.path()).unwrap(), id);
    }

    #[test]
    fn a_damaged_one_is_an_error_that_names_the_cure_and_stays_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node-id");
        for damaged in ["", "\n", "zz", "0123456789abcdef0123456789abcde", "+123456789abcdef0123456789abcdef"] {
            fs::write(&path, damaged).unwrap();
            let error = NodeId::load_or_create(dir.path()).unwrap_err().to_string();
            assert!(error.contains(path.to_str().unwrap()) && error.contains("remove it"), "{error}");
            assert_eq!(fs::read_to_string(&path).unwrap(), damaged);
        }
        fs::write(&path, [0xff; 300]).unwrap();
        assert!(matches!(NodeId::load(dir.path()), Err(NodeIdError::Damaged { .. })));
    }

    #[test]
    fn simultaneous_starts_agree() {
        let dir = tempfile::tempdir().unwrap();
        let ids: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| NodeId::load_or_create(dir.path()).unwrap())).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    }
}
