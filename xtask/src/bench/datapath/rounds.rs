//! Rounds: every load in every mode, in an order that favours none.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use anyhow::{Context as _, Result, ensure};
use rand::{SeedableRng as _, rngs::StdRng, seq::SliceRandom as _};
use xtask::lab::wait;

use super::{
    DatapathArgs,
    measure::{Measured, Timing, measure},
    mode::{Metric, Mode, SiteKind, Wire},
    part::{Outcome, Part},
    path::Counters,
    sample::Sample,
    site::Site,
};

pub(super) fn run(args: &DatapathArgs, timing: Timing, seed: u64) -> Result<Outcome> {
    println!("seed {seed}");
    let part = Part {
        covers: BTreeSet::new(),
        timing,
        rounds: args.rounds,
        seed,
        disturbed_above: args.disturbed_above,
        packet_filter: args.packet_filter.clone(),
        repeated: 0,
        congestion: None,
        missing: BTreeMap::new(),
        ended_early: None,
    };
    let random = StdRng::seed_from_u64(seed);
    let mut bench = Bench { args, random, part, samples: Vec::new(), own_counters: Vec::new() };
    let mut modes = args.modes();
    for &wire in &args.wire {
        let outcome = bench.wire(wire, &mut modes);
        // What has been measured until then is not lost.
        if let Err(error) = outcome {
            if bench.samples.is_empty() {
                return Err(error);
            }
            eprintln!("bench: ended early: {error:#}");
            bench.part.ended_early = Some(shortened(&format!("{error:#}")));
            break;
        }
    }
    bench.part.covers = bench.samples.iter().map(|sample| (sample.wire, sample.metric)).collect();
    Ok(Outcome { parts: vec![bench.part], own_counters: bench.own_counters, samples: bench.samples })
}

struct Bench<'a> {
    args: &'a DatapathArgs,
    random: StdRng,
    part: Part,
    samples: Vec<Sample>,
    own_counters: Vec<serde_json::Value>,
}

impl Bench<'_> {
    fn wire(&mut self, wire: Wire, modes: &mut Vec<Mode>) -> Result<()> {
        let sites = self.build(wire, modes)?;
        ensure!(!modes.is_empty(), "none of the modes is available");
        let outcome = self.rounds(wire, modes, &sites);
        for kind in [SiteKind::Ebpf, SiteKind::EbpfOff] {
            self.own_counters.extend(sites.get(&kind).and_then(Site::own_counters).into_iter().flatten());
        }
        outcome
    }

    /// A site for every mode; a mode whose site this build does not have is left out.
    fn build(&mut self, wire: Wire, modes: &mut Vec<Mode>) -> Result<BTreeMap<SiteKind, Site>> {
        let mut sites = BTreeMap::new();
        for mode in modes.clone() {
            if sites.contains_key(&mode.site()) || self.part.missing.contains_key(&mode) {
                continue;
            }
            match Site::build(mode.site(), wire, &self.args.packet_filter) {
                Ok(site) => drop(sites.insert(mode.site(), site)),
                Err(error) if mode.needs_bpf() && !wait::interrupted() => {
                    let reason = shortened(&format!("{error:#}"));
                    for lost in modes.iter().filter(|other| other.site() == mode.site()) {
                        println!("SKIPPED: {}: not available: {reason}", lost.title());
                        self.part.missing.insert(*lost, reason.clone());
                    }
                }
                Err(error) => return Err(error.context(format!("building the nodes for {}", mode.title()))),
            }
        }
        modes.retain(|mode| !self.part.missing.contains_key(mode));
        Ok(sites)
    }

    fn rounds(&mut self, wire: Wire, modes: &[Mode], sites: &BTreeMap<SiteKind, Site>) -> Result<()> {
        for round in 0..self.args.rounds {
            let mut metrics = self.args.metrics();
            metrics.shuffle(&mut self.random);
            for metric in metrics {
                self.side_by_side(wire, round, metric, modes, sites)?;
            }
        }
        Ok(())
    }

    /// One load in all modes, right after one another; again if somebody else was at work.
    fn side_by_side(
        &mut self,
        wire: Wire,
        round: u32,
        metric: Metric,
        modes: &[Mode],
        sites: &BTreeMap<SiteKind, Site>,
    ) -> Result<()> {
        let mut modes: Vec<Mode> = modes.iter().copied().filter(|mode| self.args.wants(metric, *mode)).collect();
        for attempt in 0..=self.args.repeat {
            modes.shuffle(&mut self.random);
            let mut group = Vec::new();
            for &mode in &modes {
                let site = sites.get(&mode.site()).context("a mode without nodes")?;
                group.push(self.sample(site, wire, round, metric, mode)?);
            }
            let disturbed = group.iter().any(|sample| sample.foreign > self.args.disturbed_above);
            if disturbed && attempt < self.args.repeat {
                self.part.repeated += group.len();
                continue;
            }
            group.iter_mut().for_each(|sample| sample.disturbed = disturbed);
            self.samples.extend(group);
            break;
        }
        Ok(())
    }

    fn sample(&mut self, site: &Site, wire: Wire, round: u32, metric: Metric, mode: Mode) -> Result<Sample> {
        ensure!(!wait::interrupted(), "interrupted");
        let (values, counters, foreign, void) = match measure(site, mode, metric, self.part.timing) {
            Ok(Measured { values, counters, usage, void, congestion }) => {
                self.part.congestion = congestion.or(self.part.congestion.take());
                (values, counters, usage.foreign, void)
            }
            Err(error) => (BTreeMap::new(), Counters::default(), 0.0, Some(format!("{error:#}"))),
        };
        let load_average = fs::read_to_string("/proc/loadavg")?.split(' ').next().unwrap_or_default().parse()?;
        let rate = values.get(&super::mode::Quantity::Rate).copied().unwrap_or(f64::NAN);
        println!(
            "{wire:?} {}/{}  {:32} {:24} {rate:>12.2} {:8} others {foreign:.2}{}",
            round + 1,
            self.args.rounds,
            metric.title(),
            mode.title(),
            metric.unit(),
            void.as_deref().map_or_else(String::new, |why| format!("  VOID: {why}")),
        );
        let values =
            values.into_iter().map(|(quantity, value)| (quantity, (value * 1000.0).round() / 1000.0)).collect();
        let packets = counters.packets();
        Ok(Sample { wire, round, metric, mode, values, packets, foreign, load_average, disturbed: false, void })
    }
}

/// The first line, and the last that speaks of an error, or else the last: what failed, and what the daemon said.
fn shortened(text: &str) -> String {
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let first = lines.next().unwrap_or_default().to_owned();
    let rest: Vec<&str> = lines.collect();
    let telling = rest.iter().rfind(|line| line.to_lowercase().contains("error")).or(rest.last());
    telling.map_or(first.clone(), |line| format!("{first} {line}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_long_complaint_the_telling_lines_stay() {
        let usage = "the daemon ended:\nerror: unexpected argument '--x' found\n\n  tip: ask\n\nUsage: flannel-ctl\n";
        assert_eq!(shortened(usage), "the daemon ended: error: unexpected argument '--x' found");
        assert_eq!(shortened("waited in vain:\nstarting\nstill starting\n"), "waited in vain: still starting");
        assert_eq!(shortened("one line"), "one line");
    }
}
