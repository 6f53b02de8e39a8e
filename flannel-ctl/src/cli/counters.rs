//! `flannel-ctl counters`.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use flannel_common::Counter;
use serde::Serialize;

use super::fast_path::{BpfArgs, meaning, short};
use crate::{
    kernel::fastpath::{counts, known_flows},
    output::{self, OutputArgs, Table},
    traffic::{Counts, Flow, Way},
};

/// What the verb has to say beyond its options.
pub const AFTER_HELP: &str = "\
SENT and RECEIVED are packets of pods that the kernel path carried through the tunnel for that reason; PACKETS has \
all that the programs decided over, to the internet and to pods of this node too. Packets that are cut later, or were \
merged, count as one. Peers are added up from the flows that are known now: what ended is not in them.";

/// Arguments of `counters`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Leave out what is zero
    #[arg(long)]
    pub nonzero: bool,
    /// Print what was counted in each interval of so many seconds, until interrupted
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "1",
          value_parser = clap::value_parser!(u64).range(1..))]
    pub watch: Option<u64>,
    #[command(flatten)]
    pub bpf: BpfArgs,
    #[command(flatten)]
    pub output: OutputArgs,
}

/// What is printed. Field names are an interface.
#[derive(Debug, Serialize)]
struct Answer {
    /// What was counted in this time; `None`: since the maps were made.
    interval_seconds: Option<f64>,
    sent: WayAnswer,
    received: WayAnswer,
    counters: Vec<Line>,
    /// Of the flows that are known now. Not with an interval: flows come and go.
    peers: Vec<PeerLine>,
}

#[derive(Debug, Serialize)]
struct WayAnswer {
    fast: u64,
    kernel: u64,
    percent_fast: Option<f64>,
    leading_reason: Option<&'static str>,
}

#[derive(Debug, Serialize)]
struct Line {
    name: &'static str,
    group: &'static str,
    meaning: &'static str,
    packets: u64,
    /// Of pods, through the tunnel by the kernel path, for this reason.
    tunnelled_sent: u64,
    tunnelled_received: u64,
}

#[derive(Debug, Default, PartialEq, Eq, Serialize)]
struct PeerLine {
    peer: Option<IpAddr>,
    flows: u64,
    fast_flows: u64,
    sent_packets: u64,
    sent_bytes: u64,
    received_packets: u64,
    received_bytes: u64,
}

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let directory = &args.bpf.bpf_dir;
    let Some(seconds) = args.watch else {
        let flows = known_flows(directory)?.flows(|_| Some(String::new()));
        let answer = answer(&counts(directory)?, None, peers(&flows), args.nonzero);
        output::print(args.output.output, &answer, render)?;
        return Ok(ExitCode::SUCCESS);
    };
    let (mut before, mut then) = (counts(directory)?, Instant::now());
    loop {
        thread::sleep(Duration::from_secs(seconds));
        let (now, taken) = (counts(directory)?, Instant::now());
        let answer = answer(&now.since(&before), Some((taken - then).as_secs_f64()), Vec::new(), true);
        output::print(args.output.output, &answer, render)?;
        (before, then) = (now, taken);
    }
}

fn answer(counts: &Counts, interval: Option<f64>, peers: Vec<PeerLine>, nonzero: bool) -> Answer {
    let way = |way| {
        let share = counts.share(way);
        WayAnswer {
            fast: share.fast,
            kernel: share.kernel,
            percent_fast: share.percent(),
            leading_reason: share.leading.map(|(counter, _)| counter.label()),
        }
    };
    let line = |counter: Counter| {
        let (group, meaning) = meaning(counter);
        Line {
            name: counter.label(),
            group,
            meaning,
            packets: counts.decided(counter),
            tunnelled_sent: counts.tunnelled(Way::Sent, counter),
            tunnelled_received: counts.tunnelled(Way::Received, counter),
        }
    };
    let counts_something = |line: &Line| line.packets + line.tunnelled_sent + line.tunnelled_received > 0;
    Answer {
        interval_seconds: interval,
        sent: way(Way::Sent),
        received: way(Way::Received),
        counters: Counter::ALL.into_iter().map(line).filter(|line| !nonzero || counts_something(line)).collect(),
        peers,
    }
}

