//! The network config: waited for at start, watched ever after.

use std::time::Duration;

use tokio::time::timeout;
use tracing::warn;

use super::{Change, EtcdError, EtcdSource, Feed, Session, StoredConfig};
use crate::{
    config::netconf,
    model::Network,
    source::{Event, EventSink},
};

/// The watch tells at once when the config changes; this is for a watch that lies.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

impl EtcdSource {
    /// Reads the network config. A missing or bad one is waited out, and reported once per
    /// distinct trouble.
    pub async fn network(&mut self) -> Network {
        let mut reported = None;
        loop {
            let session = self.connected().await;
            match self.usable(&session, &mut reported).await {
                Ok((stored, network)) => {
                    self.config = Some((stored, network.clone()));
                    return network;
                }
                Err(error) => self.failed(&error).await,
            }
        }
    }

    async fn usable(
        &mut self,
        session: &Session,
        reported: &mut Option<String>,
    ) -> Result<(StoredConfig, Network), EtcdError> {
        let mut feed = Feed::subscribe(session).await?;
        loop {
            let stored = session.config().await?;
            self.health.up(None, session.endpoint());
            let trouble = match &stored {
                None => format!(
                    "there is no network config at {}; publish one with `flannel-ctl config publish`",
                    session.config_key()
                ),
                Some(stored) => match netconf::parse(&stored.value) {
                    Ok(network) => return Ok((stored.clone(), network)),
                    Err(problems) => format!("{}: {problems}", session.config_key()),
                },
            };
            if reported.as_ref() != Some(&trouble) {
                warn!("{trouble}");
                self.health.tell_early(&trouble);
                *reported = Some(trouble);
            }
            let changed = async {
                while !matches!(feed.next().await?, Change::Config(_)) {}
                Ok(())
            };
            // Whether it changed or the time is up: look.
            timeout(LOOK_AGAIN, changed).await.unwrap_or(Ok(()))?;
        }
    }

    /// Compares what is stored now with what we started with. `said`: what was said last.
    pub(super) fn note_config(&self, now: Option<&StoredConfig>, said: &mut String, sink: &dyn EventSink) {
        let Some((started, network)) = &self.config else { return };
        let text = match now {
            Some(now) if now.value == started.value => String::new(),
            None => "the network config was deleted from the store".to_owned(),
            Some(now) => match netconf::parse(&now.value) {
                Ok(parsed) if parsed == *network => String::new(),
                Ok(parsed) => difference(network, &parsed),
                Err(problems) => format!("in the store, {problems}"),
            },
        };
        if *said != text {
            said.clone_from(&text);
            sink.send(Event::NetworkChanged(text));
        }
    }
}

fn difference(old: &Network, new: &Network) -> String {
    let mut changed = Vec::new();
    if old.v4 != new.v4 {
        changed.push("the IPv4 range");
    }
    if old.v6 != new.v6 {
        changed.push("the IPv6 range");
    }
    if old.backend != new.backend {
        changed.push("the backend");
    }
    if old.nftables != new.nftables {
        changed.push("EnableNFTables");
    }
    format!("the network config in the store changed: {}", changed.join(", "))
}
