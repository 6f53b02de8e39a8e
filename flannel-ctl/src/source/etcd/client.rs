//! Finding an etcd member that answers.

use std::{fs, path::Path, time::Duration};

use etcd_client::{Certificate, Channel, Client, ConnectOptions, Identity, TlsOptions};
use tokio::time::timeout;
use tonic::transport::Endpoint;

use super::{EtcdError, Session};
use crate::config::EtcdConfig;

/// Long enough for a lost SYN to be sent again once, short enough that the end of an outage is
/// noticed within a second or so.
const TCP_CONNECT: Duration = Duration::from_millis(1500);
/// TCP, TLS, authentication and a first read together.
pub(super) const CONNECT: Duration = Duration::from_secs(4);
/// etcd closes the connection of a client that pings more often than each 5 s
/// (`--grpc-keepalive-min-time`).
const PING_EVERY: Duration = Duration::from_millis(5500);
/// A stopped server is noticed after `PING_EVERY` and this.
const PING_ANSWER: Duration = Duration::from_secs(3);

/// Goes through the configured endpoints, and only those: what a member says about its cluster
/// is not followed.
#[derive(Clone, Debug)]
pub struct Connector {
    config: EtcdConfig,
    /// Where the next round begins.
    next: usize,
}

/// No endpoint answered; one error for each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoEndpoint(pub Vec<EtcdError>);

impl std::fmt::Display for NoEndpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (i, error) in self.0.iter().enumerate() {
            write!(f, "{}{error}", if i == 0 { "" } else { "; " })?;
        }
        if self.0.is_empty() { f.write_str("no etcd endpoint is configured") } else { Ok(()) }
    }
}

impl std::error::Error for NoEndpoint {}

impl Connector {
    pub fn new(config: EtcdConfig) -> Self {
        Self { config, next: 0 }
    }

    /// One round: the first endpoint that answers a read. The one that answered last is tried
    /// first, unless [`Self::step`] said that it failed since.
    pub async fn connect(&mut self) -> Result<Session, NoEndpoint> {
        let count = self.config.endpoints.len();
        let mut errors = vec![None; count];
        for turn in 0..count {
            let index = (self.next + turn) % count;
            match self.try_endpoint(&self.config.endpoints[index]).await {
                Ok(session) => {
                    self.next = index;
                    return Ok(session);
                }
                Err(error) => errors[index] = Some(error),
            }
        }
        Err(NoEndpoint(errors.into_iter().flatten().collect()))
    }

    /// Begins the next round with the endpoint behind the one that was connected.
    pub fn step(&mut self) {
        self.next = (self.next + 1) % self.config.endpoints.len().max(1);
    }

    async fn try_endpoint(&self, url: &str) -> Result<Session, EtcdError> {
        timeout(CONNECT, self.open(url)).await.unwrap_or_else(|_| Err(EtcdError::timeout(url, "connect", CONNECT)))
    }

    async fn open(&self, url: &str) -> Result<Session, EtcdError> {
        let endpoint = self.endpoint(url)?;
        let channel = endpoint.connect().await.map_err(|error| EtcdError::connect(url, &error))?;
        let mut options = ConnectOptions::new().with_require_leader(true).with_auto_token_refresh(true);
        if let (Some(user), Some(password)) = (&self.config.username, &self.config.password) {
            options = options.with_user(user, password.reveal());
        }
        let client = Client::from_channel(Channel::Tonic(channel), Some(options))
            .await
            .map_err(|error| EtcdError::new(url, "authenticate", &error).at_first())?;
        let session = Session::new(url, &self.config.prefix, &client);
        // Connected is not yet served: the member may have no leader, or we no rights.
        session.config().await.map_err(EtcdError::at_first)?;
        Ok(session)
    }

    fn endpoint(&self, url: &str) -> Result<Endpoint, EtcdError> {
        let fail = |error: &tonic::transport::Error| EtcdError::connect(url, error);
        let endpoint = Endpoint::from_shared(url.to_owned())
            .map_err(|error| fail(&error))?
            .connect_timeout(TCP_CONNECT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_ANSWER)
            // Pings on a connection without requests count as abuse for etcd at any rate.
            .keep_alive_while_idle(false);
        if url.starts_with("https://") {
            endpoint.tls_config(self.tls(url)?).map_err(|error| {
                let answer = std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string);
                EtcdError::tls(url, "set up TLS".into(), answer)
            })
        } else {
            Ok(endpoint)
        }
    }

    /// The files are read on every connection, so that renewed ones are taken up.
    fn tls(&self, url: &str) -> Result<TlsOptions, EtcdError> {
        let read = |what: &str, path: &Path| {
            let attempt = || format!("read {what} {}", path.display());
            let bytes = fs::read(path).map_err(|error| EtcdError::tls(url, attempt(), error.to_string()))?;
            if bytes.windows(11).any(|window| window == b"-----BEGIN ") {
                Ok(bytes)
            } else {
                Err(EtcdError::tls(url, attempt(), "no PEM block in it".into()))
            }
        };
        let mut tls = match &self.config.ca_file {
            Some(path) => TlsOptions::new().ca_certificate(Certificate::from_pem(read("CA file", path)?)),
            None => TlsOptions::new().with_enabled_roots(),
        };
        if let (Some(cert), Some(key)) = (&self.config.cert_file, &self.config.key_file) {
            tls = tls.identity(Identity::from_pem(read("client certificate", cert)?, read("client key", key)?));
        }
        Ok(tls.timeout(CONNECT))
    }
}
