//! A connection to where leases are kept, for a verb that asks or changes something, once.

use std::{path::Path, time::Duration};

use anyhow::{Context as _, bail};

use super::run_args::SourceArgs;
use crate::{
    config::{
        EtcdConfig,
        settings::{KubeSettings, SourceChoice},
    },
    model::{LeaseRecord, Network},
    source::{
        etcd::{Connector, Session},
        kube::{Names, connect, read_network, records},
    },
};

/// The API server may take this long.
const PATIENCE: Duration = Duration::from_secs(30);

/// Connects to etcd, and runs `work` to its end. `elsewhere`: what to say where leases are not kept in etcd.
pub(super) fn block_on<T>(
    args: &SourceArgs,
    elsewhere: &str,
    work: impl AsyncFnOnce(&Session) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    match args.source()?.0 {
        SourceChoice::Etcd(etcd) => with_etcd(etcd, work),
        SourceChoice::Kube(_) | SourceChoice::File(_) => bail!("{elsewhere}"),
    }
}

/// The same where it is known that leases are in etcd.
pub(super) fn with_etcd<T>(
    config: EtcdConfig,
    work: impl AsyncFnOnce(&Session) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let mut connector = Connector::new(config);
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let session = connector.connect().await?;
        work(&session).await
    })
}

/// All leases of a Kubernetes cluster, and the network config if it can be read here.
pub(super) fn of_kube(
    settings: &KubeSettings,
    net_config: &Path,
) -> anyhow::Result<(Vec<LeaseRecord>, Option<Network>)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let answer = runtime.block_on(async {
        let listed = async { records(&connect(settings).await?, &Names::new(&settings.annotation_prefix), "").await };
        tokio::time::timeout(PATIENCE, listed).await
    });
    let records = answer.context("the Kubernetes API server gave no whole answer")??;
    Ok((records, read_network(net_config).ok()))
}
