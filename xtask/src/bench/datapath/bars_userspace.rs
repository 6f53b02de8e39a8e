//! What the userspace datapath has to reach.

use super::{
    bars::Verdict,
    mode::{
        Metric::{self, Stream1, Stream4, TcpRr1, Udp64},
        Mode::{self, Blocking, Userspace, Vxlan},
        Quantity::{self, PerCore, Rate, Resident},
        Wire,
    },
    sample::{Samples, Spread},
};

/// A quantity of one load in one mode.
type Term = (Metric, Mode, Quantity);

/// What is compared, to what (nothing: as it is), and what it has to be at least, or at most.
struct Bar {
    name: &'static str,
    of: Term,
    to: Option<Term>,
    wanted: Wanted,
}

#[derive(Clone, Copy)]
enum Wanted {
    AtLeast(f64),
    AtMost(f64),
    /// Says what the machine allows.
    Nothing,
}

const BARS: [Bar; 7] = [
    Bar {
        name: "one TCP stream, to kernel VXLAN",
        of: (Stream1, Userspace, Rate),
        to: Some((Stream1, Vxlan, Rate)),
        wanted: Wanted::AtLeast(0.65),
    },
    Bar {
        name: "one TCP stream, to the blocking loop",
        of: (Stream1, Userspace, Rate),
        to: Some((Stream1, Blocking, Rate)),
        wanted: Wanted::AtLeast(8.0),
    },
    Bar {
        name: "TCP request/response, to the blocking loop",
        of: (TcpRr1, Userspace, Rate),
        to: Some((TcpRr1, Blocking, Rate)),
        wanted: Wanted::AtLeast(1.5),
    },
    Bar {
        name: "64-byte packets per core, to the blocking loop",
        of: (Udp64, Userspace, PerCore),
        to: Some((Udp64, Blocking, PerCore)),
        wanted: Wanted::AtLeast(3.0),
    },
    Bar {
        name: "4 streams of 1 stream",
        of: (Stream4, Userspace, Rate),
        to: Some((Stream1, Userspace, Rate)),
        wanted: Wanted::AtLeast(2.5),
    },
    Bar {
        name: "4 streams of 1 stream, of kernel VXLAN on the same cores",
        of: (Stream4, Vxlan, Rate),
        to: Some((Stream1, Vxlan, Rate)),
        wanted: Wanted::Nothing,
    },
    Bar {
        name: "resident memory under load, MB",
        of: (Stream4, Userspace, Resident),
        to: None,
        wanted: Wanted::AtMost(64.0),
    },
];

/// Every bar of this wire. A bar counts as reached by the median.
pub(super) fn judge(samples: Samples<'_>, wire: Wire) -> Vec<Verdict> {
    BARS.iter().map(|bar| verdict(bar, samples, wire)).collect()
}

/// Whether some bar looks at this load in this mode.
pub(super) fn compare(metric: Metric, mode: Mode) -> bool {
    let looks = |term: &Term| (term.0, term.1) == (metric, mode);
    BARS.iter().any(|bar| looks(&bar.of) || bar.to.as_ref().is_some_and(looks))
}

fn verdict(bar: &Bar, samples: Samples<'_>, wire: Wire) -> Verdict {
    let got = match bar.to {
        Some(to) => samples.ratio_of(wire, bar.of, to),
        None => samples.spread(wire, bar.of.0, bar.of.1, bar.of.2),
    };
    let reached = |spread: Spread| match bar.wanted {
        Wanted::AtLeast(least) => spread.median >= least,
        Wanted::AtMost(most) => spread.median <= most,
        Wanted::Nothing => true,
    };
    let wanted = match bar.wanted {
        Wanted::AtLeast(value) => format!("≥ {value:.2}"),
        Wanted::AtMost(value) => format!("≤ {value:.2}"),
        Wanted::Nothing => "-".into(),
    };
    Verdict {
        name: bar.name.into(),
        wanted,
        got: got.map(|spread| (spread, bar.of.0)),
        reached: got.is_some_and(reached),
        several: false,
    }
}

#[cfg(test)]
mod tests {
    use super::{super::sample::tests::sample, *};

    #[test]
    fn bars_compare_loads_and_modes_of_one_round() {
        let of = |round, metric, mode, rate| sample(Wire::Pass, round, metric, mode, rate);
        let all = [
            of(0, Stream1, Vxlan, 10.0),
            of(0, Stream1, Userspace, 7.0),
            of(0, Stream4, Userspace, 14.0),
            of(0, Stream1, Blocking, 0.7),
            of(1, Stream4, Userspace, 700.0),
        ];
        let verdicts = judge(Samples(&all), Wire::Pass);
        let named = |name: &str| verdicts.iter().find(|verdict| verdict.name == name).unwrap();
        assert!(named("one TCP stream, to kernel VXLAN").reached);
        assert!(named("one TCP stream, to the blocking loop").reached);
        let four = named("4 streams of 1 stream");
        assert!(!four.reached && (four.got.unwrap().0.median - 2.0).abs() < 1e-9, "{four:?}");
        assert!(named("resident memory under load, MB").got.is_none(), "not measured");
        assert!(compare(Udp64, Blocking) && !compare(TcpRr1, Vxlan));
    }
}
