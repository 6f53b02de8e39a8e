//! One load in one mode: the number, what it cost, and the way that the packets took.

use std::{collections::BTreeMap, env, process::Command, thread, time::Duration};

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};
use xtask::lab::Memory;

use super::{
    client::Client,
    cpu::{CLIENT, SERVER, Snapshot, Usage},
    mode::{Load, Metric, Mode, Quantity},
    path::Counters,
    site::{Site, pinned},
};
use crate::load::{Integrity, MEASURING, READY, Received, Responses, Sent};

/// How long a run is.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize)]
pub(super) struct Timing {
    pub(super) warmup: f64,
    pub(super) seconds: f64,
}

impl Timing {
    /// In whole seconds, because iperf3 knows no others.
    fn rounded_up(self) -> [u64; 2] {
        let whole = |seconds: f64| Duration::from_secs_f64(seconds + 0.999).as_secs();
        [whole(self.warmup), whole(self.seconds)]
    }
}

/// What one run has given.
#[derive(Debug)]
pub(super) struct Measured {
    pub(super) values: BTreeMap<Quantity, f64>,
    pub(super) counters: Counters,
    pub(super) usage: Usage,
    /// Why it proves nothing, if so.
    pub(super) void: Option<String>,
    /// As iperf3 says it was, of a stream.
    pub(super) congestion: Option<String>,
}

const INTEGRITY_MEGABYTES: usize = 16;
/// Beyond this a load hangs.
const PATIENCE: u64 = 30;

/// Runs a load; an error means that it could not be run.
pub(super) fn measure(site: &Site, mode: Mode, metric: Metric, timing: Timing) -> Result<Measured> {
    let run = Run { site, mode, metric, timing, first: site.counters(mode)?, carriers: site.carriers() };
    let mut complaints = Vec::new();
    if metric == Metric::Stream1 {
        complaints.extend(run.integrity()?);
    }
    let (mut values, Meanwhile { usage, counters }, congestion, complaint) = match metric.load() {
        Load::Stream { flows } => run.stream(flows)?,
        Load::TcpRr { flows } => run.responses("tcp-rr", flows)?,
        Load::UdpRr { flows } => run.responses("udp-rr", flows)?,
        Load::Crr => run.responses("crr", 1)?,
        Load::Datagrams { size, one_way, sleeps } => run.datagrams(size, one_way, sleeps)?,
    };
    complaints.extend(complaint);
    complaints.extend(counters.contradict(mode, metric));
    values.extend(counters.packet_size(mode).map(|size| (Quantity::PacketSize, size)));
    if let Some(rate) = values.get(&Quantity::Rate) {
        // Seconds for a unit: microseconds, or milliseconds for a gigabit.
        let scale = if matches!(metric.load(), Load::Stream { .. }) { 1e3 } else { 1e6 };
        values.insert(Quantity::KernelCost, usage.kernel / usage.seconds / rate * scale);
    }
    if !run.carriers.is_empty() {
        values.insert(Quantity::TunnelCores, usage.carriers);
        if let (Some(rate), true) = (values.get(&Quantity::Rate).copied(), usage.carriers > 0.0) {
            values.insert(Quantity::PerCore, rate / usage.carriers);
        }
        let memory = run.carriers.iter().map(|pid| Ok(Memory::of(*pid)?.resident_kb));
        let largest = memory.collect::<Result<Vec<u64>>>()?.into_iter().max().unwrap_or(0);
        values.insert(Quantity::Resident, f64::from(u32::try_from(largest)?) / 1024.0);
    }
    let void = (!complaints.is_empty()).then(|| complaints.join("; "));
    Ok(Measured { values, counters, usage, void, congestion })
}

/// Values, what the machine did, congestion control, and what is wrong with it.
type Outcome = (BTreeMap<Quantity, f64>, Meanwhile, Option<String>, Option<String>);

/// Processors and devices while the load was measured. Not during its warm-up, in which a path may still learn.
struct Meanwhile {
    usage: Usage,
    counters: Counters,
}

struct Run<'a> {
    site: &'a Site,
    mode: Mode,
    metric: Metric,
    timing: Timing,
    /// Before the load began.
    first: Counters,
    /// Processes that carry packets.
    carriers: Vec<u32>,
}

