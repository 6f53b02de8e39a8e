//! The report as OpenMetrics text. Nothing is counted here: everything comes from the report of
//! the moment, so that metrics and status cannot disagree.

use std::fmt;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, NoLabelSet, text},
    metrics::MetricType,
    registry::Registry,
};

use super::{
    Heartbeat, Report,
    report::{Condition, EngineReport, FastPathReport},
};

/// Of what [`render`] gives.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The metrics, in a fixed order.
pub fn render(report: Report) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("flannel");
    registry.register_collector(Box::new(FromReport(report)));
    let mut out = String::new();
    text::encode(&mut out, &registry)?;
    Ok(out)
}

#[derive(Debug)]
struct FromReport(Report);

impl Collector for FromReport {
    fn encode(&self, encoder: DescriptorEncoder) -> fmt::Result {
        let Self(report) = self;
        let (peers, kernel, counters) = (&report.peers, &report.kernel, &report.counters);
        let mut out = Metrics(encoder);

        out.info(report)?;
        let states: Vec<_> = Condition::ALL.map(|c| (c.name(), u64::from(c == report.state))).into();
        out.gauge_by("state", "1 for the condition that the daemon is in", "state", &states)?;
        let ready = report.awaited.is_empty() && u128::from(report.heartbeat_age_ms) <= Heartbeat::LIMIT.as_millis();
        out.gauge("ready", "1 when /readyz says so", u64::from(ready))?;
        out.gauge_f64(
            "heartbeat_age_seconds",
            "Since the reconcile loop last came round",
            seconds(report.heartbeat_age_ms),
        )?;
        out.gauge("start_time_seconds", "When the daemon started, since the Unix epoch", report.started_unix)?;

        out.gauge("source_connected", "1 while the source of leases answers", u64::from(report.source.connected))?;
        out.counter("source_disconnects", "Times that the source of leases was lost", counters.source_disconnects)?;
        out.counter("events", "Changes that the source of leases has told", counters.events)?;
        out.gauge("lease_held", "1 while a subnet is leased to this node", u64::from(report.lease.is_some()))?;
        out.counter("lease_renewals", "Successful renewals of this node's lease", counters.renewals)?;
        let conflicts = counters.own_subnet_conflicts;
        out.counter("own_subnet_conflicts", "Times that another node claimed this node's subnet", conflicts)?;

        out.gauge("leases", "Leases of other nodes, refused ones included", peers.total + peers.refused)?;
        out.gauge("leases_refused", "Leases of other nodes that were not believed", peers.refused)?;
        out.gauge("peers_wanted", "Peers that this node shall reach", peers.total)?;
        out.gauge("peers_programmed", "Peers with every kernel object in place", peers.programmed)?;

        out.gauge("kernel_objects_wanted", "Kernel objects that shall be there", kernel.wanted)?;
        out.gauge("kernel_objects_in_place", "Kernel objects of these that are there", kernel.in_place)?;
        out.gauge("kernel_objects_failing", "Kernel objects whose last change failed", kernel.failing_total)?;
        let errors: Vec<_> = counters.kernel_errors.iter().map(|(kind, count)| (kind.as_str(), *count)).collect();
        out.counter_by("kernel_errors", "Kernel changes that failed, by kind of object", "kind", &errors)?;
        out.counter("kernel_changes", "Kernel changes that succeeded", counters.changes)?;
        out.counter("kernel_repairs", "Changes that mended what somebody else had broken", counters.repairs)?;
        out.counter("kernel_retries", "Changes tried again after a failure", counters.retries)?;
        out.counter("kernel_notices", "Notices from the kernel that woke the loop", counters.notices)?;

        out.counter("passes", "Comparisons of what is wanted with what is there", counters.passes)?;
        out.counter("sweeps", "Looks at the kernel that nothing but time had asked for", counters.sweeps)?;
        if let Some(millis) = report.last_convergence_ms {
            let help = "From change to last object in place, of the latest pass that changed anything";
            out.gauge_f64("last_convergence_seconds", help, millis / 1000.0)?;
        }
        if let Some(at) = report.last_sweep_unix {
            out.gauge("last_sweep_timestamp_seconds", "When the last sweep was, since the Unix epoch", at)?;
        }
        let drops = counters.guard_drops;
        out.counter(
            "guard_dropped_packets",
            "Tunnel packets refused by the guard (or seen, if it only counts)",
            drops,
        )?;
        let packets: Vec<_> = report.filter.counters.iter().map(|(rule, count)| (rule.as_str(), *count)).collect();
        out.counter_by("filter_packets", "Packets that a rule of the packet filter has seen", "rule", &packets)?;
        out.fast_path(report.fast_path.as_ref().unwrap_or(&FastPathReport::default()))?;
        out.userspace(&report.userspace)
    }
}

struct Metrics<'a>(DescriptorEncoder<'a>);

