//! The numbers as a table, a document and data.

use std::{fs, process::Command};

use anyhow::{Context as _, Result};
use serde::Serialize;

use super::samples::{Measure, Outcome};
use crate::cargo::root;

const METHOD: &str = include_str!("method.md");

#[derive(Serialize)]
struct Data<'a> {
    processor: String,
    processors: usize,
    kernel: String,
    load_average: String,
    outcomes: &'a [Outcome],
}

/// One setup for a terminal or a document.
pub(super) fn table(outcome: &Outcome) -> String {
    let setup = &outcome.setup;
    let mut text = format!("### {} leases, store: {}, guard: {}\n\n", setup.leases, setup.store, setup.guard);
    text.push_str("| what | median | p99 | unit | samples | bar |\n| --- | ---: | ---: | --- | ---: | --- |\n");
    for measure in &outcome.measures {
        let bar = verdict(measure);
        let (median, p99) = (number(measure.median()), number(measure.quantile(0.99)));
        let (name, unit, samples) = (&measure.name, measure.unit, measure.samples.len());
        text.extend([
            "| ",
            name,
            " | ",
            &median,
            " | ",
            &p99,
            " | ",
            unit,
            " | ",
            &samples.to_string(),
            " | ",
            &bar,
            " |\n",
        ]);
    }
    text
}

/// Writes `docs/benchmarks/control.md` and `.json`.
pub(super) fn save(outcomes: &[Outcome]) -> Result<()> {
    let dir = root().join("docs/benchmarks");
    fs::create_dir_all(&dir).context("creating docs/benchmarks")?;
    let cpuinfo = fs::read_to_string("/proc/cpuinfo")?;
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    let data = Data {
        processor: model.map_or_else(|| "unknown".into(), |(_, name)| name.trim().to_owned()),
        processors: std::thread::available_parallelism()?.get(),
        kernel: xtask::lab::run(Command::new("uname").arg("-r"))?.trim().to_owned(),
        load_average: fs::read_to_string("/proc/loadavg")?.split(' ').take(3).collect::<Vec<_>>().join(" "),
        outcomes,
    };
    let mut text = METHOD.to_owned();
    let machine = format!(
        "\n## Numbers\n\n{} processors of model {}, kernel {}; load average at the end {}.\n\n",
        data.processors, data.processor, data.kernel, data.load_average
    );
    text.push_str(&machine);
    for outcome in outcomes {
        text.push_str(&table(outcome));
        text.push('\n');
    }
    fs::write(dir.join("control.md"), text.trim_end().to_owned() + "\n")?;
    fs::write(dir.join("control.json"), serde_json::to_string(&data)? + "\n")?;
    println!("written: docs/benchmarks/control.md, docs/benchmarks/control.json");
    Ok(())
}

fn verdict(measure: &Measure) -> String {
    match measure.bar {
        Some(bar) if measure.median() <= bar => format!("{bar}, reached"),
        Some(bar) => format!("{bar}, MISSED"),
        None => String::new(),
    }
}

fn number(value: f64) -> String {
    match value {
        _ if value.is_nan() => "-".into(),
        _ if value.abs() < 10.0 => format!("{value:.2}"),
        _ if value.abs() < 100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}
