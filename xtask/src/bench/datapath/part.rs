//! How a run of the benchmark was conducted; several of them make one document.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{
    measure::Timing,
    mode::{Metric, Mode, Wire},
    sample::{Sample, Samples},
};

/// One run: what it covers, and what one has to know about it.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Part {
    pub(super) covers: BTreeSet<(Wire, Metric)>,
    pub(super) timing: Timing,
    pub(super) rounds: u32,
    pub(super) seed: u64,
    pub(super) disturbed_above: f64,
    pub(super) packet_filter: String,
    /// Repetitions of disturbed runs, which are not among the samples.
    pub(super) repeated: usize,
    /// As iperf3 says.
    pub(super) congestion: Option<String>,
    /// Modes that this build or machine does not have, and why.
    pub(super) missing: BTreeMap<Mode, String>,
    /// Why there are fewer rounds than that, if so.
    pub(super) ended_early: Option<String>,
}

/// All that was measured.
#[derive(Debug, Default, Deserialize, Serialize)]
pub(super) struct Outcome {
    pub(super) parts: Vec<Part>,
    /// What the fast path's daemons had counted at the end of each wire, where they count.
    pub(super) own_counters: Vec<serde_json::Value>,
    pub(super) samples: Vec<Sample>,
}

impl Outcome {
    pub(super) fn samples(&self) -> Samples<'_> {
        Samples(&self.samples)
    }

    /// Takes over what an older outcome has of other wires and loads. Runs of two outcomes are never one another's pairs.
    pub(super) fn add(&mut self, mut older: Self) {
        let covered: BTreeSet<_> = self.parts.iter().flat_map(|part| part.covers.iter().copied()).collect();
        older.samples.retain(|sample| !covered.contains(&(sample.wire, sample.metric)));
        for part in &mut older.parts {
            part.covers.retain(|what| !covered.contains(what));
        }
        older.parts.retain(|part| !part.covers.is_empty());
        self.parts.splice(0..0, older.parts);
        self.own_counters.splice(0..0, older.own_counters);
        self.samples.splice(0..0, older.samples);
    }
}

#[cfg(test)]
mod tests {
    use super::{super::sample::tests::sample, *};

    fn outcome(wire: Wire, metrics: &[Metric], rate: f64) -> Outcome {
        let part = Part {
            covers: metrics.iter().map(|metric| (wire, *metric)).collect(),
            timing: Timing { warmup: 0.0, seconds: 0.5 },
            rounds: 1,
            seed: 7,
            disturbed_above: 0.2,
            packet_filter: "iptables".into(),
            repeated: 0,
            congestion: None,
            missing: BTreeMap::new(),
            ended_early: None,
        };
        let samples = metrics.iter().map(|metric| sample(wire, 0, *metric, Mode::Ebpf, rate)).collect();
        Outcome { parts: vec![part], own_counters: Vec::new(), samples }
    }

    #[test]
    fn what_is_measured_again_replaces_what_was_there_and_nothing_else() {
        let mut new = outcome(Wire::Seg, &[Metric::Udp64, Metric::Crr], 2.0);
        new.add(outcome(Wire::Seg, &[Metric::Udp64, Metric::TcpRr1], 1.0));
        new.add(outcome(Wire::Pass, &[Metric::Udp64], 3.0));
        let got: BTreeSet<_> = new.samples.iter().map(|one| (one.wire, one.metric, one.values.len())).collect();
        assert_eq!(got.len(), 4, "{got:?}");
        let rate = |wire, metric| {
            let mut found = new.samples.iter().filter(|one| one.wire == wire && one.metric == metric);
            found.next().and_then(|one| one.values.values().next().copied())
        };
        assert_eq!(rate(Wire::Seg, Metric::Udp64), Some(2.0));
        assert_eq!(rate(Wire::Seg, Metric::TcpRr1), Some(1.0));
        assert_eq!(rate(Wire::Pass, Metric::Udp64), Some(3.0));
        assert_eq!(new.parts.len(), 3);
        let mut again = outcome(Wire::Seg, &[Metric::Udp64, Metric::TcpRr1, Metric::Crr], 4.0);
        again.add(new);
        assert_eq!((again.parts.len(), again.samples.len()), (2, 4), "parts of which nothing is left are gone");
    }
}
