//! `flannel-ctl run`.

use std::process::ExitCode;

use super::run_args::RunArgs;

/// What the options have in common.
pub const AFTER_HELP: &str = "\
Every option can also be given as an environment variable: FLANNELD_ and its name in capitals, with _ for -, \
as in FLANNELD_ETCD_ENDPOINTS. The option beats the variable. An empty value is the same as none.

BOOL is true or false and stands only behind =; without it the option means true.

Exit codes: 0 stopped as asked, 1 failed, 2 bad options or network config.";

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
