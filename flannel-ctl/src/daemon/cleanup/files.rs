//! The daemon's files.

use std::{
    fs,
    io::{self, ErrorKind},
    path::Path,
};

use super::{Outcome, Wish};
use crate::{
    config::settings::Paths,
    serve::StatusSocket,
    state::{Lock, NodeId, atomic, forwarding, refusal},
};

/// Subnet file and, if asked for, the node's identity.
pub(super) fn remove(paths: &Paths, wish: &Wish, ours: bool, outcome: &mut Outcome) {
    let subnet_file = &paths.subnet_file;
    if ours {
        file(subnet_file, outcome);
        file(&atomic::temporary_of(subnet_file), outcome);
    } else if subnet_file.exists() {
        let why = "nothing shows that we wrote it; --all removes it";
        outcome.left.push(format!("{}: {why}", subnet_file.display()));
    }
    if wish.forget_node {
        identity(&paths.state_dir, outcome);
    } else if paths.state_dir.join(NodeId::NAME).exists() {
        let why = "the node's identity, for its return; --forget-node removes it";
        outcome.left.push(format!("{}: {why}", paths.state_dir.display()));
    }
}

/// Socket, forwarding table and lock, the lock last; the directory if nobody else has anything in it.
pub(super) fn remove_run_dir(paths: &Paths, locked: bool, outcome: &mut Outcome) {
    file(&StatusSocket::path_in(&paths.run_dir), outcome);
    for memory in [paths.run_dir.join(forwarding::NAME), atomic::temporary_of(&paths.run_dir.join(forwarding::NAME))] {
        file(&memory, outcome);
    }
    if locked {
        file(&paths.run_dir.join(Lock::NAME), outcome);
        empty_directory(&paths.run_dir, outcome);
    }
}

fn identity(state_dir: &Path, outcome: &mut Outcome) {
    let names = match fs::read_dir(state_dir) {
        Ok(entries) => entries.flatten().map(|entry| entry.file_name()).collect(),
        Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
        Err(error) => return outcome.errors.push(format!("list {}: {error}", state_dir.display())),
    };
    for name in names {
        let ours = name
            .to_str()
            .is_some_and(|name| name == NodeId::NAME || name == refusal::NAME || name.starts_with("vtep-mac"));
        if ours {
            file(&state_dir.join(name), outcome);
        }
    }
    empty_directory(state_dir, outcome);
}

fn file(path: &Path, outcome: &mut Outcome) {
    note(path, fs::remove_file(path), outcome);
}

/// A mount point or one with others' files stays without a word.
fn empty_directory(path: &Path, outcome: &mut Outcome) {
    match fs::remove_dir(path) {
        Err(error) if matches!(error.kind(), ErrorKind::DirectoryNotEmpty | ErrorKind::ResourceBusy) => {}
        result => note(path, result, outcome),
    }
}

fn note(path: &Path, result: io::Result<()>, outcome: &mut Outcome) {
    match result {
        Ok(()) => outcome.removed.push(path.display().to_string()),
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => outcome.errors.push(format!("remove {}: {error}", path.display())),
    }
}
