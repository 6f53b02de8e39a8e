//! Our own node: what its annotations shall say, written again whenever they do not.

use std::time::Duration;

use k8s_openapi::jiff::{Timestamp, Unit};
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::{
    Session,
    annotations::{Annotations, Names},
    error::KubeError,
    node::Node,
    own::{Standing, annotate, call_available, judge},
};
use crate::{
    model::{LeaseValue, Network},
    source::{Event, EventSink, OwnLease, backoff::Backoff},
};

/// Whoever has not written over ours for this long starts with a clean slate.
const QUIET: Duration = Duration::from_mins(1);

pub(super) struct Hold {
    pub(super) name: String,
    /// As the server told last; `None` while it has no such node.
    node: Option<Node>,
    names: Names,
    network: Network,
    /// What the loop wants to be said.
    pub(super) value: LeaseValue,
    lease: Option<OwnLease>,
    /// Our annotations were all there once, and since then it is others who change them.
    was_right: bool,
    /// The scheduler shall be told that pods can come.
    pub(super) available: bool,
    /// It was told, at least once.
    called: bool,
    retry_at: Option<Instant>,
    quarrel: Backoff,
    quarrel_until: Option<Instant>,
    said: Option<String>,
}

impl Hold {
    pub(super) fn new(name: String, node: Node, names: Names, network: Network, value: LeaseValue) -> Self {
        Self {
            name,
            node: Some(node),
            names,
            network,
            value,
            lease: None,
            was_right: false,
            available: false,
            called: false,
            retry_at: None,
            quarrel: Backoff::new(Duration::from_millis(100), Duration::from_secs(30)),
            quarrel_until: None,
            said: None,
        }
    }

    pub(super) fn lease(&self) -> Option<&OwnLease> {
        self.lease.as_ref()
    }

    /// What the server says of our node now.
    pub(super) fn see(&mut self, node: Option<Node>) {
        self.node = node;
    }

    /// What a watch tells of our node. It may be from before our last write, of which we have the answer already.
    pub(super) fn hear(&mut self, node: Option<Node>) {
        let stale = node.as_ref().zip(self.node.as_ref()).is_some_and(|(told, known)| told.is_older_than(known));
        if !stale {
            self.node = node;
        }
    }

    /// The node's version, as the server told it last.
    pub(super) fn version(&self) -> Option<&str> {
        self.node.as_ref().map(|node| node.metadata.resource_version.as_str())
    }

    /// When [`Self::settle`] wants to be called even though nothing happened.
    pub(super) fn due(&self) -> Option<Instant> {
        self.retry_at
    }

    /// Brings the node to what it should say. `Some` text: it cannot, and waits for somebody else to act.
    pub(super) async fn settle(
        &mut self,
        session: &Session,
        sink: Option<&dyn EventSink>,
    ) -> Result<Option<String>, KubeError> {
        self.retry_at = None;
        self.complain();
        let standing = judge(&self.name, self.node.as_ref(), &self.value, &self.network, &self.names);
        let Standing { lease, wrong } = match standing {
            Err(reason) => {
                // A node that is gone, or has no range yet, took nothing from us: its range may come back.
                let other = self.node.as_ref().and_then(|node| node.subnet().ok());
                if let (Some(lease), Some(other)) = (&self.lease, other)
                    && other.key() != lease.key
                {
                    self.lose(sink, format!("node {} has {other} now", self.name));
                }
                return Ok(Some(reason));
            }
            Ok(standing) => standing,
        };
        if self.lease.as_ref().is_some_and(|before| before.subnet != lease.subnet) {
            self.lose(sink, format!("node {} has {} now", self.name, lease.subnet));
        }
        if !wrong.is_empty() && !self.may_answer(&lease, &wrong, sink) {
            return Ok(None);
        }
        if !wrong.is_empty() {
            self.node = Some(session.patch(&self.name, &annotate(&wrong)).await?);
            debug!(node = self.name, annotations = ?wrong.keys().collect::<Vec<_>>(), "wrote our annotations");
        }
        self.was_right = true;
        if self.lease.as_ref() != Some(&lease) {
            self.lease = Some(lease.clone());
            if let Some(sink) = sink {
                sink.send(Event::Own(lease));
            }
        }
        self.call_available(session).await?;
        Ok(None)
    }

