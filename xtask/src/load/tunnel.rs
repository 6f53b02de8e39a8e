//! What the userspace datapath is compared to, as tunnels without a daemon: `cargo xtask load tunnel`.

use std::net::Ipv4Addr;

use anyhow::Result;
use clap::ValueEnum;

pub(crate) mod blocking;
#[cfg(feature = "bench")]
pub(crate) mod engine;

/// A tunnel to one peer, until it is killed.
#[derive(Debug, clap::Args)]
pub(crate) struct Tunnel {
    pub(crate) kind: TunnelKind,
    /// Name of the TUN device
    #[arg(long)]
    pub(crate) device: String,
    #[arg(long)]
    pub(crate) mtu: u32,
    /// Our address on the wire
    #[arg(long)]
    pub(crate) local: Ipv4Addr,
    /// The peer's address on the wire
    #[arg(long)]
    pub(crate) peer: Ipv4Addr,
    /// What is behind it: `10.244.1.0/24`
    #[arg(long)]
    pub(crate) subnet: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum TunnelKind {
    /// One thread, one packet a call, as the loop of flannel's udp backend
    Blocking,
    /// Our engine with everything off that makes a call carry more than one packet
    Plain,
}

pub(crate) fn run(tunnel: &Tunnel) -> Result<()> {
    match tunnel.kind {
        TunnelKind::Blocking => blocking::run(tunnel),
        TunnelKind::Plain => plain(tunnel),
    }
}

#[cfg(feature = "bench")]
fn plain(tunnel: &Tunnel) -> Result<()> {
    engine::run(tunnel)
}

#[cfg(not(feature = "bench"))]
fn plain(_tunnel: &Tunnel) -> Result<()> {
    anyhow::bail!("this build of xtask has no engine: cargo xtask bench builds one with the feature bench")
}
