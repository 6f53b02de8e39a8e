use std::os::unix::fs::{MetadataExt, symlink};

use nix::{
    sched::{CloneFlags, unshare},
    sys::stat::{Mode, umask},
};

use super::*;

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

#[test]
fn modes_do_not_depend_on_the_umask() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("run/flannel/subnet.env");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // A umask for this thread alone.
            unshare(CloneFlags::CLONE_FS).unwrap();
            umask(Mode::from_bits_truncate(0o077));
            assert!(replace(&path, b"x", 0o644).unwrap());
        });
    });
    assert_eq!(mode(&path), 0o644);
    assert_eq!(mode(&root.path().join("run/flannel")), 0o755);
    assert_eq!(mode(&root.path().join("run")), 0o755);
    assert_eq!(names(&root.path().join("run/flannel")), ["subnet.env"]);
}

#[test]
fn an_existing_directory_keeps_its_mode() {
    let root = tempfile::tempdir().unwrap();
    fs::set_permissions(root.path(), Permissions::from_mode(0o700)).unwrap();
    replace(&root.path().join("f"), b"x", 0o644).unwrap();
    assert_eq!(mode(root.path()), 0o700);
}

#[test]
fn the_same_content_is_not_written_again() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("f");
    assert!(replace(&path, b"one", 0o644).unwrap());
    let inode = fs::metadata(&path).unwrap().ino();
    assert!(!replace(&path, b"one", 0o644).unwrap());
    assert_eq!(fs::metadata(&path).unwrap().ino(), inode);
    assert!(replace(&path, b"two", 0o644).unwrap());
    assert_eq!(fs::read(&path).unwrap(), b"two");
}

#[test]
fn a_wrong_mode_is_corrected() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("f");
    fs::write(&path, "one").unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    assert!(replace(&path, b"one", 0o644).unwrap());
    assert_eq!(mode(&path), 0o644);
}

#[test]
fn symbolic_links_are_replaced_and_not_followed() {
    let root = tempfile::tempdir().unwrap();
    let victim = root.path().join("victim");
    fs::write(&victim, "precious").unwrap();
    let path = root.path().join("f");
    symlink(&victim, &path).unwrap();
    symlink(&victim, root.path().join(".f.new")).unwrap();
    assert!(replace(&path, b"precious", 0o644).unwrap());
    assert!(fs::symlink_metadata(&path).unwrap().is_file());
    assert!(replace(&path, b"mine", 0o644).unwrap());
    assert_eq!(fs::read(&victim).unwrap(), b"precious");
    assert_eq!(fs::read(&path).unwrap(), b"mine");
    assert_eq!(names(root.path()), ["f", "victim"]);
}

#[test]
fn what_a_killed_writer_left_does_not_hinder_the_next() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("f");
    replace(&path, b"old", 0o644).unwrap();
    // Killed while writing, and killed between writing and renaming.
    for left in [&b"ha"[..], b"new"] {
        fs::write(root.path().join(".f.new"), left).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert!(replace(&path, b"new", 0o644).unwrap());
        assert_eq!(names(root.path()), ["f"]);
        replace(&path, b"old", 0o644).unwrap();
    }
}

#[test]
fn a_failure_leaves_the_old_file_and_no_other() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("f");
    replace(&path, b"old", 0o644).unwrap();
    // A directory under the temporary name stops the writer, root or not.
    fs::create_dir(root.path().join(".f.new")).unwrap();
    let error = replace(&path, b"new", 0o644).unwrap_err();
    assert!(error.to_string().contains(".f.new"), "{error}");
    assert_eq!(fs::read(&path).unwrap(), b"old");

    // A directory under the final name stops it at the last step.
    let taken = root.path().join("taken");
    fs::create_dir(&taken).unwrap();
    let error = replace(&taken, b"new", 0o644).unwrap_err();
    assert!(error.to_string().contains("a directory has the name of the file"), "{error}");
    assert_eq!(names(root.path()), [".f.new", "f", "taken"]);
}

#[test]
fn a_file_where_a_directory_should_be_is_named() {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("run"), "").unwrap();
    let error = replace(&root.path().join("run/subnet.env"), b"x", 0o644).unwrap_err();
    assert!(error.to_string().starts_with("make directory "), "{error}");
    assert!(error.to_string().contains("something else has the name of a directory"), "{error}");
}

#[test]
fn a_full_disk_leaves_the_old_file() {
    let Some(full) = tiny_filesystem() else { return };
    let path = full.path().join("f");
    replace(&path, b"old", 0o644).unwrap();
    let error = replace(&path, &vec![b'x'; 1 << 20], 0o644).unwrap_err();
    assert_eq!(error.answer.kind(), io::ErrorKind::StorageFull);
    assert!(error.to_string().ends_with("(make room: the old file is still in force)"), "{error}");
    assert_eq!(fs::read(&path).unwrap(), b"old");
    assert_eq!(names(full.path()), ["f"]);
}

#[test]
fn a_read_only_place_keeps_the_file_and_an_unchanged_one_is_no_error() {
    let Some(place) = tiny_filesystem() else { return };
    let path = place.path().join("f");
    replace(&path, b"old", 0o644).unwrap();
    place.make_read_only();
    assert!(!replace(&path, b"old", 0o644).unwrap());
    let error = replace(&path, b"new", 0o644).unwrap_err();
    assert_eq!(error.answer.kind(), io::ErrorKind::ReadOnlyFilesystem);
    assert!(error.to_string().contains("mount it writable"), "{error}");
    assert_eq!(fs::read(&path).unwrap(), b"old");
}

/// A mounted tmpfs of 64 KiB, gone with the value.
struct TinyFilesystem(tempfile::TempDir);

impl TinyFilesystem {
    fn path(&self) -> &Path {
        self.0.path()
    }

    fn make_read_only(&self) {
        assert!(mount(&["-o", "remount,ro"], self.path()));
    }
}

impl Drop for TinyFilesystem {
    fn drop(&mut self) {
        assert!(std::process::Command::new("umount").arg(self.path()).status().is_ok_and(|status| status.success()));
    }
}

fn mount(args: &[&str], at: &Path) -> bool {
    let output = std::process::Command::new("mount").args(args).arg(at).output();
    output.is_ok_and(|output| output.status.success())
}

fn tiny_filesystem() -> Option<TinyFilesystem> {
    let dir = tempfile::tempdir().unwrap();
    if mount(&["-t", "tmpfs", "-o", "size=64k", "flannel-ctl-test"], dir.path()) {
        return Some(TinyFilesystem(dir));
    }
    eprintln!("NOT TESTED: a full disk and a read-only one, for want of the right to mount a tmpfs (run as root)");
    assert!(std::env::var_os("CI").is_none(), "CI must be able to mount a tmpfs");
    None
}
