//! Whether the API server answers: said once per change, and how long to wait before the next try.

use std::time::Duration;

use tracing::{info, warn};

use super::error::{Kind, KubeError};
use crate::source::{Event, EventSink, backoff::Backoff};

/// A refused connection costs next to nothing, and the end of an outage shall be noticed fast.
/// For every thousand nodes it is this long, so that a large cluster does not storm its API server.
const WHEN_REFUSED: Duration = Duration::from_millis(250);
/// The same where nobody answers, or with an error.
const WHEN_SILENT: Duration = Duration::from_secs(1);
/// The same where credentials or rights are refused: somebody has to grant them.
const WHEN_DENIED: Duration = Duration::from_secs(5);

/// Takes a text that is worth showing.
pub(super) type Tell = Box<dyn Fn(&str) + Send + Sync>;

pub(super) struct Health {
    /// What was said last: empty for connected, `None` for nothing yet.
    said: Option<String>,
    backoff: Backoff,
    /// Hears what is waited out before anybody takes events; an empty text when it is over.
    pub(super) early: Option<Tell>,
}

impl Default for Health {
    fn default() -> Self {
        Self { said: None, backoff: Backoff::new(Duration::from_millis(100), Duration::from_secs(30)), early: None }
    }
}

impl Health {
    pub(super) fn up(&mut self, sink: Option<&dyn EventSink>, server: &str) {
        self.backoff.reset();
        if self.said.as_deref() != Some("") {
            self.said = Some(String::new());
            info!(server, "connected to the Kubernetes API server");
            match sink {
                Some(sink) => drop(sink.send(Event::Connected)),
                None => self.tell_early(""),
            }
        }
    }

    pub(super) fn down(&mut self, sink: Option<&dyn EventSink>, text: &str) {
        if self.said.as_deref() == Some(text) {
            return;
        }
        self.said = Some(text.into());
        // Whoever listens says it.
        if let Some(sink) = sink {
            sink.send(Event::Disconnected(text.into()));
        } else {
            warn!("{text}");
            self.tell_early(text);
        }
    }

    /// Forgets what was said, for a listener that has not heard it.
    pub(super) fn repeat(&mut self) {
        self.said = None;
    }

    /// Before the next try. `nodes`: how large the cluster is, as far as we know.
    pub(super) fn wait(&mut self, error: &KubeError, nodes: usize) -> Duration {
        let thousands = u32::try_from(nodes / 1000).unwrap_or(u32::MAX).max(1);
        let most = match error.kind {
            Kind::Refused => {
                self.backoff.reset();
                return WHEN_REFUSED.saturating_mul(thousands).mul_f64(rand::random_range(0.5..1.0));
            }
            Kind::Forbidden(_) | Kind::Unauthorized | Kind::Credentials | Kind::Tls => WHEN_DENIED,
            _ => WHEN_SILENT,
        };
        self.backoff.next().min(most.saturating_mul(thousands))
    }

    fn tell_early(&self, text: &str) {
        if let Some(early) = &self.early {
            early(text);
        }
    }
}
