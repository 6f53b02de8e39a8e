//! `flannel-ctl status`.

use std::{
    path::PathBuf,
    process::ExitCode,
    time::{SystemTime, UNIX_EPOCH},
};

use super::{fast_path, userspace};
use crate::{
    output::{self, OutputArgs, Table},
    serve::{
        Heartbeat, Report,
        report::{Condition, FailingObject, RefusedLease},
        socket,
    },
};

/// Arguments of `status`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Exit codes: 0 converged, 3 running but not converged, 1 no daemon answers, 2 wrong usage")]
pub struct Args {
    /// Run directory of the daemon to ask
    #[arg(long, env = "FLANNELD_RUN_DIR", default_value = "/run/flannel")]
    pub run_dir: PathBuf,
    #[command(flatten)]
    pub output: OutputArgs,
}

/// Running, but something is missing, failing or out of reach.
const NOT_CONVERGED: u8 = 3;

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let report: Report = socket::ask(&args.run_dir, "/status")?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    output::print(args.output.output, &report, |report| render(report, now))?;
    Ok(if is_converged(&report) { ExitCode::SUCCESS } else { ExitCode::from(NOT_CONVERGED) })
}

/// A report that claims convergence from a loop that no longer turns is not believed.
fn is_converged(report: &Report) -> bool {
    report.state == Condition::Converged && !is_stuck(report) && report.awaited.is_empty()
}

fn is_stuck(report: &Report) -> bool {
    u128::from(report.heartbeat_age_ms) > Heartbeat::LIMIT.as_millis()
}

fn render(report: &Report, now: u64) -> String {
    let mut table = Table::plain();
    let mut line = |name: &str, value: String| table.row([name.to_owned(), value]);

    line("state", state(report, now));
    if !report.awaited.is_empty() {
        line("waiting for", report.awaited.join(", "));
    }
    line("node", joined([report.node.name.clone(), report.node.id.clone()]));
    line("daemon", format!("version {}, pid {}, up {}", report.version, report.pid, age(report.started_unix, now)));
    line("source", source(report, now));
    if let Some(network) = &report.network {
        let vni = network.vni.map(|vni| format!("VNI {vni}")).unwrap_or_default();
        let port = network.port.map(|port| format!("port {port}")).unwrap_or_default();
        line("network", joined([net(network.ipv4), net(network.ipv6), network.backend.clone(), vni, port]));
        if let Some(problem) = &network.problem {
            line("network config", problem.clone());
        }
    }
    match &report.lease {
        Some(lease) => {
            let expiry = lease.expires_unix.map(|at| format!("expires in {}", age(now, at))).unwrap_or_default();
            let public = [lease.public_ip.map(|ip| ip.to_string()), lease.public_ipv6.map(|ip| ip.to_string())];
            line("subnet", joined([net(lease.ipv4), net(lease.ipv6), expiry]));
            line("public address", joined(public.map(Option::unwrap_or_default)));
        }
        None => line("subnet", "none yet".to_owned()),
    }
    let datapath = &report.datapath;
    let mtu = if datapath.mtu == 0 { String::new() } else { format!("MTU {}", datapath.mtu) };
    line("datapath", joined([datapath.kind.clone(), datapath.devices.join(" "), mtu, datapath.why.clone()]));
    if let Some(fast_path) = &report.fast_path {
        for (name, text) in fast_path::lines(fast_path) {
            line(name, text);
        }
    }
    for (name, text) in userspace::lines(&report.userspace) {
        line(&name, text);
    }
    if let Some(uplink) = &report.uplink {
        let addresses = uplink.addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        line("uplink", joined([uplink.name.clone(), addresses, format!("MTU {}", uplink.mtu)]));
    }
    let filter = &report.filter;
    line("packet filter", joined([filter.flavour.clone(), filter.why.clone(), filter.limits.join("; ")]));
    let peers = report.peers;
    line("peers", format!("{} of {} programmed, {} leases refused", peers.programmed, peers.total, peers.refused));
    let kernel = &report.kernel;
    let objects =
        format!("{} of {} objects in place, {} failing", kernel.in_place, kernel.wanted, kernel.failing_total);
    let convergence = report.last_convergence_ms.map(|ms| format!("last change took {ms:.1} ms")).unwrap_or_default();
    line("kernel", joined([objects, convergence]));
    if report.counters.guard_drops > 0 {
        let read = report.filter.read_unix.map(|at| format!("counted {} ago", age(at, now))).unwrap_or_default();
        line("guard", joined([format!("{} tunnel packets refused", report.counters.guard_drops), read]));
    }

    let mut text = table.render();
    text += &failing(&kernel.failing, kernel.failing_total);
    text += &refused(&report.refused, peers.refused, now);
    text
}

fn state(report: &Report, now: u64) -> String {
    let name = report.state.name();
    if is_stuck(report) {
        let secs = report.heartbeat_age_ms / 1000;
        return format!("stuck: the reconcile loop has not come round for {secs} s (it was {name})");
    }
    joined([format!("{name} for {}", age(report.since_unix, now)), report.reason.clone()])
}

fn source(report: &Report, now: u64) -> String {
    let source = &report.source;
    let state = if source.connected { "connected" } else { "NOT CONNECTED" };
    let event = source.last_event_unix.map(|at| format!("last event {} ago", age(at, now))).unwrap_or_default();
    joined([source.kind.clone(), state.to_owned(), source.detail.clone(), event])
}

fn failing(list: &[FailingObject], total: u64) -> String {
    if list.is_empty() {
        return String::new();
    }
    let mut table = Table::new(["FAILING", "FOR", "TRIES", "NEXT", "ERROR"]);
    for object in list {
        let error = format!("{}: {}", object.attempt, object.error);
        let (since, next) = (duration(object.since_secs), duration(object.next_try_secs));
        table.row([object.object.clone(), since, object.tries.to_string(), next, error]);
    }
    format!("\n{}{}", table.render(), more(list.len(), total))
}

fn refused(list: &[RefusedLease], total: u64, now: u64) -> String {
    if list.is_empty() {
        return String::new();
    }
    let mut table = Table::new(["REFUSED LEASE", "FOR", "REASON"]);
    for lease in list {
        table.row([lease.key.clone(), age(lease.since_unix, now), lease.reason.clone()]);
    }
    format!("\n{}{}", table.render(), more(list.len(), total))
}

fn more(shown: usize, total: u64) -> String {
    let left = total.saturating_sub(shown as u64);
    if left == 0 { String::new() } else { format!("... and {left} more\n") }
}

/// What is there, with commas between.
fn joined<const N: usize>(parts: [String; N]) -> String {
    parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(", ")
}

fn net(net: Option<ipnet::IpNet>) -> String {
    net.map(|net| net.to_string()).unwrap_or_default()
}

fn age(from: u64, to: u64) -> String {
    duration(to.saturating_sub(from))
}

/// Two units at most: `3d 4h`, `12m 5s`, `0s`.
fn duration(secs: u64) -> String {
    let (days, hours, minutes, rest) = (secs / 86400, secs / 3600 % 24, secs / 60 % 60, secs % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{rest}s"),
        (0, 0, _) => format!("{minutes}m {rest}s"),
        (0, _, _) => format!("{hours}h {minutes}m"),
        _ => format!("{days}d {hours}h"),
    }
}

#[cfg(test)]
#[path = "status_tests.rs"]
mod tests;
