//! The datapaths, measured side by side: how fast, at what cost, and by which way.

use std::process::ExitCode;

use anyhow::Result;

mod bars;
mod bars_userspace;
mod chart;
mod client;
mod cpu;
mod document;
mod measure;
mod mode;
mod part;
mod path;
mod rounds;
mod sample;
mod site;
mod study;
mod tables;

use measure::Timing;
use mode::{Metric, Mode, Wire};
use part::{Outcome, Part};
pub(super) use study::Study;

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct DatapathArgs {
    /// Which ways of carrying packets; all of them, unless told otherwise
    #[arg(long, value_delimiter = ',', value_enum)]
    modes: Vec<Mode>,
    /// What joins the nodes
    #[arg(long, value_delimiter = ',', value_enum, default_values = ["pass", "seg"])]
    wire: Vec<Wire>,
    /// Which loads; all of them, unless told otherwise
    #[arg(long, value_delimiter = ',', value_enum)]
    metrics: Vec<Metric>,
    /// How often everything is measured
    #[arg(long, default_value_t = 10)]
    rounds: u32,
    /// How long each run is measured
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// How long each run goes on before that
    #[arg(long, default_value_t = 3.0)]
    warmup: f64,
    /// One round of short runs, disturbed or not: does it work at all?
    #[arg(long)]
    quick: bool,
    /// Cores that others may use before a run counts as disturbed
    #[arg(long, default_value_t = 0.2)]
    disturbed_above: f64,
    /// How often a disturbed run and those that it is compared to are repeated
    #[arg(long, default_value_t = 2)]
    repeat: u32,
    /// What holds the daemons' rules: flannel's own tool by default
    #[arg(long, default_value = "iptables")]
    packet_filter: String,
    /// Shuffles the rounds; the same seed gives the same order
    #[arg(long)]
    seed: Option<u64>,
    /// Only those modes of a load that a bar compares
    #[arg(long)]
    bars: bool,
    /// Write the document, its chart and all runs to docs/benchmarks
    #[arg(long)]
    save: bool,
    /// Keep what is there of other wires and loads
    #[arg(long, requires = "save")]
    add: bool,
    /// Measure with this build, optimised or not
    #[arg(long, hide = true)]
    pub(super) this_build: bool,
    #[arg(skip)]
    pub(super) study: Study,
}

impl DatapathArgs {
    pub(super) fn wants_bpf(&self) -> bool {
        self.modes().iter().any(|mode| mode.needs_bpf())
    }

    pub(super) fn asking(self, study: Study) -> Self {
        Self { study, ..self }
    }

    fn modes(&self) -> Vec<Mode> {
        let mut modes = if self.modes.is_empty() { self.study.modes().to_vec() } else { self.modes.clone() };
        modes.retain(|mode| self.metrics().iter().any(|metric| self.wants(*metric, *mode)));
        modes
    }

    fn wants(&self, metric: Metric, mode: Mode) -> bool {
        !self.bars || self.study.compares(metric, mode)
    }

    fn metrics(&self) -> Vec<Metric> {
        if self.metrics.is_empty() { self.study.metrics().to_vec() } else { self.metrics.clone() }
    }
}

pub(super) fn run(args: &DatapathArgs) -> Result<ExitCode> {
    let mut args = args.clone();
    if args.quick {
        (args.rounds, args.seconds, args.warmup, args.repeat) = (1, 2.0, 1.0, 0);
        args.disturbed_above = f64::INFINITY;
    }
    let timing = Timing { warmup: args.warmup, seconds: args.seconds };
    let seed = args.seed.unwrap_or_else(rand::random);
    let older = if args.add { document::read(args.study)? } else { Outcome::default() };
    let mut outcome = rounds::run(&args, timing, seed)?;
    let void = outcome.samples.iter().any(|sample| sample.void.is_some());
    let lacks =
        |part: &Part| args.modes.iter().any(|mode| part.missing.contains_key(mode)) || part.ended_early.is_some();
    let incomplete = outcome.parts.iter().any(lacks);
    outcome.add(older);
    println!("\n{}", document::numbers(args.study, &outcome));
    if args.save {
        document::save(args.study, &outcome)?;
    }
    Ok(if void || incomplete { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
