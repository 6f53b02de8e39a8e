//! The network side: listen, serve, stop.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};

use super::engine::{Engine, Limits};
use super::file::FileError;
use super::service::Service;

/// Streams that one connection may have open: every watch and every keep-alive is one.
const MAX_STREAMS: u32 = 16_384;
/// Requests of one connection that are worked on at a time.
const MAX_REQUESTS: usize = 1024;
/// How long a stop waits for clients to take their last answers.
const GRACE: Duration = Duration::from_secs(2);

/// PEM files.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    pub cert: PathBuf,
    pub key: PathBuf,
    /// With it, clients must show a certificate that this CA signed.
    pub trusted_ca: Option<PathBuf>,
}

/// What to serve, and where.
#[derive(Clone, Debug)]
pub struct Options {
    /// Port 0 takes a free one, see [`Handle::address`].
    pub listen: SocketAddr,
    pub data: PathBuf,
    pub tls: Option<TlsFiles>,
    /// URL that the member list gives to clients; by default the address listened on.
    pub advertise: Option<String>,
    pub limits: Limits,
}

impl Options {
    /// A plain store with the default limits.
    pub fn new(listen: SocketAddr, data: impl Into<PathBuf>) -> Self {
        Self { listen, data: data.into(), tls: None, advertise: None, limits: Limits::default() }
    }
}

/// Why the store does not run, or not any more.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("listening on {address}: {error}{}", usually(error))]
    Listen { address: SocketAddr, error: std::io::Error },
    #[error("reading {}: {error}", path.display())]
    TlsFile { path: PathBuf, error: std::io::Error },
    #[error("setting up TLS from {}: {error}", path.display())]
    Tls { path: PathBuf, error: tonic::transport::Error },
    #[error("serving: {0}")]
    Serve(tonic::transport::Error),
    #[error("the task that serves ended early: {0}")]
    Task(tokio::task::JoinError),
}

/// What usually explains that a port cannot be listened on.
fn usually(error: &std::io::Error) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::AddrInUse => "; another store or etcd may have the port",
        std::io::ErrorKind::AddrNotAvailable => "; no interface of this machine has the address",
        _ => "",
    }
}

/// A running store. Dropping it stops the store without waiting; [`Handle::shutdown`] waits.
#[derive(Debug)]
pub struct Handle {
    address: SocketAddr,
    stop_tx: watch::Sender<bool>,
    task: JoinHandle<Result<(), Error>>,
}

/// Opens the file, binds the address and serves in the background of the current tokio runtime.
///
/// ```no_run
/// # async fn example() -> Result<(), flannel_ctl::store::server::Error> {
/// use flannel_ctl::store::server::{Options, spawn};
/// let store = spawn(Options::new(([127, 0, 0, 1], 0).into(), "/tmp/store.redb")).await?;
/// println!("http://{}", store.address());
/// store.shutdown().await
/// # }
/// ```
pub async fn spawn(options: Options) -> Result<Handle, Error> {
    let mut server = Server::builder()
        .max_concurrent_streams(MAX_STREAMS)
        .concurrency_limit_per_connection(MAX_REQUESTS)
        .http2_keepalive_interval(Some(Duration::from_secs(30)))
        .http2_keepalive_timeout(Some(Duration::from_secs(20)));
    if let Some(files) = &options.tls {
        let tls = tls_config(files).await?;
        server = server.tls_config(tls).map_err(|error| Error::Tls { path: files.cert.clone(), error })?;
    }

    let listen = |error| Error::Listen { address: options.listen, error };
    let listener = TcpListener::bind(options.listen).await.map_err(listen)?;
    let address = listener.local_addr().map_err(listen)?;
    let (engine, writer_rx) = Engine::open(&options.data, options.limits)?;

    let (stop_tx, stop_rx) = watch::channel(false);
    let scheme = if options.tls.is_some() { "https" } else { "http" };
    let service = Service {
        engine: engine.clone(),
        client_url: options.advertise.unwrap_or_else(|| own_url(scheme, address)),
        path: options.data,
        stopping: stop_rx.clone(),
    };
    // tonic sets socket options only on listeners that it opens itself.
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let router = server.add_routes(service.routes());
    let task = tokio::spawn(async move {
        let expiry = tokio::spawn(engine.expire_leases());
        let serving = router.serve_with_incoming_shutdown(incoming, stopped(stop_rx.clone()));
        serve(serving, writer_rx, stop_rx, expiry).await
    });
    Ok(Handle { address, stop_tx, task })
}

impl Handle {
    /// The address bound, with the real port.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops serving, and answers once the file is released.
    pub async fn shutdown(self) -> Result<(), Error> {
        self.stop_tx.send_replace(true);
        self.task.await.map_err(Error::Task)?
    }

    /// Waits until the store ends by itself, which it does only with an error.
    pub async fn ended(&mut self) -> Result<(), Error> {
        (&mut self.task).await.map_err(Error::Task)?
    }
}

async fn serve(
    serving: impl Future<Output = Result<(), tonic::transport::Error>>,
    mut writer_rx: oneshot::Receiver<FileError>,
    stop_rx: watch::Receiver<bool>,
    expiry: JoinHandle<()>,
) -> Result<(), Error> {
    let overdue = async {
        stopped(stop_rx).await;
        tokio::time::sleep(GRACE).await;
    };
    tokio::select! {
        served = serving => served.map_err(Error::Serve)?,
        () = overdue => tracing::warn!("some clients did not take their last answers in time"),
        Ok(error) = &mut writer_rx => return Err(error.into()),
    }
    expiry.abort();
    // The writer ends with the last request that it was given, and releases the file.
    match tokio::time::timeout(GRACE, writer_rx).await {
        Ok(Ok(error)) => Err(error.into()),
        Ok(Err(_)) | Err(_) => Ok(()),
    }
}

async fn stopped(mut stop_rx: watch::Receiver<bool>) {
    // The handle being dropped is a stop too.
    drop(stop_rx.wait_for(|stop| *stop).await);
}

async fn tls_config(files: &TlsFiles) -> Result<ServerTlsConfig, Error> {
    let mut config =
        ServerTlsConfig::new().identity(Identity::from_pem(read(&files.cert).await?, read(&files.key).await?));
    if let Some(ca) = &files.trusted_ca {
        config = config.client_ca_root(Certificate::from_pem(read(ca).await?));
    }
    Ok(config)
}

async fn read(path: &PathBuf) -> Result<Vec<u8>, Error> {
    tokio::fs::read(path).await.map_err(|error| Error::TlsFile { path: path.clone(), error })
}

/// Empty for a wildcard address, which is no use to a client.
fn own_url(scheme: &str, address: SocketAddr) -> String {
    if address.ip().is_unspecified() { String::new() } else { format!("{scheme}://{address}") }
}
