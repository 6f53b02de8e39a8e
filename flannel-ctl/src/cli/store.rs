//! `flannel-ctl store`.

use std::process::ExitCode;

/// Arguments of `store`.
#[derive(Debug, clap::Args)]
pub struct Args {}

pub fn run(_args: &Args) -> anyhow::Result<ExitCode> {
    anyhow::bail!("store is not built yet")
}
