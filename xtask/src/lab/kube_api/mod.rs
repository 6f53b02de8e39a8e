//! A fake Kubernetes API server: nodes in memory, list in pages, watch with history, patch of a node's status,
//! tokens, refusals, TLS. Not Kubernetes: nothing registers nodes or hands out podCIDRs but the test.

mod http;
mod objects;
mod serve;
mod tls;

use std::{
    collections::BTreeMap,
    fs,
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context as _, Result};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::Value;

use self::serve::Shared;
use super::Netns;

/// flannel's annotations begin so.
const PREFIX: &str = "flannel.alpha.coreos.com/";

/// How the server speaks.
#[derive(Clone, Debug, Default)]
pub struct KubeApiOptions {
    /// Where `certificates` made its files: TLS.
    pub tls: Option<PathBuf>,
    /// Only who has a certificate may come, and needs no token.
    pub client_certificates: bool,
}

/// The server; it ends with the value.
#[derive(Debug)]
pub struct KubeApi {
    shared: Arc<Shared>,
    address: SocketAddr,
    tls: Option<Arc<ServerConfig>>,
    known: bool,
    netns: Option<PathBuf>,
    running: Mutex<Option<Running>>,
}

/// Nodes as they once were.
#[derive(Debug)]
pub struct KubeBackup(objects::Backup);

#[derive(Debug)]
struct Running {
    ended: Arc<AtomicBool>,
    connections: Arc<Mutex<Vec<TcpStream>>>,
    accepting: JoinHandle<()>,
    address: SocketAddr,
    netns: Option<PathBuf>,
}

impl KubeApi {
    /// Listens at `address` in `netns`, or here. Port 0 is any.
    pub fn start(netns: Option<&Netns>, address: SocketAddr, options: &KubeApiOptions) -> Result<Self> {
        let tls = options.tls.as_deref().map(|dir| tls::config(dir, options.client_certificates)).transpose()?;
        let mut api = Self {
            shared: Arc::default(),
            address,
            tls,
            known: options.client_certificates,
            netns: netns.map(Netns::path),
            running: Mutex::default(),
        };
        api.address = api.go()?;
        Ok(api)
    }

    /// What nodes are given.
    pub fn url(&self) -> String {
        format!("{}://{}", if self.tls.is_some() { "https" } else { "http" }, self.address)
    }

    /// Every connection breaks, and nobody listens any more. Objects stay.
    pub fn stop(&self) {
        drop(self.running.lock().expect("no panic while starting or stopping").take());
    }

    /// Listens again after [`Self::stop`].
    pub fn again(&self) -> Result<()> {
        self.go().map(drop)
    }

    /// A node registers. `cidrs`: what the controller manager gave it.
    pub fn add_node(&self, name: &str, cidrs: &[&str]) {
        self.shared.with(|objects| objects.add(name, cidrs, 0));
    }

    /// A node with everything that flannel would have written.
    pub fn add_peer(&self, name: &str, cidr: &str, public_ip: &str, mac: &str) {
        self.add_large_peer(name, cidr, public_ip, mac, 0);
    }

