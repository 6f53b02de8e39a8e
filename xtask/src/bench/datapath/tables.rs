//! The numbers of one wire as Markdown.

use super::{
    mode::{Load, Metric, Mode, Quantity, Wire},
    sample::{Samples, Spread},
    study::Study,
};

/// Everything there is to say about one wire.
pub(super) fn wire(study: Study, samples: Samples<'_>, wire: Wire) -> String {
    let modes: Vec<Mode> = samples.modes().into_iter().collect();
    let metrics: Vec<Metric> = samples.metrics().into_iter().collect();
    let mut text = format!("## {}\n\n", wire.title());
    text.push_str("Paired ratios to kernel VXLAN: median (smallest to largest) of the rounds.\n\n");
    let others: Vec<Mode> = modes.iter().copied().filter(|mode| *mode != Mode::Vxlan).collect();
    let mut rows = Vec::new();
    for &metric in &metrics {
        rows.push((metric.title().to_owned(), (metric, Quantity::Rate)));
        if matches!(metric.load(), Load::TcpRr { .. } | Load::UdpRr { .. } | Load::Crr) {
            rows.push(("- its 99th percentile".into(), (metric, Quantity::P99)));
        }
        if metric == Metric::Stream1 {
            rows.push(("- kernel CPU per Gbit".into(), (metric, Quantity::KernelCost)));
        }
    }
    let ratio = |what, mode| samples.ratio(wire, what, mode, Mode::Vxlan).map_or_else(|| "-".into(), spread);
    text.push_str(&table("what", &others, rows, ratio));

    text.push_str("\nMedians. Request/response: a second, and p50 / p99 / p99.9 in µs.\n\n");
    let rows = metrics.iter().map(|&metric| (format!("{}, {}", metric.title(), metric.unit()), metric)).collect();
    text.push_str(&table("what", &modes, rows, |metric, mode| medians(samples, wire, metric, mode)));

    text.push_str(
        "\nSystem and softirq time of the two cores: ms per Gbit, or µs per transaction or datagram received.\n\n",
    );
    let median = |metric, mode, quantity| samples.spread(wire, metric, mode, quantity).map(|spread| spread.median);
    let cell = |quantity| move |metric, mode| median(metric, mode, quantity).map_or_else(|| "-".into(), number);
    let rows = metrics.iter().map(|&metric| (metric.title().to_owned(), metric)).collect();
    text.push_str(&table("what", &modes, rows, cell(Quantity::KernelCost)));

    let streams: Vec<Metric> =
        metrics.iter().copied().filter(|metric| matches!(metric.load(), Load::Stream { .. })).collect();
    if !streams.is_empty() {
        text.push_str(
            "\nBytes of a packet as the receiving pod gets it, after coalescing; and retransmitted segments.\n\n",
        );
        let rows = streams.iter().map(|&metric| (metric.title().to_owned(), metric)).collect();
        text.push_str(&table("what", &modes, rows, |metric, mode| {
            let value = |quantity| median(metric, mode, quantity).map_or_else(|| "-".into(), number);
            format!("{}; {}", value(Quantity::PacketSize), value(Quantity::Retransmits))
        }));
    }
    if modes.iter().any(|mode| metrics.iter().any(|metric| median(*metric, *mode, Quantity::TunnelCores).is_some())) {
        text.push_str(
            "\nProcesses that carry packets, of both nodes: cores used; rate for each of these; and megabytes of the larger one.\n\n",
        );
        let rows = metrics.iter().map(|&metric| (metric.title().to_owned(), metric)).collect();
        text.push_str(&table("what", &modes, rows, |metric, mode| {
            let value = |quantity| median(metric, mode, quantity).map_or_else(|| "-".into(), number);
            [Quantity::TunnelCores, Quantity::PerCore, Quantity::Resident].map(value).join("; ")
        }));
    }
    text.push_str(&verdicts(study, samples, wire));
    text
}

