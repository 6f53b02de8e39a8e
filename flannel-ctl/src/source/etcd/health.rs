//! Whether etcd answers: said once per change, and how long to wait before the next try.

use std::time::Duration;

use tracing::{info, warn};

use super::{Kind, NoEndpoint, backoff::Backoff};
use crate::source::{Event, EventSink};

/// A refused connection costs next to nothing, and the end of an outage shall be noticed fast.
/// For every thousand nodes it is this long, so that a large cluster does not storm its etcd.
const WHEN_REFUSED: Duration = Duration::from_millis(250);
/// The same where nobody answers at all; each try then also waits for its answer.
const WHEN_SILENT: Duration = Duration::from_secs(1);

pub(super) struct Health {
    /// `None` until the first word.
    state: Option<State>,
    pub(super) backoff: Backoff,
}

#[derive(PartialEq, Eq)]
enum State {
    Up,
    Down(String),
}

impl Default for Health {
    fn default() -> Self {
        Self { state: None, backoff: Backoff::new(Duration::from_millis(100), Duration::from_secs(5)) }
    }
}

impl Health {
    pub(super) fn up(&mut self, sink: Option<&dyn EventSink>, endpoint: &str) {
        self.backoff.reset();
        if self.state != Some(State::Up) {
            self.state = Some(State::Up);
            info!(endpoint, "connected to etcd");
            if let Some(sink) = sink {
                sink.send(Event::Connected);
            }
        }
    }

    pub(super) fn down(&mut self, sink: Option<&dyn EventSink>, text: &str) {
        if !matches!(&self.state, Some(State::Down(last)) if last == text) {
            self.state = Some(State::Down(text.into()));
            // Whoever listens says it.
            if let Some(sink) = sink {
                sink.send(Event::Disconnected(text.into()));
            } else {
                warn!("{text}");
            }
        }
    }

    /// Forgets what was said, for a listener that has not heard it.
    pub(super) fn repeat(&mut self) {
        self.state = None;
    }

    /// `leases`: how large the cluster is, as far as we know.
    pub(super) fn wait(&mut self, error: &NoEndpoint, leases: usize) -> Duration {
        let thousands = u32::try_from(leases / 1000).unwrap_or(u32::MAX).max(1);
        if error.0.iter().all(|error| error.kind == Kind::Refused) {
            // What comes after an outage, a member without a leader, shall not be waited for long.
            self.backoff.reset();
            WHEN_REFUSED.saturating_mul(thousands).mul_f64(rand::random_range(0.5..1.0))
        } else {
            self.backoff.next().min(WHEN_SILENT.saturating_mul(thousands))
        }
    }
}
