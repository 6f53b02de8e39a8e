//! `flannel-ctl man`.

use std::{fs, path::PathBuf, process::ExitCode};

use anyhow::Context;
use clap::CommandFactory;

use super::Cli;

/// Arguments of `man`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Directory to write flannel-ctl.1 and one page per verb into; made if absent
    pub dir: PathBuf,
}

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    fs::create_dir_all(&args.dir).with_context(|| format!("make {}", args.dir.display()))?;
    clap_mangen::generate_to(Cli::command(), &args.dir)
        .with_context(|| format!("write man pages into {}", args.dir.display()))?;
    Ok(ExitCode::SUCCESS)
}
