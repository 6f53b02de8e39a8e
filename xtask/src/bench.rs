//! `cargo xtask bench`: how long, how much.
//!
//! Measuring needs an etcd client and an optimised build, which no other verb does: the verb builds xtask
//! again, in release mode with the feature `bench`, and hands over to that.

use std::process::ExitCode;

use anyhow::Result;
use clap::Subcommand;
use xtask::lab::StoreKind;

use datapath::Study;

use crate::{
    cargo::{cargo, root, succeed, target},
    tools::{self, Tool, say},
};

#[cfg(feature = "bench")]
mod control;
mod datapath;
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
    /// The datapaths side by side: rates, latencies, CPU
    Datapath(datapath::DatapathArgs),
    /// The userspace datapath beside kernel VXLAN, itself with one packet a call, and a blocking loop as flannel's
    Userspace(datapath::DatapathArgs),
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
    /// Seconds of doing nothing, in which a sweep comes round; only with the largest number of leases
    #[arg(long, default_value_t = 60)]
    idle: u64,
    /// Everything once and small: does it work at all?
    #[arg(long)]
    quick: bool,
    /// Write docs/benchmarks/control.md and control.json
    #[arg(long)]
    save: bool,
}

pub(crate) fn run(bench: &Bench) -> Result<ExitCode> {
    match bench {
        Bench::Control(args) => control(args),
        Bench::Datapath(args) => study(args),
        Bench::Userspace(args) => study(&args.clone().asking(Study::Userspace)),
    }
}

fn study(args: &datapath::DatapathArgs) -> Result<ExitCode> {
    if cfg!(feature = "bench") || args.this_build {
        return datapath::run(args);
    }
    let mut wanted = vec![
        Tool::Program("ip", "iproute2"),
        Tool::Program("nft", "nftables"),
        Tool::Program("iptables", "iptables"),
        Tool::Program("ethtool", "ethtool"),
        Tool::Program("iperf3", "iperf3"),
    ];
    if args.wants_bpf() {
        wanted.extend(tools::BPF);
    }
    hand_over(&wanted)
}

#[cfg(feature = "bench")]
fn control(args: &ControlArgs) -> Result<ExitCode> {
    control::run(args)
}

#[cfg(not(feature = "bench"))]
fn control(args: &ControlArgs) -> Result<ExitCode> {
    let mut wanted = vec![Tool::Program("ip", "iproute2"), Tool::Program("nft", "nftables")];
    if args.stores.contains(&StoreKind::Etcd) {
        wanted.push(Tool::Program("etcd", "etcd-server"));
    }
    hand_over(&wanted)
}

/// Builds both programs optimised and runs the same verb there.
fn hand_over(wanted: &[Tool]) -> Result<ExitCode> {
    tools::ensure(wanted)?;
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