    /// The first change by somebody else is answered at once, the following ones ever later.
    fn may_answer(&mut self, lease: &OwnLease, wrong: &Annotations, sink: Option<&dyn EventSink>) -> bool {
        let as_before = self.lease.as_ref() == Some(lease);
        if !(as_before && self.was_right) {
            return true;
        }
        let now = Instant::now();
        if let Some(until) = self.quarrel_until.filter(|until| *until > now) {
            self.retry_at = Some(until);
            return false;
        }
        if self.quarrel_until.is_some_and(|last| now.duration_since(last) > QUIET) {
            self.quarrel.reset();
        }
        self.quarrel_until = Some(now + self.quarrel.next());
        let names: Vec<_> = wrong.keys().map(String::as_str).collect();
        let reason = format!("somebody changed {} of node {}; written again", names.join(", "), self.name);
        if let Some(sink) = sink {
            sink.send(Event::Conflict { key: lease.key.clone(), reason });
        }
        true
    }

    /// Once per start, and again for a node that was registered anew. What others say of it later is theirs to say.
    async fn call_available(&mut self, session: &Session) -> Result<(), KubeError> {
        let Some(node) = &self.node else { return Ok(()) };
        let due = if self.called { node.availability().is_none() } else { !node.is_called_available() };
        if !self.available || !due {
            self.called |= self.available;
            return Ok(());
        }
        let now = Timestamp::now().round(Unit::Second).unwrap_or(Timestamp::UNIX_EPOCH);
        self.node = Some(session.patch(&self.name, &call_available(&now.to_string())).await?);
        self.called = true;
        info!(node = self.name, "told Kubernetes that this node's network is available");
        Ok(())
    }

    fn lose(&mut self, sink: Option<&dyn EventSink>, reason: String) {
        let Some(lease) = self.lease.take() else { return };
        self.was_right = false;
        if let Some(sink) = sink {
            sink.send(Event::Lost { subnet: lease.subnet, reason });
        }
    }

    /// Of an administrator's word that cannot be followed; once.
    fn complain(&mut self) {
        let problem = self.node.as_ref().and_then(|node| self.names.overwrite(node.annotations()).err());
        if problem != self.said {
            if let Some(problem) = &problem {
                warn!(node = self.name, "{problem}; the uplink's address is published");
            }
            self.said = problem;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::netconf;

    fn node(version: &str) -> Node {
        serde_json::from_value(serde_json::json!({"metadata": {"name": "n1", "resourceVersion": version}})).unwrap()
    }

    #[test]
    fn a_watch_that_lags_behind_our_own_writes_is_not_believed() {
        let network = netconf::parse(br#"{"Network":"10.5.0.0/16"}"#).unwrap();
        let value = serde_json::from_str(r#"{"PublicIP":"192.0.2.1"}"#).unwrap();
        let mut hold = Hold::new("n1".into(), node("10"), Names::new("f.example/"), network, value);
        hold.hear(Some(node("9")));
        assert_eq!(hold.version(), Some("10"), "as numbers, not as texts");
        hold.hear(Some(node("11")));
        assert_eq!(hold.version(), Some("11"));
        hold.hear(Some(node("a word")));
        assert_eq!(hold.version(), Some("a word"), "where they cannot be compared, what comes last counts");
        hold.see(Some(node("7")));
        assert_eq!(hold.version(), Some("7"), "a list is the truth");
        hold.hear(None);
        assert_eq!(hold.version(), None);
    }
}
