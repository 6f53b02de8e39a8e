//! `flannel-ctl check`.

use std::{fmt::Write as _, process::ExitCode};

use super::{logging, run_args::RunArgs};
use crate::{
    check::{Finding, Outcome, check, is_fit},
    output::{self, OutputArgs},
};

/// What the verb has to say beyond its options.
pub const AFTER_HELP: &str = "\
Takes the options of `run`. The node is not changed; what has to be tried is tried in a network namespace that is \
thrown away.

Exit codes: 0 `run` would work, 1 it would not, 2 wrong usage.";

/// Arguments of `check`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub options: RunArgs,
    #[command(flatten)]
    pub output: OutputArgs,
}

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let settings = args.options.settings()?;
    logging::only_warnings()?;
    let mut findings: Vec<_> = settings.warnings.iter().map(|warning| Finding::warn("options", warning, "")).collect();
    findings.extend(check(&settings));
    output::print(args.output.output, &findings, |findings| render(findings))?;
    Ok(if is_fit(&findings) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Details and cures may have several lines: they stand under their finding.
fn render(findings: &[Finding]) -> String {
    let width = findings.iter().map(|finding| finding.name.chars().count()).max().unwrap_or(0);
    let indent = " ".repeat(width + 8);
    let mut text = String::new();
    let mut line = |head: &str, body: &str| {
        for (index, part) in body.lines().enumerate() {
            let head = if index == 0 { head } else { &indent };
            writeln!(text, "{head}{}", output::printable(part)).expect("writing to a String cannot fail");
        }
    };
    for finding in findings {
        line(&format!("{:<4}  {:width$}  ", finding.result.name(), finding.name), &finding.detail);
        if !finding.cure.is_empty() {
            line(&indent, &format!("cure: {}", finding.cure));
        }
    }
    let count = |result| findings.iter().filter(|finding| finding.result == result).count();
    let (warn, fail) = (count(Outcome::Warn), count(Outcome::Fail));
    let verdict = if fail == 0 { "this node can run the agent" } else { "this node cannot run the agent" };
    writeln!(text, "{verdict}: {fail} failed, {warn} warnings").expect("writing to a String cannot fail");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some() -> Vec<Finding> {
        vec![
            Finding::ok("rights", "CAP_NET_ADMIN is there"),
            Finding::warn("forwarding", "is off", "sysctl -w net.ipv4.ip_forward=1"),
            Finding::fail("uplink", "no interface can carry the tunnel\n  lo: loopback", "name one with --iface"),
        ]
    }

    #[test]
    fn one_line_per_finding_with_its_cure_below() {
        insta::assert_snapshot!(render(&some()));
    }

    #[test]
    fn field_names_stay() {
        insta::assert_snapshot!(serde_json::to_string_pretty(&some()).unwrap());
    }

    #[test]
    fn a_warning_alone_does_not_make_a_node_unfit() {
        assert!(is_fit(&some()[..2]) && !is_fit(&some()));
        assert!(render(&some()[..2]).ends_with("this node can run the agent: 0 failed, 1 warnings\n"));
    }
}
