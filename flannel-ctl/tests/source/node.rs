//! A node that leases, and somebody who listens to what its source says.

use std::{collections::BTreeMap, time::Duration};

use etcd_client::{Client, GetOptions, KeyValue};
use flannel_ctl::{
    config::{EtcdConfig, LeaseOptions},
    model::{LeaseRecord, LeaseValue, Subnet},
    source::{EtcdSource, Event, EventSink, Holding, LeaseRequest, LeaseSource, NoLease, OwnLease},
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::{Instant, timeout_at},
};

use crate::lab::PREFIX;

/// Longer than anything that is waited for; tests that have a bar measure it themselves.
const PATIENCE: Duration = Duration::from_secs(30);

struct Sink(mpsc::UnboundedSender<Event>);

impl EventSink for Sink {
    fn send(&self, event: Event) -> bool {
        self.0.send(event).is_ok()
    }
}

/// A node whose source runs.
pub(crate) struct Node {
    pub acquired: OwnLease,
    pub values: watch::Sender<LeaseValue>,
    shutdown: watch::Sender<bool>,
    task: JoinHandle<()>,
    events: mpsc::UnboundedReceiver<Event>,
    /// Everything that was heard, and what it adds up to.
    pub heard: Vec<Event>,
    pub leases: BTreeMap<String, LeaseRecord>,
    pub own: Option<OwnLease>,
}

/// How a node is made.
#[derive(Clone)]
pub(crate) struct Setup {
    pub config: EtcdConfig,
    pub options: LeaseOptions,
    pub value: LeaseValue,
    pub previous: Option<Subnet>,
    pub refused_by: Option<Holding>,
}

impl Setup {
    pub(crate) fn new(config: EtcdConfig, id: &str, ip: &str) -> Self {
        Self { config, options: LeaseOptions::default(), value: value(id, ip), previous: None, refused_by: None }
    }

    /// Network and lease, and then stop.
    pub(crate) async fn acquire(self) -> (LeaseSource, OwnLease) {
        self.try_acquire().await.unwrap()
    }

    pub(crate) async fn try_acquire(self) -> Result<(LeaseSource, OwnLease), NoLease> {
        let mut source = LeaseSource::Etcd(Box::new(EtcdSource::new(self.config, self.options)));
        let network = source.network().await;
        let request = LeaseRequest { network, value: self.value, previous: self.previous, refused_by: self.refused_by };
        let lease = source.acquire(request).await?;
        Ok((source, lease))
    }

    pub(crate) async fn run(self) -> Node {
        let value = self.value.clone();
        let (source, acquired) = self.acquire().await;
        Node::run(source, acquired, value)
    }
}

impl Node {
    pub(crate) fn run(source: LeaseSource, acquired: OwnLease, value: LeaseValue) -> Self {
        let (values, value_rx) = watch::channel(value);
        let (shutdown, shutdown_rx) = watch::channel(false);
        let (event_tx, events) = mpsc::unbounded_channel();
        let task = tokio::spawn(source.run(Sink(event_tx), value_rx, shutdown_rx));
        let (heard, leases) = (Vec::new(), BTreeMap::new());
        Self { acquired, values, shutdown, task, events, heard, leases, own: None }
    }

    /// Listens until it is so.
    pub(crate) async fn until(&mut self, what: &str, so: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !so(self) {
            match timeout_at(deadline, self.events.recv()).await {
                Ok(Some(event)) => self.hear(event),
                Ok(None) => panic!("the source ended before {what}: {:#?}", self.heard),
                Err(elapsed) => panic!("waited in vain until {what}, {elapsed}: {}", self.last_words()),
            }
        }
    }

    /// Listens until a list came.
    pub(crate) async fn until_listed(&mut self) {
        self.until("the first list", |node| node.heard.iter().any(|event| matches!(event, Event::Snapshot(_)))).await;
    }

    pub(crate) fn count(&self, which: impl Fn(&Event) -> bool) -> usize {
        self.heard.iter().filter(|event| which(event)).count()
    }

    /// A clean exit.
    pub(crate) async fn stop(self) {
        self.shutdown.send_replace(true);
        self.task.await.unwrap();
    }

    /// kill -9.
    pub(crate) async fn abort(self) {
        self.task.abort();
        drop(self.task.await);
    }

    fn hear(&mut self, event: Event) {
        match &event {
            Event::Snapshot(records) => {
                self.leases = records.iter().map(|record| (record.key.clone(), record.clone())).collect();
            }
            Event::Put(record) => drop(self.leases.insert(record.key.clone(), record.clone())),
            Event::Delete(key) => drop(self.leases.remove(key)),
            Event::Own(lease) => self.own = Some(lease.clone()),
            Event::Lost { .. } => self.own = None,
            Event::Conflict { .. }
            | Event::Holding(_)
            | Event::NetworkChanged(_)
            | Event::Connected
            | Event::Disconnected(_) => {}
        }
        self.heard.push(event);
    }

    fn last_words(&self) -> String {
        let tail = self.heard.iter().rev().take(12).rev();
        tail.map(|event| format!("{event:?}").chars().take(400).collect::<String>()).collect::<Vec<_>>().join("\n")
    }
}

pub(crate) fn value(id: &str, ip: &str) -> LeaseValue {
    let text = format!(
        r#"{{"PublicIP":"{ip}","PublicIPv6":null,"BackendType":"vxlan","BackendData":{{"VNI":1,"VtepMAC":"46:82:fb:f7:52:6d"}},"NodeID":"{id}","NodeName":"host-{id}"}}"#
    );
    serde_json::from_str(&text).unwrap()
}

/// What flannel's own daemon writes.
pub(crate) fn flannel_value(ip: &str) -> String {
    format!(
        r#"{{"PublicIP":"{ip}","PublicIPv6":null,"BackendType":"vxlan","BackendData":{{"VNI":1,"VtepMAC":"46:82:fb:f7:52:01"}}}}"#
    )
}

pub(crate) fn key(subnet: &str) -> String {
    format!("{PREFIX}/subnets/{subnet}")
}

/// Everything below `subnets/`.
pub(crate) async fn stored(client: &mut Client) -> Vec<KeyValue> {
    let options = GetOptions::new().with_prefix();
    client.get(format!("{PREFIX}/subnets/"), Some(options)).await.unwrap().take_kvs()
}

/// One key below `subnets/`.
pub(crate) async fn stored_at(client: &mut Client, subnet: &str) -> Option<KeyValue> {
    client.get(key(subnet), None).await.unwrap().take_kvs().pop()
}

/// What the node believes is what the store has.
pub(crate) fn equals(leases: &BTreeMap<String, LeaseRecord>, stored: &[KeyValue]) -> bool {
    let skip = PREFIX.len() + "/subnets/".len();
    leases.len() == stored.len()
        && stored.iter().all(|kv| {
            leases
                .get(&kv.key_str().unwrap()[skip..])
                .is_some_and(|record| record.modified == kv.mod_revision() && record.value == kv.value())
        })
}
