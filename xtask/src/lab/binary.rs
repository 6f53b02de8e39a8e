//! The flannel-ctl that the lab runs.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use anyhow::{Context as _, Result, ensure};

/// `FLANNEL_CTL_BIN` if set; else the one of this build profile's directory, brought up to date first.
pub fn flannel_ctl() -> Result<&'static Path> {
    static BINARY: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let found = BINARY.get_or_init(|| find().map_err(|error| format!("{error:#}")));
    found.as_deref().map_err(|error| anyhow::anyhow!("{error}"))
}

fn find() -> Result<PathBuf> {
    if let Some(path) = env::var_os("FLANNEL_CTL_BIN") {
        return Ok(path.into());
    }
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let status = Command::new(cargo)
        .args(["build", "--quiet", "--package", "flannel-ctl", "--bin", "flannel-ctl"])
        .current_dir(&root)
        .status()
        .context("running cargo")?;
    ensure!(status.success(), "flannel-ctl does not build");
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    let path = target.join("debug/flannel-ctl");
    path.canonicalize().with_context(|| format!("the built binary {}", path.display()))
}