fn peers(flows: &[Flow]) -> Vec<PeerLine> {
    let mut peers: BTreeMap<IpAddr, PeerLine> = BTreeMap::new();
    for flow in flows {
        let peer = peers.entry(flow.peer).or_default();
        peer.peer = Some(flow.peer);
        peer.flows += 1;
        peer.fast_flows += u64::from(flow.fast);
        peer.sent_packets += flow.sent.packets;
        peer.sent_bytes += flow.sent.bytes;
        peer.received_packets += flow.received.packets;
        peer.received_bytes += flow.received.bytes;
    }
    peers.into_values().collect()
}

fn render(answer: &Answer) -> String {
    let way = |name: &str, way: &WayAnswer| {
        let percent = way.percent_fast.map_or("-".into(), |percent| format!("{percent:.1} % fast"));
        let leading = way.leading_reason.map(|reason| format!(", mostly {reason}")).unwrap_or_default();
        format!("{name}: {percent} ({} fast, {} kernel path{leading})\n", way.fast, way.kernel)
    };
    let interval = answer.interval_seconds.map(|seconds| format!("in {seconds:.1} s\n")).unwrap_or_default();
    let mut text = format!("{}{}{interval}\n", way("sent", &answer.sent), way("received", &answer.received));
    let mut table = Table::new(["COUNTER", "PACKETS", "SENT", "RECEIVED", "MEANING"]);
    for line in &answer.counters {
        let tunnelled = |packets: u64| if packets == 0 { String::new() } else { packets.to_string() };
        table.row([
            line.name.into(),
            line.packets.to_string(),
            tunnelled(line.tunnelled_sent),
            tunnelled(line.tunnelled_received),
            format!("{}: {}", line.group, line.meaning),
        ]);
    }
    text += &table.render();
    if !answer.peers.is_empty() {
        let mut table = Table::new(["PEER", "FLOWS", "FAST", "SENT", "BYTES", "RECEIVED", "BYTES"]);
        for peer in &answer.peers {
            table.row([
                peer.peer.map(|peer| peer.to_string()).unwrap_or_default(),
                peer.flows.to_string(),
                peer.fast_flows.to_string(),
                short(peer.sent_packets),
                short(peer.sent_bytes),
                short(peer.received_packets),
                short(peer.received_bytes),
            ]);
        }
        text.push('\n');
        text += &table.render();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every slot its own number.
    fn counts() -> Counts {
        let tunnelled = (0..u64::from(Counter::TUNNELLED)).map(|slot| if slot % 7 == 0 { slot } else { 0 }).collect();
        Counts::new((0..u64::from(Counter::COUNT)).collect(), tunnelled)
    }

    fn peer() -> PeerLine {
        PeerLine { peer: "192.0.2.2".parse().ok(), flows: 3, fast_flows: 2, sent_bytes: 70_000, ..PeerLine::default() }
    }

    #[test]
    fn every_reason_has_its_line() {
        insta::assert_snapshot!(render(&answer(&counts(), None, vec![peer()], false)));
    }

    #[test]
    fn field_names_stay() {
        let mut answer = answer(&counts(), Some(1.0), vec![peer()], true);
        answer.counters.truncate(2);
        insta::assert_snapshot!(serde_json::to_string_pretty(&answer).unwrap());
    }

    #[test]
    fn what_is_zero_can_be_left_out() {
        let empty = Counts::new(vec![0; Counter::COUNT as usize], vec![0; Counter::TUNNELLED as usize]);
        assert!(answer(&empty, None, Vec::new(), true).counters.is_empty());
        assert_eq!(answer(&empty, None, Vec::new(), false).counters.len(), Counter::ALL.len());
    }
}
