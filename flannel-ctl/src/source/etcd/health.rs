//! Whether etcd answers. Its members' many words for one trouble are said once.

use std::time::Duration;

use super::{EtcdError, Kind, NoEndpoint};
use crate::source::{
    EventSink,
    health::{self, Trouble},
};

/// What the wait between two tries of something that etcd refuses grows to.
const LONGEST: Duration = Duration::from_secs(5);

pub(super) struct Health {
    common: health::Health,
    /// What was said last is made of these, one per endpoint; empty while connected.
    errors: Vec<EtcdError>,
}

impl Default for Health {
    fn default() -> Self {
        Self { common: health::Health::of("etcd", LONGEST), errors: Vec::new() }
    }
}

impl Health {
    pub(super) fn telling(&mut self, tell: health::Tell) {
        self.common.early = Some(tell);
    }

    pub(super) fn up(&mut self, sink: Option<&dyn EventSink>, endpoint: &str) {
        self.errors.clear();
        self.common.up(sink, endpoint);
    }

    /// `errors`: what the text is made of, one per endpoint, if it came from there.
    pub(super) fn down(&mut self, sink: Option<&dyn EventSink>, text: &str, errors: &[EtcdError]) {
        let told = |(now, last): (&EtcdError, &EtcdError)| now.is_no_news_after(last);
        if !errors.is_empty() && errors.len() == self.errors.len() && errors.iter().zip(&self.errors).all(told) {
            return;
        }
        self.errors = errors.to_vec();
        self.common.down(sink, text);
    }

    pub(super) fn tell_early(&self, text: &str) {
        self.common.tell_early(text);
    }

    /// Forgets what was said, for a listener that has not heard it.
    pub(super) fn repeat(&mut self) {
        self.errors.clear();
        self.common.repeat();
    }

    /// Before the next try to connect. `leases`: how large the cluster is, as far as we know.
    pub(super) fn wait(&mut self, error: &NoEndpoint, leases: usize) -> Duration {
        let trouble = if error.0.iter().all(|error| error.kind == Kind::Refused) {
            Trouble::Refused
        } else if error.0.iter().any(|error| error.kind == Kind::Denied) {
            Trouble::Denied
        } else {
            Trouble::Silent
        };
        self.common.wait(trouble, leases)
    }

    /// Before the next try of something that a member which answers did not do.
    pub(super) fn wait_answered(&mut self) -> Duration {
        self.common.wait_answered()
    }
}
