//! The document, the chart and the raw data.

use std::{collections::BTreeMap, fs, process::Command};

use anyhow::{Context as _, Result};
use serde::Serialize;
use xtask::lab::run;

use super::{
    chart,
    cpu::{CLIENT, SERVER},
    measure::Timing,
    mode::{Mode, Wire},
    part::{Outcome, Part},
    sample::Sample,
    study::Study,
    tables,
};
use crate::cargo::root;

#[derive(Serialize)]
struct Data<'a> {
    machine: Machine,
    #[serde(flatten)]
    outcome: &'a Outcome,
}

#[derive(Serialize)]
struct Machine {
    processor: String,
    processors: usize,
    kernel: String,
    iperf3: String,
    load_average: String,
}

impl Machine {
    fn read() -> Result<Self> {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo")?;
        let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
        let iperf3 = run(Command::new("iperf3").arg("--version"))?;
        Ok(Self {
            processor: model.map_or_else(|| "unknown".into(), |(_, name)| name.trim().to_owned()),
            processors: std::thread::available_parallelism()?.get(),
            kernel: run(Command::new("uname").arg("-r"))?.trim().to_owned(),
            iperf3: iperf3.lines().next().unwrap_or_default().to_owned(),
            load_average: fs::read_to_string("/proc/loadavg")?.split(' ').take(3).collect::<Vec<_>>().join(" "),
        })
    }
}

/// How it went and all tables.
pub(super) fn numbers(study: Study, outcome: &Outcome) -> String {
    let mut text = conduct(outcome) + "\n";
    for wire in outcome.samples().wires() {
        text += &tables::wire(study, outcome.samples(), wire);
        text.push('\n');
    }
    text
}

/// What was left out, and why.
fn conduct(outcome: &Outcome) -> String {
    let mut text: String = outcome.parts.iter().map(|part| part_conduct(outcome, part)).collect();
    let mut void: BTreeMap<Mode, Vec<(&Sample, &str)>> = BTreeMap::new();
    for sample in &outcome.samples {
        if let Some(why) = &sample.void {
            void.entry(sample.mode).or_default().push((sample, why));
        }
    }
    text.extend(void.into_iter().map(|(mode, runs)| {
        let (first, why) = runs[0];
        let (metric, wire, round) = (first.metric.title(), first.wire.title(), first.round + 1);
        let (count, mode) = (runs.len(), mode.title());
        format!("\n**Void: {count} runs of {mode}**, the first of them {metric}, {wire}, round {round}: {why}\n")
    }));
    text
}

fn part_conduct(outcome: &Outcome, part: &Part) -> String {
    let Timing { warmup, seconds } = part.timing;
    let own = |sample: &&Sample| part.covers.contains(&(sample.wire, sample.metric));
    let count = |which: fn(&Sample) -> bool| outcome.samples.iter().filter(own).filter(|sample| which(sample)).count();
    let mut covered: BTreeMap<Wire, Vec<&str>> = BTreeMap::new();
    for (wire, metric) in &part.covers {
        covered.entry(*wire).or_default().push(metric.title());
    }
    let covered: Vec<_> =
        covered.into_iter().map(|(wire, metrics)| format!("{wire:?} ({})", metrics.join("; "))).collect();
    let mut text = format!(
        "- {}: {} rounds of {warmup} s warm-up and {seconds} s measured (TCP streams: whole seconds, rounded up), seed {}; rules held by {}; \
         TCP streams with {}; client on core {CLIENT}, server on core {SERVER}. {} runs, {} more repeated because of others' work (more than \
         {} cores), {} left out because that did not help, {} void.\n",
        covered.join(", "),
        part.rounds,
        part.seed,
        part.packet_filter,
        part.congestion.as_deref().unwrap_or("a congestion control that iperf3 does not tell"),
        count(|_| true),
        part.repeated,
        part.disturbed_above,
        count(|sample| sample.disturbed),
        count(|sample| sample.void.is_some()),
    );
    text.extend(part.ended_early.iter().map(|why| format!("\n**Ended early**: {why}\n")));
    let missing = part.missing.iter();
    text.extend(missing.map(|(mode, reason)| format!("\n**Not available: {}**: {reason}\n", mode.title())));
    text
}

/// What an earlier run has saved.
pub(super) fn read(study: Study) -> Result<Outcome> {
    let path = root().join(format!("docs/benchmarks/{}.json", study.document()));
    let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    serde_json::from_str(&text)
        .with_context(|| format!("{} was written by another version: save without --add first", path.display()))
}

/// Writes the study's three files in `docs/benchmarks`.
pub(super) fn save(study: Study, outcome: &Outcome) -> Result<()> {
    let name = study.document();
    let dir = root().join("docs/benchmarks");
    fs::create_dir_all(&dir).context("creating docs/benchmarks")?;
    let machine = Machine::read()?;
    let text = format!(
        "{}\n## Conduct\n\n{} processors of model {}, kernel {}, {}; load average at the end {}.\n\n{}",
        study.method(),
        machine.processors,
        machine.processor,
        machine.kernel,
        machine.iperf3,
        machine.load_average,
        numbers(study, outcome)
    );
    let data = Data { machine, outcome };
    fs::write(dir.join(format!("{name}.md")), text.trim_end().to_owned() + "\n")?;
    fs::write(dir.join(format!("{name}.json")), serde_json::to_string(&data)? + "\n")?;
    fs::write(dir.join(format!("{name}.svg")), chart::render(outcome.samples()))?;
    println!("written: docs/benchmarks/{name}.md, .json, .svg");
    Ok(())
}
