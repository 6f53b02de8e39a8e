//! `flannel-ctl store`: serve the embedded store until told to stop.

use std::io::IsTerminal;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::ValueEnum;
use tokio::signal::unix::{SignalKind, signal};

use crate::store::engine::Limits;
use crate::store::server::{Options, TlsFiles, spawn};

/// Arguments of `store`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The store speaks the part of etcd's v3 API that leases need, as a single node with neither authentication nor \
clustering. Agents reach it with the same flags as etcd, and etcd is what to move to when one machine is not enough.")]
pub struct Args {
    /// Address to serve on; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS", env = "FLANNEL_STORE_LISTEN", default_value = "127.0.0.1:2379")]
    pub listen: SocketAddr,

    /// File that holds everything; made if there is none
    #[arg(long, value_name = "FILE", env = "FLANNEL_STORE_DATA", default_value = "/var/lib/flannel/store.redb")]
    pub data: PathBuf,

    /// Certificate to serve TLS with (PEM)
    #[arg(long, value_name = "FILE", env = "FLANNEL_STORE_CERT_FILE", requires = "key_file")]
    pub cert_file: Option<PathBuf>,

    /// The certificate's key (PEM)
    #[arg(long, value_name = "FILE", env = "FLANNEL_STORE_KEY_FILE", requires = "cert_file")]
    pub key_file: Option<PathBuf>,

    /// CA that clients' certificates must come from (PEM); without it clients need none
    #[arg(long, value_name = "FILE", env = "FLANNEL_STORE_TRUSTED_CA_FILE", requires = "cert_file")]
    pub trusted_ca_file: Option<PathBuf>,

    /// URL that the member list gives to clients [default: the address served on]
    #[arg(long, value_name = "URL", env = "FLANNEL_STORE_ADVERTISE")]
    pub advertise: Option<String>,

    /// Revisions of history that stay readable and watchable
    #[arg(long, value_name = "N", env = "FLANNEL_STORE_KEEP_REVISIONS", default_value_t = 10_000,
          value_parser = clap::value_parser!(i64).range(1..))]
    pub keep_revisions: i64,

    /// How log lines look
    #[arg(long, value_enum, value_name = "FORMAT", env = "FLANNEL_STORE_LOG_FORMAT", default_value = "human")]
    pub log_format: LogFormat,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum LogFormat {
    Human,
    Json,
}

/// Serves until SIGTERM or SIGINT.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    start_log(args.log_format);
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("starting the async runtime")?;
    runtime.block_on(serve(args))?;
    Ok(ExitCode::SUCCESS)
}

async fn serve(args: &Args) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listening for SIGINT")?;
    let mut store = spawn(options(args)).await?;
    tracing::info!(address = %store.address(), data = %args.data.display(), tls = args.cert_file.is_some(), "store is up");
    tokio::select! {
        ended = store.ended() => return Ok(ended?),
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    store.shutdown().await?;
    tracing::info!("store stopped");
    Ok(())
}

fn options(args: &Args) -> Options {
    let tls = args.cert_file.clone().zip(args.key_file.clone()).map(|(cert, key)| TlsFiles {
        cert,
        key,
        trusted_ca: args.trusted_ca_file.clone(),
    });
    Options {
        tls,
        advertise: args.advertise.clone(),
        limits: Limits { keep_revisions: args.keep_revisions, ..Limits::default() },
        ..Options::new(args.listen, &args.data)
    }
}

fn start_log(format: LogFormat) {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into());
    let colour = std::io::stderr().is_terminal();
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colour).with_writer(std::io::stderr);
    match format {
        LogFormat::Human => log.init(),
        LogFormat::Json => log.json().init(),
    }
}
