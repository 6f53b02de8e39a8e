//! What the fast path has to reach, as ratios of runs on one machine.

use super::{
    mode::{
        Metric::{self, Crr, Stream1, TcpRr1, TcpRr32, Udp64, UdpRr1, UdpRr32},
        Mode,
        Quantity::{self, KernelCost, P99, Rate},
        Wire,
    },
    sample::{Samples, Spread},
};

/// What counts as reached.
#[derive(Clone, Copy, Debug)]
enum Sense {
    AtLeast,
    AtMost,
    /// No further from 1 than that.
    Within,
}

/// A ratio that has a bar; the worst of `what` counts.
#[derive(Debug)]
struct Bar {
    name: &'static str,
    of: Mode,
    against: Mode,
    what: &'static [(Metric, Quantity)],
    sense: Sense,
    /// Each of `what` has to reach it on its own, and is told of.
    each: bool,
    /// Unsegmented and segmented wire.
    pass: Option<f64>,
    seg: Option<f64>,
}

const EVERYTHING: &[(Metric, Quantity)] = &[
    (Stream1, Rate),
    (Metric::Stream4, Rate),
    (TcpRr1, Rate),
    (TcpRr32, Rate),
    (UdpRr1, Rate),
    (UdpRr32, Rate),
    (Crr, Rate),
    (Udp64, Rate),
    (Metric::Udp64OneWay, Rate),
    (Metric::Udp512, Rate),
    (Metric::Udp1400, Rate),
];
const THE_THREE: &[(Metric, Quantity)] = &[(Stream1, Rate), (TcpRr1, Rate), (Udp64, Rate)];
const RR: &[(Metric, Quantity)] = &[(TcpRr1, Rate), (UdpRr1, Rate)];

const BARS: [Bar; 11] = [
    Bar::new("64-byte UDP received, to kernel VXLAN", &[(Udp64, Rate)], Sense::AtLeast, Some(2.3), Some(2.2)),
    Bar::new("TCP request/response, to kernel VXLAN", &[(TcpRr1, Rate)], Sense::AtLeast, Some(1.40), Some(1.33)),
    Bar::new("its 99th percentile, to kernel VXLAN", &[(TcpRr1, P99)], Sense::AtMost, Some(0.75), None),
    Bar::new(
        "32 flows do not collapse, to kernel VXLAN",
        &[(TcpRr32, Rate), (UdpRr32, Rate)],
        Sense::AtLeast,
        Some(1.0),
        None,
    ),
    Bar::new("one TCP stream, to kernel VXLAN", &[(Stream1, Rate)], Sense::AtLeast, Some(1.36), Some(1.22)),
    Bar::new(
        "kernel CPU per Gbit of it, to kernel VXLAN",
        &[(Stream1, KernelCost)],
        Sense::AtMost,
        Some(0.75),
        Some(0.75),
    ),
    Bar::new("to host-gw", EVERYTHING, Sense::AtLeast, Some(1.0), Some(1.0)).against(Mode::HostGw).each(),
    Bar::new("request/response, to host to host", RR, Sense::AtLeast, Some(0.97), Some(0.97)).against(Mode::Host),
    Bar::new("service traffic, to plain fast path", THE_THREE, Sense::AtLeast, Some(0.9), Some(0.9))
        .between(Mode::EbpfService, Mode::Ebpf),
    Bar::new("connect, request, close, to kernel VXLAN", &[(Crr, Rate)], Sense::AtLeast, Some(0.95), Some(0.95)),
    Bar::new("forced off, to kernel VXLAN", THE_THREE, Sense::Within, Some(0.1), Some(0.1))
        .between(Mode::EbpfOff, Mode::Vxlan),
];

impl Bar {
    /// Fast path against kernel VXLAN.
    const fn new(
        name: &'static str,
        what: &'static [(Metric, Quantity)],
        sense: Sense,
        pass: Option<f64>,
        seg: Option<f64>,
    ) -> Self {
        Self { name, of: Mode::Ebpf, against: Mode::Vxlan, what, sense, each: false, pass, seg }
    }

    const fn against(mut self, against: Mode) -> Self {
        self.against = against;
        self
    }

    const fn each(mut self) -> Self {
        self.each = true;
        self
    }

    const fn between(mut self, of: Mode, against: Mode) -> Self {
        self.of = of;
        self.against = against;
        self
    }

