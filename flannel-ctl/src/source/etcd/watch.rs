//! Changes as etcd reports them: a hint, never the truth.

use std::collections::VecDeque;

use etcd_client::{EventType, WatchOptions, WatchResponse, WatchStream};
use tokio::time::timeout;

use super::{
    EtcdError, Session,
    client::CONNECT,
    error::Kind,
    record,
    session::{StoredConfig, prefix_end},
};
use crate::model::LeaseRecord;

/// One change of what is stored below the prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    Put(LeaseRecord),
    /// Key, and the revision of its deletion.
    Delete(String, i64),
    Config(Option<StoredConfig>),
}

/// A subscription to leases and network config. It ends with the first doubt: whoever listens
/// then subscribes anew and lists.
pub struct Feed {
    stream: WatchStream,
    endpoint: String,
    config_key: String,
    subnets: String,
    pending: VecDeque<Change>,
}

impl Feed {
    /// Subscribes. Everything that happens after this returns is reported, so a list that is
    /// read afterwards misses nothing.
    pub async fn subscribe(session: &Session) -> Result<Self, EtcdError> {
        let attempt = format!("watch {}", session.subnets);
        let options = || WatchOptions::new().with_fragment();
        let opened = async {
            let mut watch = session.watch.clone();
            let range = options().with_range(prefix_end(&session.subnets));
            let mut stream = watch.watch(session.subnets.as_str(), Some(range)).await?;
            stream.watch(session.config_key.as_str(), Some(options())).await?;
            Ok(stream)
        };
        let fail = |error: &etcd_client::Error| EtcdError::new(&session.endpoint, attempt.as_str(), error);
        let late = || EtcdError::timeout(&session.endpoint, attempt.as_str(), CONNECT);
        let stream = timeout(CONNECT, opened).await.map_err(|_| late())?.map_err(|error| fail(&error))?;
        let mut feed = Self {
            stream,
            endpoint: session.endpoint.clone(),
            config_key: session.config_key.clone(),
            subnets: session.subnets.clone(),
            pending: VecDeque::new(),
        };
        // Before the server has said "created", a change may pass unseen.
        for _ in 0..2 {
            let created = async {
                while !feed.receive().await? {}
                Ok::<_, EtcdError>(())
            };
            timeout(CONNECT, created).await.map_err(|_| late())??;
        }
        Ok(feed)
    }

    /// The next change. Safe to drop while it waits.
    pub async fn next(&mut self) -> Result<Change, EtcdError> {
        loop {
            if let Some(change) = self.pending.pop_front() {
                return Ok(change);
            }
            self.receive().await?;
        }
    }

    /// Takes in one message; whether it was a "created".
    async fn receive(&mut self) -> Result<bool, EtcdError> {
        let attempt = || format!("watch {}", self.subnets);
        match self.stream.message().await {
            Ok(Some(message)) if message.compact_revision() != 0 => {
                let answer = format!("history up to revision {} is gone", message.compact_revision());
                Err(EtcdError { kind: Kind::Compacted, ..EtcdError::stream_ended(&self.endpoint, attempt(), &answer) })
            }
            Ok(Some(message)) if message.canceled() => {
                Err(EtcdError::stream_ended(&self.endpoint, attempt(), message.cancel_reason()))
            }
            Ok(Some(message)) => {
                self.take_in(&message);
                Ok(message.created())
            }
            Ok(None) => Err(EtcdError::stream_ended(&self.endpoint, attempt(), "")),
            Err(error) => Err(EtcdError::new(&self.endpoint, attempt(), &error)),
        }
    }

    fn take_in(&mut self, message: &WatchResponse) {
        for event in message.events() {
            let Some(kv) = event.kv() else { continue };
            let gone = event.event_type() == EventType::Delete;
            let change = if kv.key() == self.config_key.as_bytes() {
                let stored = StoredConfig { value: kv.value().to_vec(), modified: kv.mod_revision() };
                Change::Config((!gone).then_some(stored))
            } else if let Some(key) = kv.key().strip_prefix(self.subnets.as_bytes()) {
                if gone {
                    Change::Delete(record::name(key), kv.mod_revision())
                } else {
                    Change::Put(record::read(kv, self.subnets.len()))
                }
            } else {
                continue;
            };
            self.pending.push_back(change);
        }
    }
}
