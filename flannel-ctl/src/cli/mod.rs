//! Arguments and output, one file per verb.

pub mod check;
pub mod cleanup;
pub mod completions;
pub mod config;
pub mod counters;
mod fast_path;
pub mod flows;
pub mod invocation;
pub mod leases;
pub mod logging;
pub mod man;
pub mod peers;
pub mod plan;
pub mod run;
pub mod run_args;
pub mod status;
pub mod store;
mod store_session;
pub mod trace;
mod userspace;
pub mod version;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// A container overlay network that flannel's users can switch to
///
/// Called by the name flanneld it takes flannel's command line in Go's spelling: see
/// `flanneld -help`.
#[derive(Debug, Parser)]
#[command(name = "flannel-ctl", version, propagate_version = false, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    pub verb: Verb,
}

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Run the node agent
    #[command(after_help = run::AFTER_HELP, next_line_help = true)]
    Run(run::Args),
    /// Show how the running agent is doing
    Status(status::Args),
    /// List the other nodes
    Peers(peers::Args),
    /// List the flows that the BPF fast path knows, or why one is not fast
    #[command(after_help = flows::AFTER_HELP)]
    Flows(flows::Args),
    /// Show what the BPF fast path decided over packets, and why
    #[command(after_help = counters::AFTER_HELP)]
    Counters(counters::Args),
    /// Tell of chosen packets: which BPF program saw them, and what it decided
    #[command(after_help = trace::AFTER_HELP)]
    Trace(trace::Args),
    /// Print what `run` would change in the kernel; change nothing
    #[command(after_help = plan::AFTER_HELP, next_line_help = true)]
    Plan(plan::Args),
    /// Say whether this node can run the agent, with which datapath, and why
    #[command(after_help = check::AFTER_HELP, next_line_help = true)]
    Check(check::Args),
    /// Show, validate or publish the network config
    Config(config::Args),
    /// List, reserve or release subnets
    Leases(leases::Args),
    /// Remove everything of ours from the kernel
    #[command(after_help = cleanup::AFTER_HELP, next_line_help = true)]
    Cleanup(cleanup::Args),
    /// Run the embedded single-node store
    Store(store::Args),
    /// Print the version
    Version(version::Args),
    /// Print a shell's completion script
    #[command(hide = true)]
    Completions(completions::Args),
    /// Write the man pages
    #[command(hide = true)]
    Man(man::Args),
}

/// Runs the verb; its error is printed by `main`.
pub fn dispatch(cli: &Cli) -> anyhow::Result<ExitCode> {
    match &cli.verb {
        Verb::Run(args) => run::run(args),
        Verb::Status(args) => status::run(args),
        Verb::Peers(args) => peers::run(args),
        Verb::Flows(args) => flows::run(args),
        Verb::Counters(args) => counters::run(args),
        Verb::Trace(args) => trace::run(args),
        Verb::Plan(args) => plan::run(args),
        Verb::Check(args) => check::run(args),
        Verb::Config(args) => config::run(args),
        Verb::Leases(args) => leases::run(args),
        Verb::Cleanup(args) => cleanup::run(args),
        Verb::Store(args) => store::run(args),
        Verb::Version(args) => version::run(args),
        Verb::Completions(args) => completions::run(args),
        Verb::Man(args) => man::run(args),
    }
}