    fn value(&self, wire: Wire) -> Option<f64> {
        match wire {
            Wire::Pass => self.pass,
            Wire::Seg => self.seg,
            Wire::Nogro => None,
        }
    }
}

/// A bar on one wire, and how it went.
#[derive(Clone, Debug)]
pub(super) struct Verdict {
    pub(super) name: String,
    pub(super) wanted: String,
    /// The worst of what counts, and what that was; nothing if some of it was not measured.
    pub(super) got: Option<(Spread, Metric)>,
    pub(super) reached: bool,
    /// Whether there is more than one thing that counts.
    pub(super) several: bool,
}

/// Every bar of this wire. A bar counts as reached by the median.
pub(super) fn judge(samples: Samples<'_>, wire: Wire) -> Vec<Verdict> {
    let verdicts = BARS.iter().filter_map(|bar| Some((bar, bar.value(wire)?))).flat_map(|(bar, value)| {
        let together = if bar.each { bar.what.chunks(1) } else { bar.what.chunks(bar.what.len()) };
        together.map(move |what| verdict(samples, wire, bar, what, value))
    });
    verdicts.collect()
}

/// Whether some bar looks at this load in this mode.
pub(super) fn compare(metric: Metric, mode: Mode) -> bool {
    BARS.iter().any(|bar| [bar.of, bar.against].contains(&mode) && bar.what.iter().any(|(what, _)| *what == metric))
}

fn verdict(samples: Samples<'_>, wire: Wire, bar: &Bar, what: &[(Metric, Quantity)], value: f64) -> Verdict {
    // Larger is better, whatever the bar.
    let merit = |spread: &Spread| match bar.sense {
        Sense::AtLeast => spread.median,
        Sense::AtMost => -spread.median,
        Sense::Within => -(spread.median - 1.0).abs(),
    };
    let all: Option<Vec<_>> =
        what.iter().map(|&what| Some((samples.ratio(wire, what, bar.of, bar.against)?, what.0))).collect();
    let got = all.and_then(|all| all.into_iter().min_by(|(a, _), (b, _)| merit(a).total_cmp(&merit(b))));
    let (wanted, least) = match bar.sense {
        Sense::AtLeast => (format!("≥ {value:.2}"), value),
        Sense::AtMost => (format!("≤ {value:.2}"), -value),
        Sense::Within => (format!("1 ± {value:.2}"), -value),
    };
    let reached = got.is_some_and(|(spread, _)| merit(&spread) >= least);
    let name = match what {
        [(metric, _)] if bar.each => format!("{}, {}{}", metric.title(), bar.name, by_rule(*metric)),
        _ => bar.name.to_owned(),
    };
    Verdict { name, wanted, got, reached, several: what.len() > 1 }
}

/// What the fast path does not carry, or not all of it, on purpose.
fn by_rule(metric: Metric) -> &'static str {
    match metric {
        Metric::Udp64OneWay => " (never answered: the kernel's path by rule)",
        Crr => " (connections begin and end on the kernel's path by rule)",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::{super::sample::tests::sample, *};

    #[test]
    fn the_worst_decides_and_what_is_missing_is_not_reached() {
        let mut all = Vec::new();
        for (mode, rates) in
            [(Mode::EbpfOff, [1.0, 1.09, 0.85]), (Mode::Vxlan, [1.0; 3]), (Mode::Ebpf, [1.4, 1.5, 2.5])]
        {
            for (metric, rate) in [Stream1, TcpRr1, Udp64].into_iter().zip(rates) {
                all.push(sample(Wire::Seg, 0, metric, mode, rate));
            }
        }
        let verdicts = judge(Samples(&all), Wire::Seg);
        let named = |name: &str| verdicts.iter().find(|verdict| verdict.name.starts_with(name)).unwrap();
        assert!(named("64-byte").reached && named("one TCP stream").reached && named("TCP request").reached);
        let off = named("forced off");
        assert!(!off.reached && off.got.unwrap().1 == Udp64, "0.85 is further from 1 than 1.09: {off:?}");
        assert!(named("service").got.is_none() && !named("service").reached, "nobody measured it");
        assert!(named("TCP, 1 stream, to host-gw").got.is_none(), "host-gw was not measured");
        assert!(named("UDP 64 B received, one-way, to host-gw").name.ends_with("by rule)"));
        assert!(!verdicts.iter().any(|verdict| verdict.name.starts_with("its 99th")), "a bar of the other wire");
        assert!(judge(Samples(&all), Wire::Nogro).is_empty());
    }
}
