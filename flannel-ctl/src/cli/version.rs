//! `flannel-ctl version`.

use std::process::ExitCode;

use serde::Serialize;

use crate::{
    kernel::fastpath,
    output::{self, OutputArgs, Table},
};

/// Arguments of `version`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub output: OutputArgs,
}

/// What this binary is. Field names are for ever.
#[derive(Debug, Serialize)]
struct Build {
    version: &'static str,
    /// Set in the environment of the build by packaging.
    commit: Option<&'static str>,
    architecture: &'static str,
    bpf: bool,
}

const BUILD: Build = Build {
    version: env!("CARGO_PKG_VERSION"),
    commit: option_env!("FLANNEL_COMMIT"),
    architecture: std::env::consts::ARCH,
    bpf: fastpath::EMBEDDED,
};

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    output::print(args.output.output, &BUILD, |build| {
        let mut table = Table::plain();
        table.row(["version".into(), build.version.into()]);
        table.row(["commit".into(), build.commit.unwrap_or("unknown").into()]);
        table.row(["architecture".into(), build.architecture.into()]);
        let bpf =
            if build.bpf { "embedded" } else { "not embedded: built with FLANNEL_BPF=stub, or tools were missing" };
        table.row(["BPF programs".into(), bpf.into()]);
        table.render()
    })?;
    Ok(ExitCode::SUCCESS)
}

/// What `flanneld -version` prints: one word with a `v`, as scripts expect it.
pub fn as_flanneld() -> String {
    format!("v{}", BUILD.version)
}
