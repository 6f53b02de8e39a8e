//! `flannel-ctl cleanup`.

use std::process::ExitCode;

/// Arguments of `cleanup`.
#[derive(Debug, clap::Args)]
pub struct Args {}

pub fn run(_args: &Args) -> anyhow::Result<ExitCode> {
    anyhow::bail!("cleanup is not built yet")
}
