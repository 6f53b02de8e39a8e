//! `flannel-ctl leases`.

use std::process::ExitCode;

/// Arguments of `leases`.
#[derive(Debug, clap::Args)]
pub struct Args {}

pub fn run(_args: &Args) -> anyhow::Result<ExitCode> {
    anyhow::bail!("leases is not built yet")
}
