//! Leases from a file that lists all nodes, for clusters without a store.

mod document;

use std::{fs, path::PathBuf};

use tokio::sync::watch::Receiver;
use tracing::{info, warn};

use self::document::{Document, Node, find, records};
use super::{Event, EventSink, LeaseRequest, OwnLease, notice::Notices};
use crate::{
    config::netconf,
    model::{LeaseValue, Network, Subnet},
};

/// A list longer than this is an accident.
const LARGEST: u64 = 64 << 20;

/// A file as a source of leases. What cannot be read leaves what was read before in force.
pub struct FileSource {
    path: PathBuf,
    /// Where the network config is, if the node list has none.
    net_config: Option<PathBuf>,
    /// What was read last, to notice a change, and to report trouble once.
    text: Vec<u8>,
    trouble: Option<String>,
    document: Option<Document>,
    network: Option<Network>,
    request: Option<LeaseRequest>,
    readings: i64,
}

impl FileSource {
    pub fn new(path: PathBuf, net_config: Option<PathBuf>) -> Self {
        Self {
            path,
            net_config,
            text: Vec::new(),
            trouble: None,
            document: None,
            network: None,
            request: None,
            readings: 0,
        }
    }

    /// Waits for a usable file.
    pub async fn network(&mut self) -> Network {
        let mut notices = Notices::of(&self.path);
        let mut said = None;
        loop {
            self.read();
            if let Some(document) = &self.document {
                match self.network_of(document) {
                    Ok(network) => {
                        self.network = Some(network.clone());
                        return network;
                    }
                    Err(trouble) => warn_once(&mut said, trouble),
                }
            }
            notices.next().await;
        }
    }

    /// Waits for our entry.
    pub async fn acquire(&mut self, request: LeaseRequest) -> OwnLease {
        let mut notices = Notices::of(&self.path);
        let mut said = None;
        loop {
            if let Some(subnet) = self.own_subnet(&request.value) {
                let lease = OwnLease { key: subnet.key(), subnet, value: request.value.clone() };
                self.request = Some(request);
                return lease;
            }
            let (id, name, ip) = (&request.value.node_id, &request.value.node_name, request.value.public_ip);
            let trouble =
                format!("{} has no entry for this node: id {id}, name {name}, address {ip}", self.path.display());
            warn_once(&mut said, trouble);
            notices.next().await;
            self.read();
        }
    }

    pub async fn run(mut self, sink: impl EventSink, mut values: Receiver<LeaseValue>, mut shutdown: Receiver<bool>) {
        tokio::select! {
            biased;
            _ = shutdown.wait_for(|stop| *stop) => {}
            () = self.follow(&sink, &mut values) => {}
        }
    }

    async fn follow(&mut self, sink: &dyn EventSink, values: &mut Receiver<LeaseValue>) {
        let Some(mut us) = self.request.as_ref().map(|request| request.value.clone()) else {
            warn!("asked to run without having acquired a lease");
            return;
        };
        let mut notices = Notices::of(&self.path);
        let mut own: Option<OwnLease> = None;
        let mut values_live = true;
        let mut network_said = String::new();
        let mut news = true;
        self.trouble = None;
        sink.send(Event::Connected);
        loop {
            if news {
                own = self.tell_own(own, &us, sink);
                self.note_network(&mut network_said, sink);
                let records =
                    self.document.as_ref().map(|document| records(document, self.readings)).unwrap_or_default();
                if !sink.send(Event::Snapshot(records)) {
                    return;
                }
            }
            news = tokio::select! {
                () = notices.next() => self.read_and_report(sink),
                changed = values.changed(), if values_live => {
                    values_live = changed.is_ok();
                    us = values.borrow_and_update().clone();
                    own = self.tell_own(own, &us, sink);
                    false
                }
            };
        }
    }

    /// Says what changed about our own subnet.
    fn tell_own(&self, before: Option<OwnLease>, us: &LeaseValue, sink: &dyn EventSink) -> Option<OwnLease> {
        // An explicit or known subnet stays ours while the list merely forgets us.
        let Some(subnet) = self.own_subnet(us) else {
            let before = before?;
            warn!(subnet = %before.subnet, "the node list has no entry for this node any more");
            sink.send(Event::Lost { subnet: before.subnet, reason: "the node list has no entry for us".into() });
            return None;
        };
        let now = OwnLease { key: subnet.key(), subnet, value: us.clone() };
        if let Some(before) = &before
            && before.subnet != subnet
        {
            warn!(was = %before.subnet, now = %subnet, "the node list gives us another subnet");
            sink.send(Event::Lost { subnet: before.subnet, reason: "the node list gives us another".into() });
        }
        if before.as_ref() != Some(&now) {
            if let Some(entry) = self.own_entry(us)
                && let Some(difference) = differs(&entry.value, us)
            {
                warn!(difference, "other nodes read something else about us in the node list");
            }
            sink.send(Event::Own(now.clone()));
        }
        Some(now)
    }

