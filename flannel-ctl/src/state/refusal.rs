//! Which node's lease kept this one from starting. A holder that has answered once is believed to
//! come back: without this, its next reboot would pass for its end, and we would take its subnet.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{FileError, atomic};
use crate::source::Holding;

pub const NAME: &str = "refused-by";

fn path_in(state_dir: &Path) -> PathBuf {
    state_dir.join(NAME)
}

/// What is remembered. A damaged file is the same as none: then the holder is asked again.
pub fn load(state_dir: &Path) -> Result<Option<Holding>, FileError> {
    let path = path_in(state_dir);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidData) => return Ok(None),
        Err(error) => return Err(FileError::of("read", &path)(error)),
    };
    let (created, key) = text.trim_end().split_once(' ').unwrap_or_default();
    Ok(created.parse().ok().map(|created| Holding { key: key.to_owned(), created }))
}

/// Remembers it.
pub fn store(state_dir: &Path, Holding { key, created }: &Holding) -> Result<(), FileError> {
    atomic::replace(&path_in(state_dir), format!("{created} {key}\n").as_bytes(), 0o644).map(drop)
}

/// Forgets it.
pub fn forget(state_dir: &Path) -> Result<(), FileError> {
    atomic::remove(&path_in(state_dir))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remembered_until_forgotten_and_damage_is_no_memory() {
        let dir = tempfile::tempdir().unwrap();
        let holding = Holding { key: "10.5.1.0-24".into(), created: 77 };
        assert_eq!(load(dir.path()).unwrap(), None);
        store(dir.path(), &holding).unwrap();
        assert_eq!(load(dir.path()).unwrap(), Some(holding));
        forget(dir.path()).unwrap();
        forget(dir.path()).unwrap();
        assert_eq!(load(dir.path()).unwrap(), None);
        for damaged in [&b""[..], b"x y\n", b"\xff\xfe"] {
            fs::write(dir.path().join(NAME), damaged).unwrap();
            assert_eq!(load(dir.path()).unwrap(), None);
        }
    }
}