impl Metrics<'_> {
    fn info(&mut self, report: &Report) -> fmt::Result {
        let labels = [
            ("version", report.version.as_str()),
            ("node", &report.node.name),
            ("datapath", &report.datapath.kind),
            ("source", &report.source.kind),
            ("filter", &report.filter.flavour),
        ];
        self.0.encode_descriptor("build", "What runs here", None, MetricType::Info)?.encode_info(&labels)
    }

    /// Zeroes where there is none: whoever adds nodes up need not tell them apart.
    fn fast_path(&mut self, report: &FastPathReport) -> fmt::Result {
        let FastPathReport { sent, received, .. } = report;
        self.gauge("fast_path_pods", "Interfaces of pods that the fast path is attached to", report.pods)?;
        let help = "Packets of pods through the tunnel on the BPF fast path, by direction as pods see it";
        self.counter_by("fast_path_packets", help, "direction", &[("sent", sent.fast), ("received", received.fast)])?;
        let help = "Packets of pods through the tunnel on the kernel path, by direction and why they were not fast";
        let mut metric = self.0.encode_descriptor("kernel_path_packets", help, None, MetricType::Counter)?;
        for (direction, reasons) in [("sent", &sent.kernel), ("received", &received.kernel)] {
            for (reason, packets) in reasons {
                let labels = [("direction", direction), ("reason", reason.as_str())];
                metric.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(packets, None)?;
            }
        }
        let decisions: Vec<_> = report.decisions.iter().map(|(reason, count)| (reason.as_str(), *count)).collect();
        self.counter_by("fast_path_decisions", "Packets by what the fast path decided", "reason", &decisions)
    }

    fn userspace(&mut self, engines: &[EngineReport]) -> fmt::Result {
        let help = "What the userspace datapath has counted, by family";
        let mut metric = self.0.encode_descriptor("userspace", help, None, MetricType::Counter)?;
        for engine in engines {
            for (counter, count) in &engine.counters {
                let labels = [("family", engine.family.as_str()), ("counter", counter.as_str())];
                metric.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(count, None)?;
            }
        }
        let help = "Whether the userspace datapath uses what makes one call carry many packets";
        let mut metric = self.0.encode_descriptor("userspace_offload", help, None, MetricType::Gauge)?;
        for engine in engines {
            for (names, value) in [(&engine.offloads, 1_u64), (&engine.missing, 0)] {
                for name in names {
                    let labels = [("family", engine.family.as_str()), ("offload", name.as_str())];
                    metric.encode_family(&labels)?.encode_gauge(&value)?;
                }
            }
        }
        Ok(())
    }

    fn gauge(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        self.0.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&value)
    }

    fn gauge_f64(&mut self, name: &str, help: &str, value: f64) -> fmt::Result {
        self.0.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&value)
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        metric.encode_counter::<NoLabelSet, _, u64>(&value, None)
    }

    fn gauge_by(&mut self, name: &str, help: &str, label: &str, values: &[(&str, u64)]) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        values.iter().try_for_each(|(key, value)| metric.encode_family(&[(label, *key)])?.encode_gauge(value))
    }

    fn counter_by(&mut self, name: &str, help: &str, label: &str, values: &[(&str, u64)]) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        values.iter().try_for_each(|(key, value)| {
            metric.encode_family(&[(label, *key)])?.encode_counter::<NoLabelSet, _, u64>(value, None)
        })
    }
}

#[expect(clippy::cast_precision_loss, reason = "exact up to 285,000 years")]
fn seconds(millis: u64) -> f64 {
    millis as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::serve::report::{Counters, KernelReport, NodeReport, PeerCounts, SourceReport};

    #[test]
    fn the_whole_text() {
        let report = Report {
            version: "0.1.0".into(),
            node: NodeReport { id: "00".into(), name: "a\"b".into() },
            state: Condition::Degraded,
            started_unix: 1_700_000_000,
            heartbeat_age_ms: 1500,
            source: SourceReport { kind: "etcd".into(), connected: true, ..SourceReport::default() },
            peers: PeerCounts { total: 5, programmed: 4, refused: 2 },
            kernel: KernelReport { wanted: 20, in_place: 19, failing_total: 1, failing: vec![] },
            counters: Counters {
                events: 7,
                kernel_errors: [("fdb".to_owned(), 1), ("route".to_owned(), 3)].into(),
                guard_drops: 9,
                ..Counters::default()
            },
            last_convergence_ms: Some(12.5),
            ..Report::default()
        };
        insta::assert_snapshot!(render(report).unwrap());
    }

    #[test]
    fn every_metric_is_explained_and_prefixed() {
        let text = render(Report::default()).unwrap();
        assert!(text.ends_with("# EOF\n"));
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            assert!(line.starts_with("flannel_"), "{line}");
        }
        let count = |what| text.lines().filter(|line| line.starts_with(what)).count();
        assert_eq!(count("# HELP"), count("# TYPE"));
    }

    #[test]
    fn the_manual_lists_exactly_these_metrics() {
        let report = Report { last_convergence_ms: Some(0.0), last_sweep_unix: Some(0), ..Report::default() };
        let text = render(report).unwrap();
        let rendered: BTreeSet<_> = text
            .lines()
            .filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '))
            .map(|(name, kind)| match kind {
                "counter" => format!("{name}_total"),
                "info" => format!("{name}_info"),
                _ => name.to_owned(),
            })
            .collect();
        let manual = include_str!("../../../docs/operations.md");
        let listed: BTreeSet<_> = manual
            .lines()
            .filter_map(|line| line.strip_prefix("| `flannel_")?.split_once('`'))
            .map(|(name, _)| format!("flannel_{}", name.split('{').next().unwrap_or(name)))
            .collect();
        assert_eq!(listed, rendered);
    }
}
