//! One load in one mode: the number, what it cost, and the way that the packets took.

use std::{collections::BTreeMap, env, process::Command, thread, time::Duration};

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;

use super::{
    client::Client,
    cpu::{CLIENT, SERVER, Snapshot, Usage},
    mode::{Load, Metric, Mode, Quantity},
    path::Counters,
    site::{Site, pinned},
};
use crate::load::{Integrity, MEASURING, READY, Received, Responses, Sent};

/// How long a run is.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub(super) struct Timing {
    /// Whole seconds, because iperf3 knows no others.
    pub(super) warmup: u32,
    pub(super) seconds: u32,
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
const PATIENCE: u32 = 30;

/// Runs a load; an error means that it could not be run.
pub(super) fn measure(site: &Site, mode: Mode, metric: Metric, timing: Timing) -> Result<Measured> {
    let run = Run { site, mode, metric, timing };
    let mut complaints = Vec::new();
    if metric == Metric::Stream1 {
        complaints.extend(run.integrity()?);
    }
    let before = site.counters()?;
    let (mut values, usage, congestion, complaint) = match metric.load() {
        Load::Stream { flows } => run.stream(flows)?,
        Load::TcpRr { flows } => run.responses("tcp-rr", flows)?,
        Load::UdpRr { flows } => run.responses("udp-rr", flows)?,
        Load::Crr => run.responses("crr", 1)?,
        Load::Datagrams { size, one_way } => run.datagrams(size, one_way)?,
    };
    let counters = site.counters()?.since(before);
    complaints.extend(complaint);
    complaints.extend(counters.contradict(mode, metric));
    values.extend(counters.packet_size(mode).map(|size| (Quantity::PacketSize, size)));
    if let Some(rate) = values.get(&Quantity::Rate) {
        // Seconds for a unit: microseconds, or milliseconds for a gigabit.
        let scale = if matches!(metric.load(), Load::Stream { .. }) { 1e3 } else { 1e6 };
        values.insert(Quantity::KernelCost, usage.kernel / usage.seconds / rate * scale);
    }
    let void = (!complaints.is_empty()).then(|| complaints.join("; "));
    Ok(Measured { values, counters, usage, void, congestion })
}

/// Values, usage, congestion control, and what is wrong with it.
type Outcome = (BTreeMap<Quantity, f64>, Usage, Option<String>, Option<String>);

struct Run<'a> {
    site: &'a Site,
    mode: Mode,
    metric: Metric,
    timing: Timing,
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
        let Timing { warmup, seconds } = self.timing;
        let mut command = self.within(self.site.client(self.mode), CLIENT);
        command.args(["iperf3", "--json", "--client", &self.target()?, "--parallel", &flows.to_string()]);
        command.args(["--time", &seconds.to_string(), "--omit", &warmup.to_string(), "--congestion", "cubic"]);
        let client = Client::spawn(&mut command)?;
        thread::sleep(Duration::from_secs(warmup.into()));
        let start = Snapshot::take()?;
        thread::sleep(Duration::from_secs(seconds.into()));
        let usage = start.until(&Snapshot::take()?);
        let report: Report = client.outcome()?;
        let values = [
            (Quantity::Rate, report.end.sum_received.bits_per_second / 1e9),
            (Quantity::Retransmits, report.end.sum_sent.retransmits),
        ];
        Ok((values.into(), usage, report.end.sender_tcp_congestion, None))
    }

    fn responses(&self, load: &str, flows: usize) -> Result<Outcome> {
        let mut command = self.client()?;
        command.args(["load", load, &self.target()?, "--flows", &flows.to_string()]).args(self.window());
        let mut client = Client::spawn(&mut command)?;
        client.expect(MEASURING)?;
        let start = Snapshot::take()?;
        thread::sleep(Duration::from_secs(self.timing.seconds.into()));
        let usage = start.until(&Snapshot::take()?);
        let got: Responses = client.outcome()?;
        ensure!(got.count > 0, "{}: not one response", self.metric.title());
        let values = [
            (Quantity::Rate, got.rate),
            (Quantity::P50, got.p50),
            (Quantity::P99, got.p99),
            (Quantity::P999, got.p999),
        ];
        Ok((values.into(), usage, None, None))
    }

    fn datagrams(&self, size: usize, one_way: bool) -> Result<Outcome> {
        let size = size.to_string();
        let mut receiver = self.within(self.site.server(self.mode), SERVER);
        let at = self.site.server_address(self.mode)?.to_string();
        receiver.arg(program()?).args(["load", "receive", &at, "--size", &size]).args(self.window());
        receiver.args(one_way.then_some("--one-way"));
        let mut receiver = Client::spawn(&mut receiver)?;
        receiver.expect(READY)?;
        let mut sender = self.client()?;
        sender.args(["load", "send", &self.target()?, "--size", &size]).args(self.window());
        let sender = Client::spawn(&mut sender)?;
        receiver.expect(MEASURING)?;
        let start = Snapshot::take()?;
        thread::sleep(Duration::from_secs(self.timing.seconds.into()));
        let usage = start.until(&Snapshot::take()?);
        let received: Received = receiver.outcome()?;
        let sent: Sent = sender.outcome()?;
        let garbled = (received.garbled > 0).then(|| format!("{} datagrams were garbled", received.garbled));
        Ok(([(Quantity::Rate, received.rate), (Quantity::Offered, sent.rate)].into(), usage, None, garbled))
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
        let limit = self.timing.warmup + self.timing.seconds + PATIENCE;
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
