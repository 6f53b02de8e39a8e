//! `flannel-ctl flows`.

use std::{cmp::Reverse, net::IpAddr, process::ExitCode};

use super::fast_path::{BpfArgs, interface, short};
use crate::{
    kernel::fastpath::known_flows,
    output::{self, OutputArgs, Table},
    traffic::Flow,
};

/// What the verb has to say beyond its options.
pub const AFTER_HELP: &str = "\
FAST is yes, or why the next packet takes the kernel path: expired and doubted flows are proved again by their next \
packet, one_way ones wait for an answer, unseen means that no packet of one direction was seen yet.";

/// Arguments of `flows`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only flows of this pod: its address, or the host's side of its interface
    #[arg(long, value_name = "ADDRESS|INTERFACE")]
    pub pod: Option<String>,
    /// Only flows to and from the node with this address
    #[arg(long, value_name = "ADDRESS")]
    pub peer: Option<IpAddr>,
    /// What comes first
    #[arg(long, value_enum, default_value_t)]
    pub sort: Sort,
    /// How many to list; 0 lists all
    #[arg(long, value_name = "COUNT", default_value_t = 20)]
    pub limit: usize,
    #[command(flatten)]
    pub bpf: BpfArgs,
    #[command(flatten)]
    pub output: OutputArgs,
}

/// By what flows are sorted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Sort {
    /// Most octets on the fast path first
    #[default]
    Bytes,
    /// Most packets on the fast path first
    Packets,
    /// Oldest first
    Age,
    /// Proved last first
    Proved,
}

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let known = known_flows(&args.bpf.bpf_dir)?;
    let known = known.flows(interface);
    let total = known.len();
    let (flows, all) = select(known, args);
    output::print(args.output.output, &flows, |flows| if all == 0 { nothing(total) } else { render(flows, all) })?;
    Ok(ExitCode::SUCCESS)
}

/// Those that were asked for, and how many there are without the limit.
fn select(mut flows: Vec<Flow>, args: &Args) -> (Vec<Flow>, usize) {
    let of_pod = |flow: &Flow, pod: &str| flow.interface == pod || pod.parse() == Ok(flow.pod.ip());
    flows.retain(|flow| {
        args.pod.as_deref().is_none_or(|pod| of_pod(flow, pod)) && args.peer.is_none_or(|peer| flow.peer == peer)
    });
    // Flows alike stand in an order that stays.
    flows.sort_by_key(|flow| (flow.pod, flow.remote, flow.protocol));
    match args.sort {
        Sort::Bytes => flows.sort_by_key(|flow| Reverse(flow.bytes)),
        Sort::Packets => flows.sort_by_key(|flow| Reverse(flow.packets)),
        Sort::Age => flows.sort_by(|one, other| other.age_seconds.total_cmp(&one.age_seconds)),
        Sort::Proved => flows.sort_by(|one, other| one.proved_seconds_ago.total_cmp(&other.proved_seconds_ago)),
    }
    let all = flows.len();
    if args.limit > 0 {
        flows.truncate(args.limit);
    }
    (flows, all)
}

/// An empty table would leave open whether nothing is known, or nothing fits.
fn nothing(known: usize) -> String {
    match known {
        0 => "no flow is known: no TCP or UDP packet of a pod has gone through the tunnel lately\n".into(),
        1 => "the one flow that is known does not fit --pod and --peer\n".into(),
        _ => format!("none of the {known} flows that are known fits --pod and --peer\n"),
    }
}

fn render(flows: &[Flow], all: usize) -> String {
    let headings =
        ["PROTO", "POD", "REMOTE", "ON THE WIRE", "INTERFACE", "PEER", "FAST", "BYTES", "PACKETS", "AGE", "PROVED"];
    let mut table = Table::new(headings);
    for flow in flows {
        let nat = flow.nat.map(|nat| {
            let own = if nat.pod == flow.pod { String::new() } else { format!("{} ", nat.pod) };
            format!("{own}-> {}", nat.remote)
        });
        let gone = || format!("(gone: {})", flow.interface_index);
        table.row([
            flow.protocol.into(),
            flow.pod.to_string(),
            flow.remote.to_string(),
            nat.unwrap_or_default(),
            if flow.interface.is_empty() { gone() } else { flow.interface.clone() },
            flow.peer.to_string(),
            flow.reason.map_or("yes", |reason| reason.name()).into(),
            short(flow.bytes),
            short(flow.packets),
            format!("{:.0}s", flow.age_seconds),
            format!("{:.1}s ago", flow.proved_seconds_ago),
        ]);
    }
    let left = all.saturating_sub(flows.len());
    let more = if left == 0 { String::new() } else { format!("... and {left} more (--limit)\n") };
    format!("{}{more}", table.render())
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::{
        cli::{Cli, Verb},
        traffic::flows::{Direction, Nat, Standing},
    };

    fn args(words: &[&str]) -> Args {
        let Verb::Flows(args) = Cli::parse_from([&["flannel-ctl", "flows"], words].concat()).verb else { panic!() };
        args
    }

    fn flow(pod: &str, bytes: u64, reason: Option<Standing>) -> Flow {
        let direction = Direction { standing: Standing::Fast, packets: 0, bytes: 0, valid_seconds: 1.5 };
        Flow {
            protocol: "tcp",
            pod: pod.parse().unwrap(),
            remote: "10.96.0.10:80".parse().unwrap(),
            nat: reason.is_none().then(|| Nat { pod: pod.parse().unwrap(), remote: "10.5.2.9:8080".parse().unwrap() }),
            interface: if reason == Some(Standing::InterfaceGone) { String::new() } else { "veth1".into() },
            interface_index: 7,
            peer: "192.0.2.2".parse().unwrap(),
            fast: reason.is_none(),
            reason,
            packets: bytes / 1000,
            bytes,
            age_seconds: 61.0,
            proved_seconds_ago: 0.25,
            sent: direction,
            received: direction,
        }
    }

    fn flows() -> Vec<Flow> {
        vec![
            flow("10.5.1.2:4000", 10_000, Some(Standing::OneWay)),
            flow("10.5.1.3:4000", 5_000_000_000, None),
            flow("10.5.1.4:4000", 70, Some(Standing::InterfaceGone)),
        ]
    }

    #[test]
    fn the_largest_come_first() {
        let (some, all) = select(flows(), &args(&["--limit", "2"]));
        insta::assert_snapshot!(render(&some, all));
        let (every, all) = select(flows(), &args(&[]));
        insta::assert_snapshot!("all_of_them", render(&every, all));
    }

    #[test]
    fn pods_are_told_by_address_or_interface() {
        let count = |words: &[&str]| select(flows(), &args(words)).1;
        assert_eq!(count(&["--pod", "10.5.1.2"]), 1);
        assert_eq!(count(&["--pod", "veth1"]), 2);
        assert_eq!(count(&["--pod", "10.5.1.9"]), 0);
        assert_eq!(count(&["--peer", "192.0.2.2"]), 3);
        assert_eq!(count(&["--peer", "192.0.2.3"]), 0);
    }

    #[test]
    fn that_nothing_fits_is_told_from_that_nothing_is_known() {
        assert!(nothing(0).starts_with("no flow is known"));
        assert!(nothing(1).starts_with("the one flow"));
        assert!(nothing(7).starts_with("none of the 7 flows"));
    }
}
