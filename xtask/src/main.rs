//! `cargo xtask`: builds, runs, tests and measures flannel-ctl.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod bench;
mod cargo;
mod lint;
mod load;
mod run;
mod test;
mod tidy;
mod tools;

/// Builds, runs, tests and measures flannel-ctl
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run a whole cluster in network namespaces of this machine until Ctrl-C
    Run(run::Args),
    /// Run the tests, all lanes of them, and install what they need
    Test(test::Args),
    /// Measure
    #[command(subcommand)]
    Bench(bench::Bench),
    /// Load a datapath; `bench datapath` runs this in namespaces
    #[command(subcommand, hide = true)]
    Load(load::Load),
    /// Check formatting, lints, documentation, purity, file lengths and dependencies
    Lint(lint::Args),
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().verb {
        Verb::Run(args) => run::run(&args),
        Verb::Test(args) => test::run(&args),
        Verb::Bench(bench) => bench::run(&bench),
        Verb::Load(load) => load::run(&load),
        Verb::Lint(args) => lint::run(&args),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("xtask: {error:#}");
        ExitCode::FAILURE
    })
}
