//! Whether a store answers: said once per change, and how long to wait before the next try.

use std::time::Duration;

use tracing::{info, warn};

use super::{Event, EventSink, backoff::Backoff};

/// Shortest wait after an answered try that failed; it doubles.
const FIRST: Duration = Duration::from_millis(100);
/// A refused connection costs next to nothing, and the end of an outage shall be noticed fast.
/// For every thousand nodes it is this long, so that a large cluster does not storm its store.
const WHEN_REFUSED: Duration = Duration::from_millis(250);
/// The same where nobody answers, or with an error.
const WHEN_SILENT: Duration = Duration::from_secs(1);
/// The same where credentials or rights are refused: somebody has to grant them, and to look at one
/// password takes etcd some 70 ms of a processor.
const WHEN_DENIED: Duration = Duration::from_secs(5);

/// Takes a text that is worth showing.
pub(in crate::source) type Tell = Box<dyn Fn(&str) + Send + Sync>;

/// What kept us from a store, as far as the next try is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::source) enum Trouble {
    Refused,
    Silent,
    Denied,
}

pub(in crate::source) struct Health {
    /// What the store is called.
    store: &'static str,
    /// What was said last: empty for connected, `None` for nothing yet.
    said: Option<String>,
    backoff: Backoff,
    /// Hears what is waited out before anybody takes events; an empty text when it is over.
    pub(in crate::source) early: Option<Tell>,
}

impl Health {
    /// `longest`: what the wait grows to.
    pub(in crate::source) fn of(store: &'static str, longest: Duration) -> Self {
        Self { store, said: None, backoff: Backoff::new(FIRST, longest), early: None }
    }

    /// `at`: who answered.
    pub(in crate::source) fn up(&mut self, sink: Option<&dyn EventSink>, at: &str) {
        self.backoff.reset();
        if self.said.as_deref() != Some("") {
            self.said = Some(String::new());
            info!(endpoint = at, "connected to {}", self.store);
            match sink {
                Some(sink) => drop(sink.send(Event::Connected)),
                None => self.tell_early(""),
            }
        }
    }

    pub(in crate::source) fn down(&mut self, sink: Option<&dyn EventSink>, text: &str) {
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

    pub(in crate::source) fn tell_early(&self, text: &str) {
        if let Some(early) = &self.early {
            early(text);
        }
    }

    /// Forgets what was said, for a listener that has not heard it.
    pub(in crate::source) fn repeat(&mut self) {
        self.said = None;
    }

    /// Before the next try to reach the store. `nodes`: how large the cluster is, as far as we know.
    pub(in crate::source) fn wait(&mut self, trouble: Trouble, nodes: usize) -> Duration {
        let thousands = u32::try_from(nodes / 1000).unwrap_or(u32::MAX).max(1);
        let most = match trouble {
            Trouble::Refused => {
                // What comes after an outage, a member without a leader, shall not be waited for long.
                self.backoff.reset();
                return WHEN_REFUSED.saturating_mul(thousands).mul_f64(rand::random_range(0.5..1.0));
            }
            Trouble::Silent => WHEN_SILENT,
            Trouble::Denied => WHEN_DENIED,
        };
        self.wait_answered().min(most.saturating_mul(thousands))
    }

    /// Before the next try of something that a store which answers did not do.
    pub(in crate::source) fn wait_answered(&mut self) -> Duration {
        self.backoff.next()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn every_change_is_said_once_and_repeated_to_who_has_not_heard_it() {
        let (sink, events) = channel();
        let mut health = Health::of("a store", Duration::from_secs(5));
        for text in ["refused", "refused", "silent"] {
            health.down(Some(&sink), text);
        }
        health.up(Some(&sink), "there");
        health.up(Some(&sink), "elsewhere");
        health.repeat();
        health.up(Some(&sink), "there");
        let said: Vec<Event> = events.try_iter().collect();
        let down = |text: &str| Event::Disconnected(text.into());
        assert_eq!(said, [down("refused"), down("silent"), Event::Connected, Event::Connected]);
    }

    #[test]
    fn a_large_cluster_waits_longer_and_rights_longest() {
        let mut health = Health::of("a store", Duration::from_mins(5));
        for _ in 0..20 {
            assert!(health.wait(Trouble::Refused, 0) <= WHEN_REFUSED);
            assert!(health.wait(Trouble::Refused, 10_000) >= WHEN_REFUSED * 5);
        }
        for _ in 0..20 {
            health.wait_answered();
        }
        assert_eq!(health.wait(Trouble::Silent, 999), WHEN_SILENT);
        assert_eq!(health.wait(Trouble::Denied, 2_000), WHEN_DENIED * 2);
    }
}
