//! `flannel-ctl run`.

use std::process::ExitCode;

use super::run_args::RunArgs;

/// Arguments of `run`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub options: RunArgs,
}

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    args.options.settings()?;
    anyhow::bail!("run is not built yet")
}
