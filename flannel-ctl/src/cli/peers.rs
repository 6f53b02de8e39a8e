//! `flannel-ctl peers`.

use std::process::ExitCode;

/// Arguments of `peers`.
#[derive(Debug, clap::Args)]
pub struct Args {}

pub fn run(_args: &Args) -> anyhow::Result<ExitCode> {
    anyhow::bail!("peers is not built yet")
}
