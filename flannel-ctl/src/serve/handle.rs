//! How servers, which are asynchronous, learn from the reconcile loop, which is a thread.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::{oneshot, watch};

use super::{Heartbeat, PeerReport, Readiness, Report};

/// What is too big or too rare to be in every [`Report`]. The loop answers between two passes.
#[derive(Debug)]
pub enum Question {
    /// All peers, ordered by key.
    Peers(oneshot::Sender<Vec<PeerReport>>),
}

/// Everything that a server may know. Cheap to clone.
#[derive(Clone)]
pub struct ReportHandle {
    report: watch::Receiver<Arc<Report>>,
    heartbeat: Heartbeat,
    readiness: Readiness,
    ask: Arc<dyn Fn(Question) -> bool + Send + Sync>,
}

/// The loop did not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    #[error("the reconcile loop has ended: the daemon is on its way out")]
    Gone,
    #[error(
        "the reconcile loop gave no answer within {} s: it is busy with a long pass, or stuck (see /healthz)",
        ReportHandle::ANSWER_LIMIT.as_secs()
    )]
    Late,
}

impl ReportHandle {
    /// How long a question may wait for the loop.
    pub const ANSWER_LIMIT: Duration = Duration::from_secs(5);

    /// `ask` hands a question to the loop and wakes it; `false` when the loop has ended.
    pub fn new(
        report: watch::Receiver<Arc<Report>>,
        heartbeat: Heartbeat,
        readiness: Readiness,
        ask: impl Fn(Question) -> bool + Send + Sync + 'static,
    ) -> Self {
        Self { report, heartbeat, readiness, ask: Arc::new(ask) }
    }

    /// The latest report, with the fields that only the moment of asking can know.
    pub fn report(&self, now: Instant) -> Report {
        let mut report = Report::clone(&self.report.borrow());
        report.awaited = self.readiness.awaited().into_iter().map(str::to_owned).collect();
        report.heartbeat_age_ms = u64::try_from(self.heartbeat.age(now).as_millis()).unwrap_or(u64::MAX);
        report
    }

    /// A receiver of its own, for whoever waits for the next report.
    pub fn subscribe(&self) -> watch::Receiver<Arc<Report>> {
        self.report.clone()
    }

    pub fn heartbeat(&self) -> &Heartbeat {
        &self.heartbeat
    }

    pub fn readiness(&self) -> &Readiness {
        &self.readiness
    }

    /// All peers, ordered by key.
    pub async fn peers(&self) -> Result<Vec<PeerReport>, AskError> {
        let (answer_tx, answer_rx) = oneshot::channel();
        if !(self.ask)(Question::Peers(answer_tx)) {
            return Err(AskError::Gone);
        }
        match tokio::time::timeout(Self::ANSWER_LIMIT, answer_rx).await {
            Ok(Ok(peers)) => Ok(peers),
            Ok(Err(_)) => Err(AskError::Gone),
            Err(_) => Err(AskError::Late),
        }
    }
}

impl fmt::Debug for ReportHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReportHandle").field("heartbeat", &self.heartbeat).finish_non_exhaustive()
    }
}
