//! Before there is a lease: the network config, which node we are, and what it says of itself.

use std::{env, fs, io::Read as _, path::Path, time::Duration};

use tokio::time::sleep;

use super::{
    KubeSource, Session,
    annotations::{Addresses, Names},
    connect::connect,
    error::{Kind, KubeError},
    node::{Node, cut_by},
    own::without_range,
};
use crate::{
    config::netconf,
    model::{Backend, Family, Mac, Network},
    state::node_id::host_name,
};

/// Between two looks at what only an administrator can change.
const LOOK: Duration = Duration::from_secs(2);

/// What a node's annotations tell its own daemon before it starts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Words {
    /// Stand for `--public-ip` and `--public-ipv6`.
    pub public: Addresses,
    /// What the last lease said our VXLAN devices have.
    pub vteps: [Option<Mac>; 2],
}

impl KubeSource {
    /// The network config, cut as Kubernetes cuts it; waits until both the file and our node have what is needed.
    pub async fn network(&mut self) -> Network {
        loop {
            match read(&self.net_config) {
                Ok(network) => {
                    let session = self.connected().await;
                    let (name, node) = self.known(&session).await;
                    match cut(&name, &node, &network) {
                        Ok(network) => {
                            self.health.up(None, session.server());
                            self.network = Some(network.clone());
                            return network;
                        }
                        Err(trouble) => self.wait_out(&trouble).await,
                    }
                    self.own = None;
                }
                Err(trouble) => self.wait_out(&trouble).await,
            }
        }
    }

    /// What our node says of itself; known once there is a network.
    pub fn words(&self) -> Result<Words, String> {
        match (&self.own, &self.network) {
            (Some((_, node)), Some(network)) => words(node, network, &self.names),
            _ => Ok(Words::default()),
        }
    }

    /// The session that is open, or a new one, however long that takes.
    pub(super) async fn connected(&mut self) -> Session {
        loop {
            if let Some(session) = &self.session {
                return session.clone();
            }
            match connect(&self.settings).await {
                Ok(session) => self.session = Some(session),
                Err(error) => self.failed(&error).await,
            }
        }
    }

    /// Our node, as it is known already or as the server has it, however long that takes.
    pub(super) async fn known(&mut self, session: &Session) -> (String, Node) {
        let mut session = session.clone();
        loop {
            if let Some(own) = &self.own {
                return own.clone();
            }
            match look(&session, self.node_name.as_deref()).await {
                Ok(own) => self.own = Some(own),
                Err(error) => {
                    self.failed(&error).await;
                    session = self.connected().await;
                }
            }
        }
    }

    pub(super) async fn failed(&mut self, error: &KubeError) {
        self.health.down(None, &error.to_string());
        self.session = None;
        sleep(self.health.wait(error.kind.trouble(), 0)).await;
    }

    pub(super) async fn wait_out(&mut self, trouble: &str) {
        self.health.down(None, trouble);
        sleep(LOOK.mul_f64(rand::random_range(0.5..1.0))).await;
    }
}

/// Which node we are, and what the server says of it.
pub(super) async fn look(session: &Session, given: Option<&str>) -> Result<(String, Node), KubeError> {
    let name = name(session, given).await?;
    match session.node(&name).await {
        Ok(node) => Ok((name, node)),
        Err(error) if error.kind == Kind::NotFound => {
            let answer = format!(
                "{}; its name must be the one that kubelet registers: give --node-name, or NODE_NAME from spec.nodeName",
                error.answer
            );
            Err(KubeError { answer, ..error })
        }
        Err(error) => Err(error),
    }
}

/// As flannel finds it: `NODE_NAME`, else the pod's node; beside it our own option, and the host's name.
async fn name(session: &Session, given: Option<&str>) -> Result<String, KubeError> {
    let variable = |name: &str| env::var(name).ok().filter(|text| !text.is_empty());
    if let Some(name) = given.map(str::to_owned).or_else(|| variable("NODE_NAME")) {
        return Ok(name);
    }
    match (variable("POD_NAMESPACE"), variable("POD_NAME")) {
        (Some(namespace), Some(pod)) => session.node_of_pod(&namespace, &pod).await,
        _ => Ok(host_name().to_ascii_lowercase()),
    }
}

/// The network config of the file, or what is wrong with it.
pub fn read(path: &Path) -> Result<Network, String> {
    let mut text = Vec::new();
    let limit = u64::try_from(netconf::LARGEST).unwrap_or(u64::MAX) + 1;
    fs::File::open(path)
        .and_then(|file| file.take(limit).read_to_end(&mut text))
        .map_err(|error| format!("read the network config {}: {error}", path.display()))?;
    netconf::parse(&text).map_err(|error| format!("{}: {error}", path.display()))
}

/// The network with our node's part of it.
pub(super) fn cut(name: &str, node: &Node, network: &Network) -> Result<Network, String> {
    let subnet = node.subnet().map_err(|reason| without_range(name, &reason))?;
    cut_by(network, &subnet)
}

/// What a node's annotations tell its own daemon.
pub(super) fn words(node: &Node, network: &Network, names: &Names) -> Result<Words, String> {
    let public = names.node_public(node.annotations())?;
    let vteps = match &network.backend {
        Backend::Vxlan(vxlan) => Family::ALL.map(|family| names.vtep(node.annotations(), family, vxlan.vni)),
        Backend::HostGw | Backend::Udp { .. } | Backend::Alloc => [None; 2],
    };
    Ok(Words { public, vteps })
}
