//! Where leases come from: does it answer, and is its network config any good.

mod kube;

use std::time::Duration;

use tokio::time::timeout;

use super::Finding;
use crate::{
    config::{EtcdConfig, Settings, netconf, settings::SourceChoice},
    model::{Backend, Family, Network},
    source::{
        etcd::{Connector, EtcdError, Session},
        file::FileSource,
        kube::Words,
    },
};

pub(super) const PATIENCE: Duration = Duration::from_secs(3);

/// What the source says of the cluster and of our node.
#[derive(Default)]
pub(super) struct Answer {
    pub(super) findings: Vec<Finding>,
    pub(super) network: Option<Network>,
    pub(super) words: Words,
}

impl Answer {
    fn trouble(finding: Finding) -> Self {
        Self { findings: vec![finding], ..Self::default() }
    }

    fn known(mut findings: Vec<Finding>, network: Network) -> Self {
        findings.push(described(&network));
        Self { findings, network: Some(network), words: Words::default() }
    }
}

pub(super) fn check(settings: &Settings) -> Answer {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return Answer::trouble(Finding::fail("runtime", error.to_string(), "")),
    };
    let answer = runtime.block_on(async {
        match &settings.source {
            SourceChoice::Etcd(config) => etcd(config).await,
            SourceChoice::File(path) => {
                let net_config = settings.net_config_path.exists().then(|| settings.net_config_path.clone());
                let mut source = FileSource::new(path.clone(), net_config);
                if let Ok(network) = timeout(PATIENCE, source.network()).await {
                    let found = Finding::ok("source", format!("{} can be read", path.display()));
                    Answer::known(vec![found], network)
                } else {
                    let detail = format!("{} holds no usable list of nodes and network config", path.display());
                    Answer::trouble(Finding::fail("source", detail, "the warning above says what is wrong"))
                }
            }
            SourceChoice::Kube(config) => {
                kube::check(config, &settings.net_config_path, settings.node_name.as_deref()).await
            }
        }
    });
    runtime.shutdown_background();
    answer
}

async fn etcd(config: &EtcdConfig) -> Answer {
    let endpoints = config.endpoints.join(", ");
    let unreachable = |detail: String| {
        let cure = "start etcd, or name it with --etcd-endpoints; on one machine `flannel-ctl store` will do";
        Answer::trouble(Finding::fail("source", detail, cure))
    };
    let session = match timeout(PATIENCE, Connector::new(config.clone()).connect()).await {
        Ok(Ok(session)) => session,
        Ok(Err(error)) => return unreachable(error.to_string()),
        Err(_) => return unreachable(format!("etcd at {endpoints}: no answer within {} s", PATIENCE.as_secs())),
    };
    match timeout(PATIENCE, look(&session)).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => unreachable(error.to_string()),
        Err(_) => unreachable(format!("etcd at {endpoints}: no answer within {} s", PATIENCE.as_secs())),
    }
}

async fn look(session: &Session) -> Result<Answer, EtcdError> {
    let (leases, _) = session.summary().await?;
    let tls = if session.endpoint().starts_with("https://") { "with TLS" } else { "without TLS" };
    let mut findings =
        vec![Finding::ok("source", format!("etcd at {} answers {tls}, {leases} leases", session.endpoint()))];
    let key = session.config_key();
    let Some(stored) = session.config().await? else {
        let cure = "flannel-ctl config publish FILE";
        findings.push(Finding::fail("network config", format!("there is none at {key}"), cure));
        return Ok(Answer { findings, ..Answer::default() });
    };
    match netconf::parse(&stored.value) {
        Ok(network) => Ok(Answer::known(findings, network)),
        Err(problems) => {
            findings.push(Finding::fail("network config", format!("{key}: {problems}"), "publish a valid one"));
            Ok(Answer { findings, ..Answer::default() })
        }
    }
}

fn described(network: &Network) -> Finding {
    let ranges: Vec<_> = Family::ALL
        .into_iter()
        .filter_map(|family| network.range(family))
        .map(|range| format!("{} in subnets of /{}", range.network, range.subnet_len))
        .collect();
    let backend = match &network.backend {
        Backend::Vxlan(vxlan) => format!("vxlan, VNI {}, port {}", vxlan.vni, vxlan.port),
        Backend::HostGw => "host-gw".into(),
        Backend::Udp { port } => format!("udp, port {port}"),
        Backend::Alloc => "alloc".into(),
    };
    Finding::ok("network config", format!("{}; {backend}", ranges.join(" and ")))
}
