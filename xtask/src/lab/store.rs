//! Where the cluster's leases live.

use std::{
    net::{TcpStream, ToSocketAddrs as _},
    path::{Path, PathBuf},
    str::FromStr,
    sync::Mutex,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};

use super::{
    Netns, binary,
    process::{Process, tail},
    relay::Relay,
    underlay::GATEWAY_V4,
    wait,
};

const PORT: u16 = 2379;

/// Which store a cluster uses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum StoreKind {
    /// `flannel-ctl store`
    #[default]
    Embedded,
    /// The etcd of the PATH.
    Etcd,
    /// An etcd that runs elsewhere; `http://HOST:PORT`.
    Url(String),
    /// Whatever the test itself runs in the underlay's namespace: these endpoints. It also publishes the
    /// network config and calls [`super::Cluster::bring_up`].
    Given(String),
}

impl FromStr for StoreKind {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        Ok(match text {
            "embedded" => Self::Embedded,
            "etcd" => Self::Etcd,
            url if url.starts_with("http://") => Self::Url(url.trim_end_matches('/').to_owned()),
            url if url.starts_with("https://") => bail!(
                "{url}: the nodes reach a store elsewhere through a relay at another address, which its certificate does not name: give an http:// URL"
            ),
            other => bail!("{other}: expected embedded, etcd or a URL"),
        })
    }
}

/// A store that listens on the underlay's gateway address.
#[derive(Debug)]
pub struct Store {
    kind: StoreKind,
    data: PathBuf,
    log: PathBuf,
    running: Mutex<Option<Process>>,
    _relay: Option<Relay>,
}

impl Store {
    pub(super) fn start_in(netns: &Netns, kind: StoreKind, dir: &Path) -> Result<Self> {
        let relay = match &kind {
            StoreKind::Url(url) => {
                let authority = url.trim_start_matches("http://");
                let target = authority
                    .to_socket_addrs()
                    .with_context(|| format!("{url}: expected http://HOST:PORT"))?
                    .next()
                    .with_context(|| format!("{url}: the host has no address"))?;
                TcpStream::connect_timeout(&target, Duration::from_secs(3))
                    .with_context(|| format!("{url} is not reachable"))?;
                Some(Relay::start(netns, (GATEWAY_V4, PORT).into(), target)?)
            }
            StoreKind::Embedded | StoreKind::Etcd | StoreKind::Given(_) => None,
        };
        let store = Self {
            kind,
            data: dir.join("store"),
            log: dir.join("store.log"),
            running: Mutex::default(),
            _relay: relay,
        };
        if matches!(store.kind, StoreKind::Embedded | StoreKind::Etcd) {
            store.start(netns)?;
        }
        Ok(store)
    }

    /// What the nodes are given as `--etcd-endpoints`.
    pub fn endpoint(&self) -> String {
        match &self.kind {
            StoreKind::Given(endpoints) => endpoints.clone(),
            _ => format!("http://{GATEWAY_V4}:{PORT}"),
        }
    }

    /// The test runs it, not the lab.
    pub(super) fn is_given(&self) -> bool {
        matches!(self.kind, StoreKind::Given(_))
    }

    /// Starts the server (again) on the same data and waits until it takes connections.
    pub fn start(&self, netns: &Netns) -> Result<()> {
        let mut command = match self.kind {
            StoreKind::Embedded => {
                let mut command = netns.command(binary::flannel_ctl()?);
                command.args(["store", "--listen", &format!("{GATEWAY_V4}:{PORT}"), "--data"]).arg(&self.data);
                command
            }
            StoreKind::Etcd => {
                let mut command = netns.command("etcd");
                let endpoint = self.endpoint();
                command.arg("--data-dir").arg(&self.data).args([
                    "--listen-client-urls",
                    &endpoint,
                    "--advertise-client-urls",
                    &endpoint,
                    "--listen-peer-urls",
                    "http://127.0.0.1:2380",
                ]);
                command
            }
            StoreKind::Url(_) | StoreKind::Given(_) => bail!("a store elsewhere is not the lab's to start"),
        };
        let mut process = Process::spawn("the store", &mut command, &self.log)?;
        let mut ended = None;
        let up = wait::until("the store to take connections", wait::LONG, || {
            if let Ok(Some(status)) = process.ended() {
                ended = Some(status);
                return Some(());
            }
            let tried =
                netns.enter(|| TcpStream::connect_timeout(&(GATEWAY_V4, PORT).into(), Duration::from_millis(200)));
            tried.ok()?.ok().map(drop)
        });
        if ended.is_some() || up.is_err() {
            bail!("the store does not start ({ended:?}):\n{}", tail(&self.log, 12));
        }
        *self.slot() = Some(process);
        Ok(())
    }

    /// SIGTERM and wait.
    pub fn stop(&self) -> Result<()> {
        let status = self.take()?.stop()?;
        ensure!(status.success() || self.kind == StoreKind::Etcd, "the store ended with {status}");
        Ok(())
    }

    /// SIGKILL and wait.
    pub fn kill(&self) -> Result<()> {
        self.take()?.kill().map(drop)
    }

    /// Process id, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.slot().as_ref().map(Process::pid)
    }

    fn take(&self) -> Result<Process> {
        self.slot().take().context("the store is not running")
    }

    fn slot(&self) -> std::sync::MutexGuard<'_, Option<Process>> {
        self.running.lock().expect("no panic while starting or stopping the store")
    }
}
