//! `flannel-ctl trace`.

use std::{
    io::{self, Write as _},
    net::IpAddr,
    os::fd::AsFd as _,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use flannel_common::{Address, TraceFilter};
use nix::{
    poll::{PollFd, PollFlags, poll},
    sys::{
        signal::{SigSet, Signal},
        signalfd::SignalFd,
    },
};

use super::{
    fast_path::{BpfArgs, interface},
    invocation::USAGE,
    logging,
};
use crate::{
    kernel::fastpath::Tracing,
    output::{OutputArgs, OutputFormat},
    traffic::{Told, protocol},
};

/// What the verb has to say beyond its options.
pub const AFTER_HELP: &str = "\
Programs that tell take the place of those at work, and give it back at the end: no packet is lost, and nothing of it is left. All \
conditions have to hold. At the uplink it is the packet inside of the tunnel that counts. Without a condition every packet is told, \
and what is not read in time is not told.

Needs root. A packet on the kernel path shows up at several programs, one on the fast path at pod_ingress and uplink_egress \
or at uplink_ingress alone.";

/// Arguments of `trace`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only packets from or to this address, before or after translation as the program sees it
    #[arg(long, value_name = "ADDRESS")]
    pub pod: Option<IpAddr>,
    /// Only packets from this address
    #[arg(long, value_name = "ADDRESS")]
    pub src: Option<IpAddr>,
    /// Only packets to this address
    #[arg(long, value_name = "ADDRESS")]
    pub dst: Option<IpAddr>,
    /// Only packets from or to this TCP or UDP port
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub port: Option<u16>,
    /// Only packets of this protocol: tcp, udp, icmp, icmpv6 or a number
    #[arg(long, value_name = "PROTOCOL", value_parser = protocol_number)]
    pub proto: Option<u8>,
    /// End after so many lines
    #[arg(long, value_name = "COUNT")]
    pub count: Option<usize>,
    /// End after this time
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    pub duration: u64,
    #[command(flatten)]
    pub bpf: BpfArgs,
    #[command(flatten)]
    pub output: OutputArgs,
}

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    if let Some(why) = contradiction(args) {
        writeln!(io::stderr(), "flannel-ctl: no packet fits: {why}")?;
        return Ok(ExitCode::from(USAGE));
    }
    logging::only_warnings()?;
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        signals.add(signal);
    }
    signals.thread_block().context("hold signals back")?;
    let interrupted = SignalFd::new(&signals).context("wait for signals")?;

    let mut tracing = Tracing::start(&args.bpf.bpf_dir, filter(args))?;
    writeln!(io::stderr(), "tracing at {} attachments for {} s", tracing.attachments(), args.duration)?;
    let end = Instant::now() + Duration::from_secs(args.duration);
    let mut left = args.count.unwrap_or(usize::MAX);
    while left > 0 {
        let now = Instant::now();
        if now >= end {
            break;
        }
        let mut ready =
            [PollFd::new(tracing.as_fd(), PollFlags::POLLIN), PollFd::new(interrupted.as_fd(), PollFlags::POLLIN)];
        let patience = u16::try_from((end - now).as_millis().min(1000)).unwrap_or(1000);
        poll(&mut ready, patience).context("wait for packets")?;
        if ready[1].any() == Some(true) {
            break;
        }
        let told = tracing.records().into_iter().filter_map(|record| Told::of(&record, interface));
        for told in told.take(left).collect::<Vec<_>>() {
            left -= 1;
            let line = match args.output.output {
                OutputFormat::Table => told.line(),
                OutputFormat::Json => serde_json::to_string(&told)?,
            };
            // Whoever reads has seen enough.
            if writeln!(io::stdout(), "{line}").is_err() {
                return Ok(ExitCode::SUCCESS);
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Why no packet can fit all conditions, rather than an hour of silence.
fn contradiction(args: &Args) -> Option<String> {
    let addresses = [("--pod", args.pod), ("--src", args.src), ("--dst", args.dst)];
    let mut said = addresses.into_iter().filter_map(|(name, address)| Some((name, address?)));
    let first = said.next();
    if let Some((name, address)) = first
        && let Some((other_name, other)) = said.find(|(_, other)| other.is_ipv4() != address.is_ipv4())
    {
        return Some(format!("{name} {address} and {other_name} {other} are of different families"));
    }
    let protocol = args.proto?;
    let named = protocol::name(protocol).map_or_else(|| protocol.to_string(), str::to_owned);
    if let Some(port) = args.port
        && !matches!(named.as_str(), "tcp" | "udp")
    {
        return Some(format!("--port {port} is of TCP and UDP, and --proto is {named}"));
    }
    let (name, address) = first?;
    let other = (named == "icmp" && address.is_ipv6()) || (named == "icmpv6" && address.is_ipv4());
    other.then(|| format!("--proto {named} is of the other family than {name} {address}"))
}

fn filter(args: &Args) -> TraceFilter {
    let address = |address: Option<IpAddr>| address.map_or(Address([0; 4]), Address::from);
    let bit = |address: Option<IpAddr>, bit| if address.is_some() { bit } else { 0 };
    TraceFilter {
        ask: TraceFilter::ON
            | bit(args.pod, TraceFilter::EITHER)
            | bit(args.src, TraceFilter::SOURCE)
            | bit(args.dst, TraceFilter::DESTINATION),
        protocol: args.proto.unwrap_or(0).into(),
        port: args.port.unwrap_or(0).to_be().into(),
        either: address(args.pod),
        source: address(args.src),
        destination: address(args.dst),
    }
}

fn protocol_number(text: &str) -> Result<u8, String> {
    let number = protocol::number(text).or_else(|| text.parse().ok().filter(|number| *number != 0));
    number.ok_or_else(|| "neither tcp, udp, icmp, icmpv6 nor a number from 1 to 255".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Verb};

    #[test]
    fn conditions_that_no_packet_fits_are_refused() {
        let why = |words: &str| {
            let words = ["flannel-ctl", "trace"].into_iter().chain(words.split_whitespace());
            let Verb::Trace(args) = Cli::parse_from(words).verb else { panic!() };
            contradiction(&args)
        };
        for (words, refusal) in [
            ("--src 10.5.1.2 --dst fd00::1", Some("--src 10.5.1.2 and --dst fd00::1 are of different families")),
            ("--pod fd00::1 --src 10.5.1.2", Some("--pod fd00::1 and --src 10.5.1.2 are of different families")),
            ("--proto icmp --port 53", Some("--port 53 is of TCP and UDP, and --proto is icmp")),
            ("--proto 132 --port 53", Some("--port 53 is of TCP and UDP, and --proto is 132")),
            ("--proto icmp --pod fd00::1", Some("--proto icmp is of the other family than --pod fd00::1")),
            ("--proto icmpv6 --dst 10.5.1.2", Some("--proto icmpv6 is of the other family than --dst 10.5.1.2")),
            ("--proto icmpv6 --dst fd00::1", None),
            ("--proto udp --port 53 --pod 10.5.1.2 --dst 10.5.2.2", None),
            ("--proto 17 --port 53", None),
            ("", None),
        ] {
            assert_eq!(why(words).as_deref(), refusal, "{words}");
        }
    }
}
