//! Small files that are either the old ones or the new ones, whatever happens in between.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

/// A file operation failed; the file that was there before still is.
#[derive(Debug, thiserror::Error)]
#[error("{attempt} {}: {answer}{}", .path.display(), hint(.answer))]
pub struct FileError {
    /// `write`, `make directory`...
    pub attempt: &'static str,
    pub path: PathBuf,
    pub answer: io::Error,
}

impl FileError {
    /// For [`Result::map_err`].
    pub fn of(attempt: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |answer| Self { attempt, path: path.to_owned(), answer }
    }
}

/// Puts `content` at `path` with exactly `mode`, whatever the umask, making the directory (0755)
/// if need be. `Ok(false)`: it stood there already and was not touched.
///
/// The new file is complete and on disk before it takes the name, so neither a crash nor a full
/// disk leaves half of it. A symbolic link at `path` is replaced, not followed. Two writers of
/// one file must be kept apart by the caller: they would share the temporary name.
pub fn replace(path: &Path, content: &[u8], mode: u32) -> Result<bool, FileError> {
    if is_already(path, content, mode) {
        return Ok(false);
    }
    let directory = directory_of(path);
    make_directory(directory)?;
    let temporary = write_temporary(path, content, mode)?;
    if let Err(answer) = fs::rename(&temporary, path) {
        discard(&temporary);
        return Err(FileError { attempt: "rename the new file to", path: path.to_owned(), answer });
    }
    sync_directory(directory)?;
    Ok(true)
}

/// Removes a file that may be there.
pub fn remove(path: &Path) -> Result<(), FileError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(FileError::of("remove", path)(error)),
        _ => Ok(()),
    }
}

/// Makes the directory and its missing parents, each 0755 whatever the umask. Existing ones are
/// left as they are.
pub fn make_directory(directory: &Path) -> Result<(), FileError> {
    if directory.is_dir() {
        return Ok(());
    }
    if let Some(parent) = directory.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        make_directory(parent)?;
    }
    match DirBuilder::new().mode(0o755).create(directory) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && directory.is_dir() => return Ok(()),
        Err(error) => return Err(FileError::of("make directory", directory)(error)),
    }
    fs::set_permissions(directory, Permissions::from_mode(0o755))
        .map_err(FileError::of("set the mode of directory", directory))
}

/// The new file, complete and on disk, under its temporary name beside `path`.
fn write_temporary(path: &Path, content: &[u8], mode: u32) -> Result<PathBuf, FileError> {
    let temporary = temporary_of(path);
    let written = create_fresh(&temporary).and_then(|mut file| {
        file.write_all(content)?;
        file.set_permissions(Permissions::from_mode(mode))?;
        file.sync_all()
    });
    match written {
        Ok(()) => Ok(temporary),
        Err(answer) => {
            discard(&temporary);
            Err(FileError { attempt: "write", path: temporary, answer })
        }
    }
}

/// A fixed name: what a killed writer left behind is overwritten by the next one, not collected.
pub(crate) fn temporary_of(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.new"))
}

fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// `O_EXCL` follows no symbolic link, so what somebody planted under the name costs nothing but
/// the planted thing itself.
fn create_fresh(temporary: &Path) -> io::Result<File> {
    match fs::remove_file(temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(temporary)
}

/// The failure that led here is the one to report.
fn discard(temporary: &Path) {
    if let Err(error) = fs::remove_file(temporary)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::debug!(path = %temporary.display(), %error, "temporary file left behind");
    }
}

/// A rename is on disk only when the directory is.
fn sync_directory(directory: &Path) -> Result<(), FileError> {
    File::open(directory).and_then(|dir| dir.sync_all()).map_err(FileError::of("sync directory", directory))
}

fn is_already(path: &Path, content: &[u8], mode: u32) -> bool {
    let Ok(meta) = fs::symlink_metadata(path) else { return false };
    meta.is_file()
        && meta.permissions().mode() & 0o7777 == mode
        && meta.len() == content.len() as u64
        && fs::read(path).is_ok_and(|present| present == content)
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => " (make room: the old file is still in force)",
        io::ErrorKind::ReadOnlyFilesystem => " (mount it writable, or choose another place)",
        io::ErrorKind::PermissionDenied => " (the daemon usually runs as root)",
        io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => " (something else has the name of a directory)",
        io::ErrorKind::IsADirectory => " (a directory has the name of the file)",
        _ => "",
    }
}

#[cfg(test)]
#[path = "atomic_tests.rs"]
mod tests;
