//! What the life of a source waits for.

use std::time::Duration;

use tokio::{
    sync::watch::Receiver,
    time::{Instant, sleep_until},
};

use crate::model::LeaseValue;

/// How often what a watch has told is checked against its store, for every thousand leases.
const CHECK: Duration = Duration::from_mins(1);

/// Until the next check; not in step with other nodes.
pub(in crate::source) fn check_every(leases: usize) -> Duration {
    let thousands = u32::try_from(leases / 1000).unwrap_or(u32::MAX).saturating_add(1);
    CHECK.saturating_mul(thousands).mul_f64(rand::random_range(0.75..1.25))
}

/// Waits for ever for no time.
pub(in crate::source) async fn until(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// The next value; waits for ever once the sender is gone.
pub(in crate::source) async fn changed(values: &mut Option<Receiver<LeaseValue>>) -> LeaseValue {
    if let Some(receiver) = values {
        if receiver.changed().await.is_ok() {
            return receiver.borrow_and_update().clone();
        }
        *values = None;
    }
    std::future::pending().await
}
