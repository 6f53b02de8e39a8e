//! `flannel-ctl run`.

use std::process::ExitCode;

use super::{logging, run_args::RunArgs};
use crate::daemon;

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
    let settings = args.options.settings()?;
    logging::init(settings.log)?;
    for warning in &settings.warnings {
        tracing::warn!("{warning}");
    }
    match daemon::run(settings) {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) => {
            tracing::error!("{error}");
            Ok(ExitCode::from(if error.is_config() { 2 } else { 1 }))
        }
    }
}
