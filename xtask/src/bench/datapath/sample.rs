//! All that was measured, and what it comes to: medians, and ratios of runs that stood side by side.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::mode::{Metric, Mode, Quantity, Wire};

/// One run of one load in one mode.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Sample {
    pub(super) wire: Wire,
    /// Runs of the same round and metric are one another's pairs.
    pub(super) round: u32,
    pub(super) metric: Metric,
    pub(super) mode: Mode,
    pub(super) values: BTreeMap<Quantity, f64>,
    /// That the client's pod and its flannel.1 sent, and the server's flannel.1 and pod received; and the way back.
    pub(super) packets: [u64; 8],
    /// Cores that others used meanwhile.
    pub(super) foreign: f64,
    /// Over one minute, at the end.
    pub(super) load_average: f64,
    /// Others used too much while this or a run that it is compared to lasted.
    pub(super) disturbed: bool,
    /// Why it proves nothing about the mode, if so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) void: Option<String>,
}

/// Median, smallest, largest, and how many there were.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Spread {
    pub(super) median: f64,
    pub(super) min: f64,
    pub(super) max: f64,
    pub(super) count: usize,
}

impl Spread {
    /// Of these values; nothing if there are none.
    pub(super) fn of(mut values: Vec<f64>) -> Option<Self> {
        values.retain(|value| value.is_finite());
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median =
            if values.len() % 2 == 1 { values[middle] } else { f64::midpoint(values[middle - 1], values[middle]) };
        Some(Self { median, min, max, count: values.len() })
    }
}

/// What may be concluded from samples: the disturbed and the void ones are left out.
#[derive(Clone, Copy, Debug)]
pub(super) struct Samples<'a>(pub(super) &'a [Sample]);

impl<'a> Samples<'a> {
    fn good(self, wire: Wire, metric: Metric, mode: Mode) -> impl Iterator<Item = &'a Sample> {
        let of = move |sample: &&Sample| sample.wire == wire && sample.metric == metric && sample.mode == mode;
        self.0.iter().filter(of).filter(|sample| sample.void.is_none() && !sample.disturbed)
    }

    pub(super) fn spread(self, wire: Wire, metric: Metric, mode: Mode, quantity: Quantity) -> Option<Spread> {
        Spread::of(self.good(wire, metric, mode).filter_map(|sample| sample.values.get(&quantity).copied()).collect())
    }

    /// The one mode's value over the other's, of each round that has both.
    pub(super) fn ratio(
        self,
        wire: Wire,
        (metric, quantity): (Metric, Quantity),
        of: Mode,
        against: Mode,
    ) -> Option<Spread> {
        self.ratio_of(wire, (metric, of, quantity), (metric, against, quantity))
    }

    /// The same between any two.
    pub(super) fn ratio_of(
        self,
        wire: Wire,
        (metric, mode, quantity): (Metric, Mode, Quantity),
        (to_metric, to_mode, to_quantity): (Metric, Mode, Quantity),
    ) -> Option<Spread> {
        let value = |sample: &Sample, quantity: Quantity| sample.values.get(&quantity).copied();
        let base = self.good(wire, to_metric, to_mode);
        let base: BTreeMap<u32, f64> =
            base.filter_map(|sample| Some((sample.round, value(sample, to_quantity)?))).collect();
        let pairs = self.good(wire, metric, mode);
        Spread::of(pairs.filter_map(|sample| Some(value(sample, quantity)? / base.get(&sample.round)?)).collect())
    }

    /// In the order of their declaration.
    pub(super) fn wires(self) -> BTreeSet<Wire> {
        self.0.iter().map(|sample| sample.wire).collect()
    }

    pub(super) fn metrics(self) -> BTreeSet<Metric> {
        self.0.iter().map(|sample| sample.metric).collect()
    }

    pub(super) fn modes(self) -> BTreeSet<Mode> {
        self.0.iter().map(|sample| sample.mode).collect()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A good sample with this rate.
    pub(in super::super) fn sample(wire: Wire, round: u32, metric: Metric, mode: Mode, rate: f64) -> Sample {
        Sample {
            wire,
            round,
            metric,
            mode,
            values: [(Quantity::Rate, rate)].into(),
            packets: [0; 8],
            foreign: 0.0,
            load_average: 0.0,
            disturbed: false,
            void: None,
        }
    }

    #[test]
    fn ratios_pair_runs_of_one_round_and_leave_out_what_proves_nothing() {
        let of = |round, mode, rate| sample(Wire::Seg, round, Metric::Udp64, mode, rate);
        let mut all = vec![
            of(0, Mode::Vxlan, 100.0),
            of(0, Mode::Ebpf, 240.0),
            of(1, Mode::Vxlan, 50.0),
            of(1, Mode::Ebpf, 100.0),
            of(2, Mode::Ebpf, 900.0), // alone in its round
            of(3, Mode::Vxlan, 1.0),
            of(3, Mode::Ebpf, 77.0),
            of(4, Mode::Vxlan, 1.0),
            of(4, Mode::Ebpf, 99.0),
        ];
        all[5].disturbed = true;
        all[8].void = Some("went another way".into());
        let samples = Samples(&all);
        let what = (Metric::Udp64, Quantity::Rate);
        let ratio = samples.ratio(Wire::Seg, what, Mode::Ebpf, Mode::Vxlan).unwrap();
        let close = |a: f64, b: f64| (a - b).abs() < 1e-9;
        assert!(close(ratio.median, 2.2) && close(ratio.min, 2.0) && close(ratio.max, 2.4) && ratio.count == 2);
        assert_eq!(samples.ratio(Wire::Pass, what, Mode::Ebpf, Mode::Vxlan), None, "nothing measured there");
        let median = samples.spread(Wire::Seg, Metric::Udp64, Mode::Vxlan, Quantity::Rate).unwrap().median;
        assert!(close(median, 50.0), "of 100, 50 and the 1 of round 4: {median}");
    }

    #[test]
    fn the_median_of_an_even_number_lies_between_the_middle_two() {
        let spread = |values: &[f64]| Spread::of(values.to_vec()).map(|spread| spread.median);
        assert_eq!(spread(&[3.0, 1.0, 2.0, 10.0]), Some(2.5));
        assert_eq!(spread(&[3.0, f64::NAN, 1.0, 2.0]), Some(2.0), "what is no number does not count");
        assert_eq!(spread(&[]), None);
    }
}
