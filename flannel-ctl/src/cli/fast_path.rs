//! What the verbs that show the fast path have in common.

use std::path::PathBuf;

use flannel_common::Counter;
use nix::net::if_::if_indextoname;

use crate::serve::report::{FastPathReport, HitRate};

/// Where the fast path is looked for; no daemon is asked.
#[derive(Clone, Debug, clap::Args)]
pub struct BpfArgs {
    /// Where the daemon has pinned its BPF objects
    #[arg(long, env = "FLANNELD_BPF_DIR", default_value = "/sys/fs/bpf/flannel", value_name = "DIR")]
    pub bpf_dir: PathBuf,
}

/// Group and meaning of a counter.
pub(super) fn meaning(counter: Counter) -> (&'static str, &'static str) {
    counter.description().split_once(": ").unwrap_or(("", counter.description()))
}

/// An interface's name, if it is there.
pub(super) fn interface(index: u32) -> Option<String> {
    if_indextoname(index).ok().map(|name| name.to_string_lossy().into_owned())
}

/// `1.2G`, `640k`, `17`.
#[expect(clippy::cast_precision_loss, reason = "two digits are shown")]
pub(super) fn short(number: u64) -> String {
    let scales = [(1_000_000_000_000, 'T'), (1_000_000_000, 'G'), (1_000_000, 'M'), (1000, 'k')];
    match scales.into_iter().find(|(scale, _)| number >= *scale) {
        Some((scale, letter)) => format!("{:.1}{letter}", number as f64 / scale as f64),
        None => number.to_string(),
    }
}

/// The lines of `status`, by name.
pub(super) fn lines(report: &FastPathReport) -> Vec<(&'static str, String)> {
    let mut lines = Vec::new();
    let pods = match report.pods {
        1 => "at 1 pod interface".to_owned(),
        pods => format!("at {pods} pod interfaces"),
    };
    let switch = if report.enabled { "on" } else { "switched off (--fast-path)" };
    let problem = report.problem.as_ref().map(|problem| format!(", {problem}")).unwrap_or_default();
    lines.push(("fast path", format!("{switch}, {pods}{problem}")));
    for spared in &report.spared {
        lines.push(("not fast", format!("pod interface {}: {}", spared.interface, spared.why)));
    }
    let window = if report.window_secs == 0 { String::new() } else { format!(" in {} s", report.window_secs) };
    lines.push(("fast sent", rate(&report.sent, &window)));
    lines.push(("fast received", rate(&report.received, &window)));
    lines
}

fn rate(rate: &HitRate, window: &str) -> String {
    let all = rate.recent_fast + rate.recent_kernel;
    let Some(percent) = rate.percent else { return format!("no tunnel packets of pods{window}") };
    let leading = match &rate.leading_reason {
        Some(reason) => format!(", the others mostly {reason}{}", explained(reason)),
        None => String::new(),
    };
    format!("{percent:.1} % of {} tunnel packets of pods{window}{leading}", short(all))
}

fn explained(label: &str) -> String {
    let counter = Counter::ALL.into_iter().find(|counter| counter.label() == label);
    counter.map(|counter| format!(" ({})", meaning(counter).1.trim_end_matches('.'))).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::report::SparedPod;

    #[test]
    fn numbers_are_short() {
        assert_eq!([0, 999, 1000, 64_512, 1_200_000_000].map(short), ["0", "999", "1.0k", "64.5k", "1.2G"]);
    }

    #[test]
    fn a_fast_path_that_never_engages_says_why() {
        let report = FastPathReport {
            enabled: true,
            pods: 1,
            spared: vec![SparedPod { interface: "veth1".into(), why: "somebody shapes what goes out".into() }],
            sent: HitRate {
                percent: Some(0.0),
                recent_kernel: 12_000,
                leading_reason: Some("egress_one_way".into()),
                ..HitRate::default()
            },
            window_secs: 60,
            ..FastPathReport::default()
        };
        let text: Vec<_> = lines(&report).into_iter().map(|(name, text)| format!("{name}: {text}")).collect();
        insta::assert_snapshot!(text.join("\n"));
    }
}
