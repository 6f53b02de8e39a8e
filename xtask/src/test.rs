//! `cargo xtask test`: every test there is, in lanes by what they need.

mod lanes;
mod runner;

use std::{process::ExitCode, time::Instant};

use anyhow::Result;
use lanes::Lane;
use runner::Tally;

use crate::{
    cargo::{cargo, succeed},
    tools::{self, say},
};

/// More tests of a run than these that pass only when tried again, and it has failed.
const MOST_UNSTEADY: usize = 3;

/// Builds all tests once and runs the lanes: fast (formatting; unit tests), netns (root; network
/// namespaces, etcd), bpf (root; the BPF programs in this kernel), e2e (root; whole clusters through the binary), kernels (emulation). Lane real only
/// runs when it is asked for: it needs programs of others, built by hand.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only this lane; may be repeated
    #[arg(long, value_enum)]
    lane: Vec<Lane>,
    /// Only tests whose name contains this
    #[arg(value_name = "NAME")]
    filter: Option<String>,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let asked = |lane: &Lane| if args.lane.is_empty() { lane.unasked() } else { args.lane.contains(lane) };
    let chosen: Vec<Lane> = Lane::ALL.into_iter().filter(asked).collect();
    let wanted: Vec<_> = chosen.iter().flat_map(|lane| lane.tools()).collect();
    if let Err(error) = tools::ensure(&wanted) {
        // The tests that need it say so one by one, and fail if CI is set.
        eprintln!("xtask: {error:#}");
    }
    say("building the tests and the binary");
    let start = Instant::now();
    let built = lanes::build(&chosen)?;
    say(&format!("built in {:.0} s", start.elapsed().as_secs_f64()));

    let mut total = Tally::default();
    let mut summary = vec![format!("{:8} {:>7} {:>7} {:>8} {:>8}", "LANE", "PASSED", "FAILED", "SKIPPED", "TIME")];
    for lane in &chosen {
        say(&format!("lane {}: {}", lane.name(), lane.about()));
        let start = Instant::now();
        let mut tally = Tally::default();
        if *lane == Lane::Fast && args.filter.is_none() {
            tally.add(&formatting());
        }
        for program in built.programs.iter().filter(|program| program.lane == *lane) {
            tally.add(&runner::run(program, &built.binary, args.filter.as_deref())?);
        }
        summary.push(format!(
            "{:8} {:>7} {:>7} {:>8} {:>6.1} s",
            lane.name(),
            tally.passed,
            tally.failed,
            tally.skipped,
            start.elapsed().as_secs_f64()
        ));
        total.add(&tally);
    }
    println!();
    for name in &total.unsteady {
        println!("UNSTEADY {name}: failed beside others, passed alone");
    }
    for name in &total.failures {
        println!("FAILED   {name}");
    }
    for reason in &total.skips {
        println!("SKIPPED  {reason}");
    }
    println!("\n{}\n", summary.join("\n"));
    let noted = |count: u64, what: &str| if count > 0 { format!(", {count} {what}") } else { String::new() };
    let unsteady = total.unsteady.len();
    let more = noted(total.skipped, "skipped") + &noted(unsteady as u64, "of the passed unsteady");
    println!("{} passed, {} failed{more}", total.passed, total.failed);
    if unsteady > MOST_UNSTEADY {
        println!("more than {MOST_UNSTEADY} unsteady tests are no hiccup: this run has failed");
    }
    Ok(if total.failed == 0 && unsteady <= MOST_UNSTEADY { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn formatting() -> Tally {
    match succeed(cargo().args(["fmt", "--all", "--", "--check"]), "cargo fmt --check") {
        Ok(()) => Tally { passed: 1, ..Tally::default() },
        Err(_) => Tally { failed: 1, failures: vec!["cargo fmt --all -- --check".into()], ..Tally::default() },
    }
}
