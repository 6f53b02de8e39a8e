//! A connection to the store for a verb that asks or changes something, once.

use super::run_args::EtcdArgs;
use crate::source::etcd::{Connector, Session};

/// Connects, and runs `work` to its end.
pub(super) fn block_on<T>(args: &EtcdArgs, work: impl AsyncFnOnce(&Session) -> anyhow::Result<T>) -> anyhow::Result<T> {
    let mut connector = Connector::new(args.etcd()?);
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let session = connector.connect().await?;
        work(&session).await
    })
}
