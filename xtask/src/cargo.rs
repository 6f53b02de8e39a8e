//! How xtask calls cargo, and where things are.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

/// The workspace's directory.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Where cargo builds.
pub(crate) fn target() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// cargo in the workspace; with a protoc that comes as a crate if the machine has none.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    if let Some(protoc) = protoc() {
        command.env("PROTOC", protoc);
    }
    command
}

/// Runs to the end with the terminal's outputs; an error unless it succeeds.
pub(crate) fn succeed(command: &mut Command, what: &str) -> Result<()> {
    let status = command.status().with_context(|| format!("running {what}"))?;
    ensure!(status.success(), "{what}: {status}");
    Ok(())
}

fn protoc() -> Option<PathBuf> {
    if xtask::lab::on_path("protoc") { None } else { protoc_bin_vendored::protoc_bin_path().ok() }
}
