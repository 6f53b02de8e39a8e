//! What the source of leases says to somebody who only looks.

use std::time::Duration;

use tokio::{sync::watch, time::timeout};

use super::{PATIENCE, PreviewError};
use crate::{
    config::{EtcdConfig, Settings, netconf, settings::SourceChoice},
    model::{LeaseRecord, Network},
    source::{
        Event, LeaseRequest, OwnLease,
        etcd::Connector,
        file::FileSource,
        kube::{Survey, survey},
    },
};

/// What the source says before it is told who we are.
pub(super) enum Leases {
    Listed(Vec<LeaseRecord>),
    File(Box<FileSource>),
    Kube(Box<Survey>),
}

pub(super) async fn learn(settings: &Settings) -> Result<(Network, Leases), PreviewError> {
    let silent = |from: String| move |_| PreviewError::Silent { from };
    match &settings.source {
        SourceChoice::Etcd(etcd) => {
            let from = format!("etcd at {}", etcd.endpoints.join(", "));
            timeout(PATIENCE, list(etcd)).await.map_err(silent(from))?
        }
        SourceChoice::File(path) => {
            let net_config = settings.net_config_path.exists().then(|| settings.net_config_path.clone());
            let mut source = FileSource::new(path.clone(), net_config);
            let network = timeout(PATIENCE, source.network()).await.map_err(silent(path.display().to_string()))?;
            Ok((network, Leases::File(Box::new(source))))
        }
        SourceChoice::Kube(kube) => {
            let from = "the Kubernetes API server".to_owned();
            let looked = survey(kube, &settings.net_config_path, settings.node_name.as_deref());
            let survey = timeout(PATIENCE, looked).await.map_err(silent(from))??;
            Ok((survey.network.clone(), Leases::Kube(Box::new(survey))))
        }
    }
}

async fn list(etcd: &EtcdConfig) -> Result<(Network, Leases), PreviewError> {
    let session = Connector::new(etcd.clone()).connect().await?;
    let key = session.config_key().to_owned();
    let Some(stored) = session.config().await? else { return Err(PreviewError::NoNetwork { key }) };
    let network = netconf::parse(&stored.value).map_err(|problems| PreviewError::BadNetwork { key, problems })?;
    Ok((network, Leases::Listed(session.list().await?.records)))
}

/// Our entry in the file, and everybody's.
pub(super) async fn listed(
    mut source: FileSource,
    request: LeaseRequest,
) -> Result<(OwnLease, Vec<LeaseRecord>), PreviewError> {
    let silent = || PreviewError::Silent { from: "the file of leases".into() };
    let values = watch::Sender::new(request.value.clone());
    let shutdown = watch::Sender::new(false);
    let lease = timeout(PATIENCE, source.acquire(request)).await.map_err(|_| silent())?;
    let (event_tx, event_rx) = std::sync::mpsc::channel();
    let running = tokio::spawn(source.run(event_tx, values.subscribe(), shutdown.subscribe()));
    let snapshot = timeout(PATIENCE, async {
        loop {
            match event_rx.try_recv() {
                Ok(Event::Snapshot(records)) => return Some(records),
                Ok(_) => {}
                Err(std::sync::mpsc::TryRecvError::Empty) => tokio::time::sleep(Duration::from_millis(5)).await,
                Err(std::sync::mpsc::TryRecvError::Disconnected) => return None,
            }
        }
    });
    let records = snapshot.await.ok().flatten();
    running.abort();
    records.map(|records| (lease, records)).ok_or_else(silent)
}
