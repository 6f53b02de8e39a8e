//! Leases of nodes that do not exist, and a second pair of eyes on the store's watch.

use std::{
    net::Ipv4Addr,
    ops::Range,
    sync::mpsc::{self, Receiver},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use etcd_client::{Client, GetOptions, PutOptions, Txn, TxnOp, WatchOptions};
use tokio::runtime::Runtime;

/// Where the lab's daemons keep leases.
const SUBNETS: &str = "/coreos.com/network/subnets/";
/// Half of what a transaction may hold in etcd and in the embedded store.
const PER_TXN: usize = 64;
const TTL: i64 = 86_400;
/// Second byte of the first range; what is below is for the daemon under test.
const FIRST: u8 = 64;

/// Network config with room for 65,536 nodes.
pub(super) const NETWORK: &str = r#"{"Network":"10.0.0.0/8","SubnetLen":24,"SubnetMin":"10.1.0.0","SubnetMax":"10.63.255.0","Backend":{"Type":"vxlan"}}"#;

/// A node by its number, and how often it has changed its VTEP address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fake {
    pub(super) number: usize,
    pub(super) version: u8,
}

impl Fake {
    pub(super) fn new(number: usize) -> Self {
        Self { number, version: 0 }
    }

    pub(super) fn base(self) -> Ipv4Addr {
        let [.., high, low] = self.number.to_be_bytes();
        Ipv4Addr::new(10, FIRST + high, low, 0)
    }

    pub(super) fn mac(self) -> [u8; 6] {
        let [.., high, low] = self.number.to_be_bytes();
        [0x02, 0xfa, 0x4e, self.version, high, low]
    }

    pub(super) fn key(self) -> String {
        format!("{SUBNETS}{}-24", self.base())
    }

    /// As flannel-ctl writes it.
    fn value(self) -> String {
        let [.., high, low] = self.number.to_be_bytes();
        let mac = self.mac().map(|byte| format!("{byte:02x}")).join(":");
        let number = self.number;
        format!(
            r#"{{"PublicIP":"172.20.{high}.{low}","PublicIPv6":null,"BackendType":"vxlan","BackendData":{{"VNI":1,"VtepMAC":"{mac}"}},"NodeID":"00000000-0000-4000-8000-{number:012x}","NodeName":"node-{number}.example"}}"#
        )
    }
}

/// A connection that writes. Made in the store's network namespace.
pub(super) struct Writer {
    runtime: Runtime,
    client: Client,
    lease: i64,
}

impl Writer {
    pub(super) fn connect(endpoint: &str) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (client, lease) = runtime.block_on(async {
            let mut client = Client::connect([endpoint], None).await?;
            let lease = client.lease_grant(TTL, None).await?.id();
            Ok::<_, etcd_client::Error>((client, lease))
        })?;
        Ok(Self { runtime, client, lease })
    }

    /// Writes nodes of these numbers, many at once.
    pub(super) fn fill(&mut self, numbers: Range<usize>) -> Result<()> {
        let all: Vec<Fake> = numbers.map(Fake::new).collect();
        for chunk in all.chunks(PER_TXN) {
            let puts: Vec<TxnOp> =
                chunk.iter().map(|fake| TxnOp::put(fake.key(), fake.value(), Some(self.options()))).collect();
            self.runtime.block_on(self.client.txn(Txn::new().and_then(puts)))?;
        }
        Ok(())
    }

    pub(super) fn put(&mut self, fake: Fake) -> Result<()> {
        let options = self.options();
        self.runtime.block_on(self.client.put(fake.key(), fake.value(), Some(options)))?;
        Ok(())
    }

    pub(super) fn delete(&mut self, fake: Fake) -> Result<()> {
        self.runtime.block_on(self.client.delete(fake.key(), None))?;
        Ok(())
    }

    /// Deletes the leases of the daemon under test.
    pub(super) fn forget_the_node(&mut self) -> Result<()> {
        let keys = self
            .runtime
            .block_on(self.client.get(SUBNETS, Some(GetOptions::new().with_prefix().with_keys_only().with_limit(0))))?;
        for kv in keys.kvs() {
            let name = kv.key_str()?;
            let second = name.trim_start_matches(SUBNETS).split('.').nth(1);
            if second.and_then(|byte| byte.parse().ok()).is_none_or(|byte: u8| byte < FIRST) {
                self.runtime.block_on(self.client.delete(name, None))?;
            }
        }
        Ok(())
    }

    /// For many requests at once: a handle that can be cloned, and where to run it.
    pub(super) fn parts(&self) -> (&Runtime, Client, PutOptions) {
        (&self.runtime, self.client.clone(), self.options())
    }

    fn options(&self) -> PutOptions {
        PutOptions::new().with_lease(self.lease)
    }
}

impl Fake {
    pub(super) fn entry(self) -> (String, String) {
        (self.key(), self.value())
    }
}

/// An event of the store's watch as another client saw it.
#[derive(Clone, Debug)]
pub(super) struct Told {
    pub(super) at: Instant,
    pub(super) key: String,
}

/// Watches from a thread of its own. What it sees, the daemon sees at about the same time.
pub(super) struct Watch {
    told_rx: Receiver<Told>,
}

impl Watch {
    pub(super) fn start(endpoint: &str) -> Result<Self> {
        let (told_tx, told_rx) = mpsc::channel();
        let (ready_tx, ready_rx) = mpsc::channel();
        let endpoint = endpoint.to_owned();
        thread::spawn(move || {
            let watched = tokio::runtime::Builder::new_current_thread().enable_all().build().map(|runtime| {
                runtime.block_on(async {
                    let mut client = Client::connect([endpoint], None).await?;
                    let mut stream = client.watch(SUBNETS, Some(WatchOptions::new().with_prefix())).await?;
                    while let Some(message) = stream.message().await? {
                        let at = Instant::now();
                        if message.created() {
                            ready_tx.send(()).ok();
                        }
                        for event in message.events() {
                            let Some(kv) = event.kv() else { continue };
                            let key = kv.key_str()?.to_owned();
                            if told_tx.send(Told { at, key }).is_err() {
                                return Ok(());
                            }
                        }
                    }
                    Ok::<(), etcd_client::Error>(())
                })
            });
            // It ends with the store; whoever waits for an event that does not come says so.
            drop(watched);
        });
        ready_rx.recv_timeout(Duration::from_secs(10)).context("the store does not answer a watch")?;
        Ok(Self { told_rx })
    }

    /// The next event of this node.
    pub(super) fn wait(&self, fake: Fake) -> Result<Told> {
        let key = fake.key();
        loop {
            let told = self.told_rx.recv_timeout(Duration::from_secs(10)).context("the watch told nothing")?;
            if told.key == key {
                return Ok(told);
            }
        }
    }

    /// Events up to now, with the time of the last.
    pub(super) fn drain(&self) -> (usize, Option<Instant>) {
        let told: Vec<Told> = self.told_rx.try_iter().collect();
        (told.len(), told.last().map(|told| told.at))
    }
}