impl Run<'_> {
    /// Sends known bytes first: a path that garbles them is not worth measuring.
    fn integrity(&self) -> Result<Option<String>> {
        let mut command = self.client()?;
        command.args(["load", "integrity", &self.target()?, &INTEGRITY_MEGABYTES.to_string()]);
        let outcome: Integrity = Client::spawn(&mut command)?.outcome()?;
        Ok((!outcome.holds()).then(|| format!("sent {}, received {}", outcome.sent, outcome.received)))
    }

    fn stream(&self, flows: usize) -> Result<Outcome> {
        let [warmup, seconds] = self.timing.rounded_up();
        let mut command = self.within(self.site.client(self.mode), CLIENT);
        command.args(["iperf3", "--json", "--client", &self.target()?, "--parallel", &flows.to_string()]);
        command.args(["--time", &seconds.to_string(), "--omit", &warmup.to_string(), "--congestion", "cubic"]);
        let client = Client::spawn(&mut command)?;
        thread::sleep(Duration::from_secs(warmup));
        let meanwhile = self.watch(Duration::from_secs(seconds))?;
        let report: Report = client.outcome()?;
        let values = [
            (Quantity::Rate, report.end.sum_received.bits_per_second / 1e9),
            (Quantity::Retransmits, report.end.sum_sent.retransmits),
        ];
        Ok((values.into(), meanwhile, report.end.sender_tcp_congestion, None))
    }

    fn responses(&self, load: &str, flows: usize) -> Result<Outcome> {
        let mut command = self.client()?;
        command.args(["load", load, &self.target()?, "--flows", &flows.to_string()]).args(self.window());
        let mut client = Client::spawn(&mut command)?;
        client.expect(MEASURING)?;
        let meanwhile = self.watch(Duration::from_secs_f64(self.timing.seconds))?;
        let got: Responses = client.outcome()?;
        ensure!(got.count > 0, "{}: not one response", self.metric.title());
        let values = [
            (Quantity::Rate, got.rate),
            (Quantity::P50, got.p50),
            (Quantity::P99, got.p99),
            (Quantity::P999, got.p999),
        ];
        Ok((values.into(), meanwhile, None, None))
    }

    fn datagrams(&self, size: usize, one_way: bool, sleeps: bool) -> Result<Outcome> {
        let size = size.to_string();
        let mut receiver = self.within(self.site.server(self.mode), SERVER);
        let at = self.site.server_address(self.mode)?.to_string();
        receiver.arg(program()?).args(["load", "receive", &at, "--size", &size]).args(self.window());
        receiver.args(one_way.then_some("--one-way")).args(sleeps.then_some("--sleeps"));
        let mut receiver = Client::spawn(&mut receiver)?;
        receiver.expect(READY)?;
        let mut sender = self.client()?;
        sender.args(["load", "send", &self.target()?, "--size", &size]).args(self.window());
        let sender = Client::spawn(&mut sender)?;
        receiver.expect(MEASURING)?;
        let meanwhile = self.watch(Duration::from_secs_f64(self.timing.seconds))?;
        // The receiver last: it keeps its port open until then.
        let sent: Sent = sender.outcome()?;
        let received: Received = receiver.outcome()?;
        let garbled = (received.garbled > 0).then(|| format!("{} datagrams were garbled", received.garbled));
        Ok(([(Quantity::Rate, received.rate), (Quantity::Offered, sent.rate)].into(), meanwhile, None, garbled))
    }

    fn watch(&self, time: Duration) -> Result<Meanwhile> {
        // Without a warm-up everything counts, however late we come.
        let before = if self.timing.warmup > 0.0 { self.site.counters(self.mode)? } else { self.first };
        let start = Snapshot::take(&self.carriers)?;
        thread::sleep(time);
        let usage = start.until(&Snapshot::take(&self.carriers)?);
        Ok(Meanwhile { usage, counters: self.site.counters(self.mode)?.since(before) })
    }

    fn target(&self) -> Result<String> {
        Ok(self.site.target(self.mode)?.to_string())
    }

    fn window(&self) -> [String; 4] {
        let Timing { warmup, seconds } = self.timing;
        ["--warmup".into(), warmup.to_string(), "--seconds".into(), seconds.to_string()]
    }

    /// This program, in the client's place.
    fn client(&self) -> Result<Command> {
        let mut command = self.within(self.site.client(self.mode), CLIENT);
        command.arg(program()?);
        Ok(command)
    }

    fn within(&self, netns: &xtask::lab::Netns, core: usize) -> Command {
        let mut command = pinned(netns, core);
        let limit = self.timing.rounded_up().iter().sum::<u64>() + PATIENCE;
        command.args(["timeout", &limit.to_string()]);
        command
    }
}

fn program() -> Result<std::path::PathBuf> {
    env::current_exe().context("finding this program")
}

/// iperf3's, as far as we read it.
#[derive(Debug, Deserialize)]
struct Report {
    end: ReportEnd,
}

#[derive(Debug, Deserialize)]
struct ReportEnd {
    sum_sent: ReportSum,
    sum_received: ReportSum,
    sender_tcp_congestion: Option<String>,
}

#[derive(Debug, Deserialize)]
struct ReportSum {
    bits_per_second: f64,
    #[serde(default)]
    retransmits: f64,
}