    /// The same with so many more bytes in its status.
    pub fn add_large_peer(&self, name: &str, cidr: &str, public_ip: &str, mac: &str, bytes: usize) {
        self.shared.with(|objects| objects.add(name, &[cidr], bytes));
        let data = format!(r#"{{"VNI":1,"VtepMAC":"{mac}"}}"#);
        let annotations = [
            ("kube-subnet-manager", Some("true")),
            ("backend-type", Some("vxlan")),
            ("backend-data", Some(data.as_str())),
            ("public-ip", Some(public_ip)),
        ];
        self.annotate(name, &annotations);
    }

    /// Another podCIDR.
    pub fn set_cidrs(&self, name: &str, cidrs: &[&str]) {
        self.shared.with(|objects| objects.set_cidrs(name, cidrs));
    }

    /// The node object is deleted.
    pub fn remove_node(&self, name: &str) {
        self.shared.with(|objects| objects.remove(name));
    }

    /// Annotations of flannel's, without their prefix; `None` removes.
    pub fn annotate(&self, name: &str, annotations: &[(&str, Option<&str>)]) {
        let texts = annotations.iter().map(|(name, text)| (format!("{PREFIX}{name}"), text.map(str::to_owned)));
        let texts: BTreeMap<_, _> = texts.collect();
        let patch = serde_json::json!({"metadata": {"annotations": texts}});
        self.shared.with(|objects| drop(objects.change(name, |node| objects::patch_status(node, &patch)).cloned()));
    }

    /// A heartbeat: another version of the node that says nothing new.
    pub fn touch(&self, name: &str) {
        self.shared.with(|objects| {
            let beat = objects.version();
            objects.change(name, |node| node["status"]["heartbeat"] = beat.into());
        });
    }

    /// The node as it is now.
    pub fn node(&self, name: &str) -> Option<Value> {
        self.shared.with(|objects| objects.node(name).cloned())
    }

    /// One of a node's annotations of flannel's, without the prefix.
    pub fn annotation(&self, node: &str, name: &str) -> Option<String> {
        self.node(node)?["metadata"]["annotations"][format!("{PREFIX}{name}")].as_str().map(str::to_owned)
    }

    /// Which node a pod runs on.
    pub fn place_pod(&self, namespace: &str, pod: &str, node: &str) {
        self.shared.with(|objects| objects.pods.insert(format!("{namespace}/{pod}"), node.to_owned()));
    }

    /// From now on only these tokens are good.
    pub fn accept(&self, tokens: &[&str]) {
        self.shared.with(|objects| objects.tokens = Some(tokens.iter().map(|&token| token.to_owned()).collect()));
    }

    /// No role grants this verb on this resource any more.
    pub fn refuse(&self, verb: &str, resource: &str) {
        self.shared.with(|objects| objects.refused.insert((verb.to_owned(), resource.to_owned())));
    }

    /// Every role grants everything.
    pub fn allow(&self) {
        self.shared.with(|objects| objects.refused.clear());
    }

    /// Every answer waits for so long.
    pub fn delay(&self, delay: Duration) {
        self.shared.with(|objects| objects.delay = delay);
    }

    /// The history is gone.
    pub fn compact(&self) {
        self.shared.with(objects::Objects::compact);
    }

    /// All nodes as they are now, for [`Self::restore`].
    pub fn back_up(&self) -> KubeBackup {
        KubeBackup(self.shared.with(|objects| objects.back_up()))
    }

    /// Everything is as it was, versions too, and what happened since has not happened.
    pub fn restore(&self, backup: KubeBackup) {
        self.shared.with(|objects| objects.restore(backup.0));
    }

    /// Every watch breaks.
    pub fn cut_watches(&self) {
        self.shared.with(|objects| objects.watches += 1);
    }

    /// Every request so far, as `verb resource name`; `peek` is a list of one.
    pub fn requests(&self) -> Vec<String> {
        self.shared.with(|objects| objects.requests.clone())
    }

    /// How many of them begin so.
    pub fn count(&self, beginning: &str) -> usize {
        self.requests().iter().filter(|request| request.starts_with(beginning)).count()
    }

    /// Writes a kubeconfig for this server. `user`: YAML of its one user, such as `tokenFile: /x/token`.
    pub fn kubeconfig(&self, path: &Path, user: &str) -> Result<()> {
        self.kubeconfig_with(path, "", user)
    }

    /// The same with more about the cluster, such as `certificate-authority: /x/ca.pem`.
    pub fn kubeconfig_with(&self, path: &Path, cluster: &str, user: &str) -> Result<()> {
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: lab\ncontexts:\n- name: lab\n  context: {{cluster: lab, user: \
             lab}}\nclusters:\n- name: lab\n  cluster:\n    server: {}\n    {cluster}\nusers:\n- name: lab\n  user:\n    \
             {}\n",
            self.url(),
            if user.is_empty() { "{}" } else { user },
        );
        fs::write(path, text).with_context(|| format!("writing {}", path.display()))
    }

    fn go(&self) -> Result<SocketAddr> {
        let mut running = self.running.lock().expect("no panic while starting or stopping");
        drop(running.take());
        let listener = inside(self.netns.as_deref(), || TcpListener::bind(self.address))??;
        let address = listener.local_addr()?;
        let ended = Arc::new(AtomicBool::new(false));
        let connections = Arc::new(Mutex::new(Vec::new()));
        let (shared, tls, known) = (Arc::clone(&self.shared), self.tls.clone(), self.known);
        let (over, open) = (Arc::clone(&ended), Arc::clone(&connections));
        let accepting = thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if over.load(Ordering::Relaxed) {
                    return;
                }
                let Ok(handle) = stream.try_clone() else { continue };
                open.lock().expect("no panic while connections are kept").push(handle);
                let (shared, tls, over) = (Arc::clone(&shared), tls.clone(), Arc::clone(&over));
                thread::spawn(move || converse(&shared, stream, tls, known, &over));
            }
        });
        *running = Some(Running { ended, connections, accepting, address, netns: self.netns.clone() });
        Ok(address)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        for connection in self.connections.lock().expect("no panic while connections are kept").drain(..) {
            // Most have ended long since.
            drop(connection.shutdown(Shutdown::Both));
        }
        // The last connection is the one that wakes the thread which accepts.
        drop(inside(self.netns.as_deref(), || TcpStream::connect(self.address)));
        let limit = std::time::Instant::now() + Duration::from_secs(5);
        while !self.accepting.is_finished() && std::time::Instant::now() < limit {
            thread::sleep(Duration::from_millis(2));
        }
    }
}

fn converse(shared: &Shared, stream: TcpStream, tls: Option<Arc<ServerConfig>>, known: bool, over: &AtomicBool) {
    let ended = || over.load(Ordering::Relaxed);
    // Whoever asked may be gone by now: a fault is the client's to notice.
    let socket = match tls {
        None => {
            drop(shared.serve(&mut &stream, known, &ended));
            stream
        }
        Some(config) => {
            let Ok(connection) = ServerConnection::new(config) else { return };
            let mut stream = StreamOwned::new(connection, stream);
            drop(shared.serve(&mut stream, known, &ended));
            stream.conn.send_close_notify();
            drop(stream.conn.complete_io(&mut stream.sock));
            stream.sock
        }
    };
    // A copy of it waits in `Running`.
    drop(socket.shutdown(Shutdown::Both));
}

fn inside<T: Send>(netns: Option<&Path>, work: impl FnOnce() -> T + Send) -> Result<T> {
    match netns {
        None => Ok(work()),
        Some(path) => Netns::enter_at(path, work),
    }
}
