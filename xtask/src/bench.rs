//! `cargo xtask bench`: how long, how much.
//!
//! Measuring needs an etcd client and an optimised build, which no other verb does: the verb builds xtask
//! again, in release mode with the feature `bench`, and hands over to that.

use std::process::ExitCode;

use anyhow::Result;
use clap::Subcommand;
use xtask::lab::StoreKind;

#[cfg(feature = "bench")]
mod control;
#[cfg(feature = "bench")]
mod leases;
#[cfg(feature = "bench")]
mod notices;
#[cfg(feature = "bench")]
mod paper;
#[cfg(feature = "bench")]
mod samples;
#[cfg(feature = "bench")]
mod storm;
#[cfg(feature = "bench")]
mod usage;

/// What to measure.
#[derive(Debug, Subcommand)]
pub(crate) enum Bench {
    /// The control plane: from leases in the store to routes in the kernel, and what it costs
    Control(ControlArgs),
}

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ControlArgs {
    /// How many leases of others
    #[arg(long, value_delimiter = ',', default_value = "1000,5000,10000")]
    leases: Vec<usize>,
    /// Which stores
    #[arg(long, value_delimiter = ',', default_value = "etcd,embedded")]
    stores: Vec<StoreKind>,
    /// The guard against strangers' tunnel packets
    #[arg(long, value_delimiter = ',', default_value = "drop,off")]
    guards: Vec<String>,
    /// How often each thing is measured
    #[arg(long, default_value_t = 20)]
    samples: usize,
    /// Changes a second of the storm, which lasts 10 s
    #[arg(long, default_value_t = 1000)]
    storm: u32,
    /// Seconds of doing nothing; only with the largest number of leases
    #[arg(long, default_value_t = 30)]
    idle: u64,
    /// Everything once and small: does it work at all?
    #[arg(long)]
    quick: bool,
    /// Write docs/benchmarks/control.md and control.json
    #[arg(long)]
    save: bool,
}

#[cfg(feature = "bench")]
pub(crate) fn run(bench: &Bench) -> Result<ExitCode> {
    match bench {
        Bench::Control(args) => control::run(args),
    }
}

#[cfg(not(feature = "bench"))]
pub(crate) fn run(bench: &Bench) -> Result<ExitCode> {
    use crate::{
        cargo::{cargo, root, succeed, target},
        tools::{self, Tool, say},
    };
    let Bench::Control(args) = bench;
    let mut wanted = vec![Tool::Program("ip", "iproute2"), Tool::Program("nft", "nftables")];
    if args.stores.contains(&StoreKind::Etcd) {
        wanted.push(Tool::Program("etcd", "etcd-server"));
    }
    tools::ensure(&wanted)?;
    say("building flannel-ctl and the benchmark in release mode");
    // One invocation for both, so that they share their dependencies.
    let build = ["build", "--quiet", "--release", "--package", "flannel-ctl", "--package", "xtask"];
    succeed(
        cargo().args(build).args(["--features", "xtask/bench", "--bins"]),
        "building flannel-ctl and the benchmark",
    )?;
    let binary = std::env::var_os("FLANNEL_CTL_BIN").map_or_else(|| target().join("release/flannel-ctl"), Into::into);
    let status = std::process::Command::new(target().join("release/xtask"))
        .args(std::env::args_os().skip(1))
        .env("FLANNEL_CTL_BIN", binary)
        .current_dir(root())
        .status()?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
