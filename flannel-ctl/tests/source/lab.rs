//! Servers to lease from.

use std::{
    fs::File,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use etcd_client::{Client, ConnectOptions};
use flannel_ctl::config::EtcdConfig;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

pub(crate) const PREFIX: &str = "/coreos.com/network";
pub(crate) const NETWORK: &str = r#"{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}"#;

/// What the suite runs against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Etcd,
    Embedded,
}

/// A server on the loopback; it ends with the value.
pub(crate) struct Server {
    pub url: String,
    pub port: u16,
    command: Vec<String>,
    child: Option<Child>,
    /// Data, and the log that a failed start prints.
    dir: TempDir,
}

impl Server {
    /// `None`, said loudly, where the server is not installed; an error where CI expects it.
    pub(crate) async fn start(kind: Kind) -> Option<Self> {
        match kind {
            Kind::Etcd => Self::etcd(&[]).await,
            Kind::Embedded => Self::embedded().await,
        }
    }

    pub(crate) async fn etcd(more: &[&str]) -> Option<Self> {
        let ports = free_ports(2);
        let url = format!("http://127.0.0.1:{}", ports[0]);
        let peer = format!("http://127.0.0.1:{}", ports[1]);
        let mut arguments: Vec<&str> = vec!["--listen-client-urls", &url, "--advertise-client-urls", &url];
        let cluster = format!("default={peer}");
        arguments.extend(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        arguments.extend(["--initial-cluster", &cluster]);
        arguments.extend(more);
        let server = Self::spawn(&url, ports[0], &arguments)?;
        server.ready().await;
        Some(server)
    }

    /// With TLS on the client side; not waited for.
    pub(crate) fn etcd_tls(more: &[&str]) -> Option<Self> {
        let ports = free_ports(2);
        let url = format!("https://127.0.0.1:{}", ports[0]);
        let peer = format!("http://127.0.0.1:{}", ports[1]);
        let cluster = format!("default={peer}");
        let mut arguments = vec!["--listen-client-urls", &url, "--advertise-client-urls", &url];
        arguments.extend(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        arguments.extend(["--initial-cluster", &cluster]);
        arguments.extend(more);
        Self::spawn(&url, ports[0], &arguments)
    }

    /// Three members, ready when all answer.
    pub(crate) async fn cluster() -> Option<Vec<Self>> {
        let ports = free_ports(6);
        let (clients, peers) = ports.split_at(3);
        let peer = |i: usize| format!("http://127.0.0.1:{}", peers[i]);
        let all = (0..3).map(|i| format!("m{i}={}", peer(i))).collect::<Vec<_>>().join(",");
        let mut members = Vec::new();
        for (i, &port) in clients.iter().enumerate() {
            let (name, url, own) = (format!("m{i}"), format!("http://127.0.0.1:{port}"), peer(i));
            let mut arguments = vec!["--name", &name, "--initial-cluster", &all, "--initial-cluster-state", "new"];
            arguments.extend(["--listen-client-urls", &url, "--advertise-client-urls", &url]);
            arguments.extend(["--listen-peer-urls", &own, "--initial-advertise-peer-urls", &own]);
            members.push(Self::spawn(&url, port, &arguments)?);
        }
        for member in &members {
            member.ready().await;
        }
        Some(members)
    }

    async fn embedded() -> Option<Self> {
        let port = free_ports(1)[0];
        let url = format!("http://127.0.0.1:{port}");
        let dir = TempDir::new().unwrap();
        let listen = format!("127.0.0.1:{port}");
        let data = dir.path().join("store.db").display().to_string();
        let binary = env!("CARGO_BIN_EXE_flannel-ctl");
        let command = [binary, "store", "--listen", &listen, "--data", &data].map(str::to_owned).to_vec();
        let mut server = Self { url, port, command, child: None, dir };
        server.go();
        server.ready().await;
        Some(server)
    }

    /// Starts etcd without waiting for it: members of a cluster wait for each other.
    pub(crate) fn spawn(url: &str, port: u16, arguments: &[&str]) -> Option<Self> {
        let binary = etcd_binary()?;
        let dir = TempDir::new().unwrap();
        let data = dir.path().join("data").display().to_string();
        let mut command =
            vec![binary.display().to_string(), "--data-dir".into(), data, "--log-level".into(), "warn".into()];
        command.extend(arguments.iter().map(|&argument| argument.to_owned()));
        let mut server = Self { url: url.into(), port, command, child: None, dir };
        server.go();
        Some(server)
    }

    /// Starts the process, anew after [`Self::kill`], on the same data.
    pub(crate) fn go(&mut self) {
        let log = File::create(self.dir.path().join("log")).unwrap();
        let child =
            Command::new(&self.command[0]).args(&self.command[1..]).stdout(Stdio::null()).stderr(log).spawn().unwrap();
        self.child = Some(child);
    }

    /// Waits until it answers a plain-text read.
    pub(crate) async fn ready(&self) {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            if let Ok(mut client) = Client::connect([&self.url], None).await
                && client.get("x", None).await.is_ok()
            {
                return;
            }
            if Instant::now() > deadline {
                let log = std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
                panic!("{} does not answer; its log: {log}", self.command.join(" "));
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// All data is gone while the server is down, as after a lost disk.
    pub(crate) fn lose_data(&mut self) {
        self.kill();
        for name in ["data", "store.db"] {
            let path = self.dir.path().join(name);
            if path.is_dir() {
                std::fs::remove_dir_all(path).unwrap();
            } else if path.exists() {
                std::fs::remove_file(path).unwrap();
            }
        }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = self.child.as_ref().unwrap().id();
        kill(Pid::from_raw(pid.try_into().unwrap()), signal).unwrap();
    }

    pub(crate) fn config(&self) -> EtcdConfig {
        config(&[&self.url])
    }

    pub(crate) async fn client(&self) -> Client {
        Client::connect([&self.url], Some(ConnectOptions::new())).await.unwrap()
    }

    /// A client for a network that is set up.
    pub(crate) async fn with_network(&self, network: &str) -> Client {
        let mut client = self.client().await;
        client.put(format!("{PREFIX}/config"), network, None).await.unwrap();
        client
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

pub(crate) fn config(urls: &[&str]) -> EtcdConfig {
    EtcdConfig {
        endpoints: urls.iter().map(|&url| url.to_owned()).collect(),
        prefix: PREFIX.into(),
        ca_file: None,
        cert_file: None,
        key_file: None,
        username: None,
        password: None,
    }
}

/// Different from each other, and free a moment ago.
pub(crate) fn free_ports(count: usize) -> Vec<u16> {
    let listeners: Vec<_> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    listeners.iter().map(|listener| listener.local_addr().unwrap().port()).collect()
}

fn etcd_binary() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|dir| dir.join("etcd")).find(|path| path.is_file());
    if found.is_none() {
        missing("etcd is not installed (apt-get install etcd-server)");
    }
    found
}

/// A test that cannot run says so, and fails where CI has promised that it can.
pub(crate) fn missing(what: &str) {
    assert!(std::env::var_os("CI").is_none(), "{what}");
    eprintln!("NOT RUN: {what}");
}

pub(crate) fn openssl_is_there() -> bool {
    let there = Path::new("/usr/bin/openssl").exists();
    if !there {
        missing("openssl is not installed (apt-get install openssl)");
    }
    there
}