    fn note_network(&self, said: &mut String, sink: &dyn EventSink) {
        let now = self.document.as_ref().map(|document| self.network_of(document));
        let text = match now {
            Some(Ok(network)) if Some(&network) == self.network.as_ref() => String::new(),
            Some(Ok(_)) => "the network config in the node list changed".into(),
            Some(Err(trouble)) => trouble,
            None => return,
        };
        if text != *said {
            said.clone_from(&text);
            sink.send(Event::NetworkChanged(text));
        }
    }

    fn network_of(&self, document: &Document) -> Result<Network, String> {
        match (&document.network, &self.net_config) {
            (Some(network), _) => Ok(network.clone()),
            (None, Some(path)) => {
                let text = fs::read(path).map_err(|error| format!("read {}: {error}", path.display()))?;
                netconf::parse(&text).map_err(|error| format!("{}: {error}", path.display()))
            }
            (None, None) => Err(format!("{} has no `network`", self.path.display())),
        }
    }

    fn own_subnet(&self, us: &LeaseValue) -> Option<Subnet> {
        let document = self.document.as_ref()?;
        document.own.or_else(|| find(&document.nodes, us).map(|node| node.subnet))
    }

    fn own_entry(&self, us: &LeaseValue) -> Option<&Node> {
        find(&self.document.as_ref()?.nodes, us)
    }

    fn read_and_report(&mut self, sink: &dyn EventSink) -> bool {
        let was_in_trouble = self.trouble.is_some();
        let news = self.read_to(Some(sink));
        if was_in_trouble && self.trouble.is_none() {
            sink.send(Event::Connected);
        }
        news
    }

    fn read(&mut self) {
        self.read_to(None);
    }

    /// Whether there is something new.
    fn read_to(&mut self, sink: Option<&dyn EventSink>) -> bool {
        let text = match self.text_now() {
            Ok(text) => text,
            Err(trouble) => {
                self.complain(sink, trouble);
                return false;
            }
        };
        if text == self.text && self.document.is_some() {
            self.trouble = None;
            return false;
        }
        match document::parse(&text) {
            Ok(document) => {
                info!(path = %self.path.display(), nodes = document.nodes.len(), "read the node list");
                self.document = Some(document);
                self.text = text;
                self.trouble = None;
                self.readings += 1;
                true
            }
            Err(problems) => {
                let text =
                    format!("{} is refused, what was read before stays: {}", self.path.display(), problems.join("; "));
                self.complain(sink, text);
                false
            }
        }
    }

    fn text_now(&self) -> Result<Vec<u8>, String> {
        let read = || {
            if fs::metadata(&self.path)?.len() > LARGEST {
                return Err(std::io::Error::other(format!("longer than {LARGEST} bytes")));
            }
            fs::read(&self.path)
        };
        read().map_err(|error| format!("read {}: {error}", self.path.display()))
    }

    fn complain(&mut self, sink: Option<&dyn EventSink>, trouble: String) {
        if self.trouble.as_ref() != Some(&trouble)
            && let Some(sink) = sink
        {
            sink.send(Event::Disconnected(trouble.clone()));
        }
        warn_once(&mut self.trouble, trouble);
    }
}

fn warn_once(said: &mut Option<String>, trouble: String) {
    if said.as_ref() != Some(&trouble) {
        warn!("{trouble}");
        *said = Some(trouble);
    }
}

/// What the list says about us that is not so.
fn differs(listed: &LeaseValue, us: &LeaseValue) -> Option<String> {
    let mac = |data: &Option<serde_json::Value>| {
        data.as_ref().and_then(|data| data.get("VtepMAC")).and_then(|mac| mac.as_str()).map(str::to_ascii_lowercase)
    };
    if listed.public_ip != us.public_ip && !listed.public_ip.is_unspecified() {
        return Some(format!("public_ip {} is listed, {} is ours", listed.public_ip, us.public_ip));
    }
    let (there, here) = (mac(&listed.backend_data), mac(&us.backend_data));
    (there.is_some() && here.is_some() && there != here)
        .then(|| format!("vtep_mac {} is listed, {} is ours", there.unwrap_or_default(), here.unwrap_or_default()))
}