fn verdicts(study: Study, samples: Samples<'_>, wire: Wire) -> String {
    let verdicts = study.judge(samples, wire);
    if verdicts.is_empty() {
        return String::new();
    }
    let mut text = format!("\n| bar for {} | wanted | got | |\n| --- | ---: | ---: | --- |\n", study.subject());
    text.extend(verdicts.into_iter().map(|verdict| {
        let (got, word) = match verdict.got {
            None => ("-".into(), "not measured"),
            Some((got, of)) => {
                let of = if verdict.several { format!(", {}", of.title()) } else { String::new() };
                (spread(got) + &of, if verdict.reached { "reached" } else { "**missed**" })
            }
        };
        format!("| {} | {} | {got} | {word} |\n", verdict.name, verdict.wanted)
    }));
    text
}

fn table<Row: Copy>(
    corner: &str,
    modes: &[Mode],
    rows: Vec<(String, Row)>,
    cell: impl Fn(Row, Mode) -> String,
) -> String {
    let line = |first: &str, cells: Vec<String>| format!("| {first} | {} |\n", cells.join(" | "));
    let mut text = line(corner, modes.iter().map(|mode| mode.title().to_owned()).collect());
    text += &line("---", modes.iter().map(|_| "---:".to_owned()).collect());
    for (name, row) in rows {
        text += &line(&name, modes.iter().map(|mode| cell(row, *mode)).collect());
    }
    text
}

fn medians(samples: Samples<'_>, wire: Wire, metric: Metric, mode: Mode) -> String {
    let median = |quantity| samples.spread(wire, metric, mode, quantity).map(|spread| spread.median);
    let Some(rate) = median(Quantity::Rate) else { return "-".into() };
    match (median(Quantity::P50), median(Quantity::P99), median(Quantity::P999)) {
        (Some(p50), Some(p99), Some(p999)) => {
            format!("{} ({p50:.0} / {p99:.0} / {p999:.0})", number(rate))
        }
        _ => number(rate),
    }
}

fn spread(spread: Spread) -> String {
    format!("{:.2} ({:.2} to {:.2})", spread.median, spread.min, spread.max)
}

/// Three digits, or all of a large number, in groups.
fn number(value: f64) -> String {
    match value {
        _ if !value.is_finite() => "-".into(),
        _ if value.abs() < 10.0 => format!("{value:.2}"),
        _ if value.abs() < 1000.0 => format!("{value:.1}"),
        _ => {
            let digits = format!("{value:.0}");
            let groups: Vec<_> = digits.as_bytes().rchunks(3).rev().map(String::from_utf8_lossy).collect();
            groups.join(",")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::sample::tests::sample, *};

    #[test]
    fn a_table_has_ratios_medians_and_verdicts() {
        let of = |round, mode, rate| sample(Wire::Pass, round, Metric::Udp64, mode, rate);
        let all = [of(0, Mode::Vxlan, 60_000.0), of(0, Mode::Ebpf, 150_000.0), of(0, Mode::HostGw, 90_000.0)];
        let text = wire(Study::Datapath, Samples(&all), Wire::Pass);
        for line in [
            "| what | host-gw | eBPF |",
            "| UDP 64 B received | 1.50 (1.50 to 1.50) | 2.50 (2.50 to 2.50) |",
            "| UDP 64 B received, 1/s | 90,000 | 60,000 | 150,000 |",
            "| 64-byte UDP received, to kernel VXLAN | ≥ 2.30 | 2.50 (2.50 to 2.50) | reached |",
            "| one TCP stream, to kernel VXLAN | ≥ 1.36 | - | not measured |",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\nis missing in\n{text}");
        }
    }

    #[test]
    fn numbers_are_grouped() {
        assert_eq!([1_234_567.0, 999.94, 12.34, 1.234].map(number), ["1,234,567", "999.9", "12.3", "1.23"]);
        assert_eq!(number(f64::NAN), "-");
    }
}
