//! Whether we may still do what we do: etcd checks rights when a watch begins, and never again while it goes on.

use std::time::Duration;

use tokio::time::sleep;
use tracing::debug;

use super::{EtcdError, Kind, Session};

/// A right that is gone shows after this long at the latest, and the time that a request takes.
const ASK_EVERY: Duration = Duration::from_secs(8);

/// Returns when etcd refuses us the right to read.
pub(super) async fn lost(session: &Session) -> EtcdError {
    loop {
        sleep(ASK_EVERY.mul_f64(rand::random_range(0.75..1.0))).await;
        match session.may_read().await {
            Ok(()) => {}
            Err(error) if error.kind == Kind::Denied => return error,
            // An etcd that does not answer is noticed by its connection.
            Err(error) => debug!(%error, "cannot ask after our rights"),
        }
    }
}
