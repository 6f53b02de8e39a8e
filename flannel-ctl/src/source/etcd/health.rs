//! Whether etcd answers: said once per change, and how long to wait before the next try.

use std::time::Duration;

use tracing::{info, warn};

use super::{EtcdError, Kind, NoEndpoint};
use crate::source::{Event, EventSink, backoff::Backoff};

/// A refused connection costs next to nothing, and the end of an outage shall be noticed fast.
/// For every thousand nodes it is this long, so that a large cluster does not storm its etcd.
const WHEN_REFUSED: Duration = Duration::from_millis(250);
/// The same where nobody answers at all; each try then also waits for its answer.
const WHEN_SILENT: Duration = Duration::from_secs(1);
/// The same where user, password or rights are refused: to look at one password takes etcd some 70 ms of a processor.
const WHEN_DENIED: Duration = Duration::from_secs(5);

/// Takes a text that is worth showing.
pub(super) type Tell = Box<dyn Fn(&str) + Send + Sync>;

pub(super) struct Health {
    /// `None` until the first word.
    state: Option<State>,
    pub(super) backoff: Backoff,
    /// Hears what is waited out before anybody takes events; an empty text when it is over.
    pub(super) early: Option<Tell>,
}

enum State {
    Up,
    Down { text: String, errors: Vec<EtcdError> },
}

impl Default for Health {
    fn default() -> Self {
        let backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        Self { state: None, backoff, early: None }
    }
}

impl Health {
    pub(super) fn up(&mut self, sink: Option<&dyn EventSink>, endpoint: &str) {
        self.backoff.reset();
        if !matches!(self.state, Some(State::Up)) {
            self.state = Some(State::Up);
            info!(endpoint, "connected to etcd");
            match sink {
                Some(sink) => drop(sink.send(Event::Connected)),
                None => self.tell_early(""),
            }
        }
    }

    /// `errors`: what the text is made of, one per endpoint, if it came from there.
    pub(super) fn down(&mut self, sink: Option<&dyn EventSink>, text: &str, errors: &[EtcdError]) {
        if let Some(State::Down { text: last, errors: before }) = &self.state {
            let told = |(now, last): (&EtcdError, &EtcdError)| now.is_no_news_after(last);
            let all_told = !errors.is_empty() && errors.len() == before.len() && errors.iter().zip(before).all(told);
            if last == text || all_told {
                return;
            }
        }
        self.state = Some(State::Down { text: text.into(), errors: errors.to_vec() });
        // Whoever listens says it.
        if let Some(sink) = sink {
            sink.send(Event::Disconnected(text.into()));
        } else {
            warn!("{text}");
            self.tell_early(text);
        }
    }

    pub(super) fn tell_early(&self, text: &str) {
        if let Some(early) = &self.early {
            early(text);
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
            let denied = error.0.iter().any(|error| error.kind == Kind::Denied);
            let most = if denied { WHEN_DENIED } else { WHEN_SILENT };
            self.backoff.next().min(most.saturating_mul(thousands))
        }
    }
}
