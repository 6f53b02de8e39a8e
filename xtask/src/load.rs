//! `cargo xtask load`: what loads a datapath, and says how much came through. `cargo xtask bench datapath`
//! runs these inside of network namespaces; nobody else needs them.
//!
//! A client prints `measuring` when its warm-up is over, and one line of JSON when it is done.

use std::{
    io::Write as _,
    net::{IpAddr, SocketAddr},
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use clap::Subcommand;
use serde::Serialize;

mod connect;
mod integrity;
mod latency;
mod packets;
mod respond;
mod serve;
mod tunnel;

pub(crate) use integrity::Integrity;
pub(crate) use packets::{Received, Sent};
pub(crate) use respond::Responses;

/// What a server has printed when it can be talked to.
pub(crate) const READY: &str = "ready";
/// What a client has printed when its warm-up is over.
pub(crate) const MEASURING: &str = "measuring";

/// A load, or what answers it.
#[derive(Debug, Subcommand)]
pub(crate) enum Load {
    /// Answers requests, takes connections, checks what it is sent; until it is killed
    Serve { address: IpAddr },
    /// One small request at a time per flow over TCP
    TcpRr(Client),
    /// One small request at a time per flow over UDP
    UdpRr(Client),
    /// Connect, one request, one response, close; one after the other
    Crr(Client),
    /// Sends bytes that the server must have received unchanged
    Integrity { address: IpAddr, megabytes: usize },
    /// As many datagrams as one core sends
    Send(Datagrams),
    /// Counts datagrams, from the first that comes; ends with its standard input
    Receive(Datagrams),
    /// Carries packets between a TUN device and one peer
    Tunnel(tunnel::Tunnel),
}

#[derive(Debug, clap::Args)]
pub(crate) struct Client {
    address: IpAddr,
    #[arg(long, default_value_t = 1)]
    flows: usize,
    #[command(flatten)]
    window: Window,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Datagrams {
    address: IpAddr,
    /// Bytes of UDP payload
    #[arg(long)]
    size: usize,
    /// The receiver never says a word
    #[arg(long)]
    one_way: bool,
    /// The receiver sleeps when there is nothing to receive, and the sender's core has to wake it; else it looks again and again
    #[arg(long)]
    sleeps: bool,
    #[command(flatten)]
    window: Window,
}

/// When to measure.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct Window {
    /// Seconds before
    #[arg(long)]
    warmup: f64,
    #[arg(long)]
    seconds: f64,
}

impl Window {
    /// First and last moment of the measurement, if all of it starts then.
    fn from(self, start: Instant) -> (Instant, Instant) {
        let begin = start + Duration::from_secs_f64(self.warmup);
        (begin, begin + Duration::from_secs_f64(self.seconds))
    }
}

pub(crate) fn run(load: &Load) -> Result<ExitCode> {
    match load {
        Load::Serve { address } => serve::run(*address)?,
        Load::TcpRr(client) => print(&respond::tcp(client)?)?,
        Load::UdpRr(client) => print(&respond::udp(client)?)?,
        Load::Crr(client) => print(&connect::run(client)?)?,
        Load::Integrity { address, megabytes } => print(&integrity::send(*address, *megabytes)?)?,
        Load::Tunnel(tunnel) => tunnel::run(tunnel)?,
        Load::Send(datagrams) => print(&packets::send(datagrams)?)?,
        Load::Receive(datagrams) => print(&packets::receive(datagrams, std::io::stdin())?)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn print(outcome: &impl Serialize) -> Result<()> {
    say(&serde_json::to_string(outcome)?)
}

/// One line, at once.
pub(crate) fn say(line: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).context("writing to standard output")
}

/// Where each kind of request goes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Port {
    TcpEcho = 7001,
    Connect = 7002,
    UdpEcho = 7003,
    Integrity = 7004,
    Packets = 7005,
}

impl Port {
    pub(crate) fn of(self, address: IpAddr) -> SocketAddr {
        SocketAddr::new(address, self as u16)
    }
}
