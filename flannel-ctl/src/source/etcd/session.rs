//! One connection to one etcd member, and the requests that leases need.

use std::time::Duration;

use etcd_client::{
    Client, Compare, CompareOp, GetOptions, KeyValue, KvClient, LeaseClient, PutOptions, SortOrder, SortTarget, Txn,
    TxnOp, TxnOpResponse, WatchClient,
};
use tokio::time::timeout;

use super::{EtcdError, error::Kind, record};
use crate::model::LeaseRecord;

/// For any request but a watch.
const ANSWER: Duration = Duration::from_secs(5);
/// Keys per page of a list.
const PAGE: i64 = 1000;

/// Cheap to clone: all clones use the one connection.
#[derive(Clone)]
pub struct Session {
    pub(super) endpoint: String,
    /// `<prefix>/config`
    pub(super) config_key: String,
    /// `<prefix>/subnets/`
    pub(super) subnets: String,
    kv: KvClient,
    lease: LeaseClient,
    pub(super) watch: WatchClient,
}

/// Every lease at one revision.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    pub revision: i64,
    pub records: Vec<LeaseRecord>,
}

/// The network config as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredConfig {
    pub value: Vec<u8>,
    /// mod revision
    pub modified: i64,
}

/// Outcome of a write that compares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// Done, at this revision.
    Done(i64),
    /// The key is not as expected; this is what it is.
    Changed(Option<LeaseRecord>),
}

impl Session {
    pub(super) fn new(endpoint: &str, prefix: &str, client: &Client) -> Self {
        let prefix = prefix.trim_end_matches('/');
        Self {
            endpoint: endpoint.into(),
            config_key: format!("{prefix}/config"),
            subnets: format!("{prefix}/subnets/"),
            kv: client.kv_client(),
            lease: client.lease_client(),
            watch: client.watch_client(),
        }
    }

    /// Which member this is.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Where the network config is stored.
    pub fn config_key(&self) -> &str {
        &self.config_key
    }

    /// Reads the network config; `None` when there is none.
    pub async fn config(&self) -> Result<Option<StoredConfig>, EtcdError> {
        let mut kv = self.kv.clone();
        let attempt = format!("read {}", self.config_key);
        let answer = self.answer(attempt, kv.get(self.config_key.as_str(), None)).await?;
        Ok(answer.kvs().first().map(|kv| StoredConfig { value: kv.value().to_vec(), modified: kv.mod_revision() }))
    }

    /// Writes the network config; `expected` is the mod revision that it must still have, 0 for
    /// absent, `None` for any. `false` when it was another.
    pub async fn put_config(&self, value: &[u8], expected: Option<i64>) -> Result<bool, EtcdError> {
        let key = self.config_key.as_str();
        let compare: Vec<Compare> =
            expected.map(|revision| Compare::mod_revision(key, CompareOp::Equal, revision)).into_iter().collect();
        let txn = Txn::new().when(compare).and_then([TxnOp::put(key, value, None)]);
        let mut kv = self.kv.clone();
        Ok(self.answer(format!("write {key}"), kv.txn(txn)).await?.succeeded())
    }

    /// All leases, page by page, at one revision.
    pub async fn list(&self) -> Result<Listing, EtcdError> {
        let mut listing = Listing::default();
        let end = prefix_end(&self.subnets);
        let mut from = self.subnets.clone().into_bytes();
        let mut page = PAGE;
        loop {
            let options = GetOptions::new().with_range(end.as_str()).with_limit(page).with_revision(listing.revision);
            let mut kv = self.kv.clone();
            let answer = match self.answer(format!("list {}", self.subnets), kv.get(from.clone(), Some(options))).await
            {
                Err(error) if error.kind == Kind::TooLarge && page > 1 => {
                    page /= 10;
                    continue;
                }
                Err(error) if error.kind == Kind::Compacted => {
                    listing = Listing::default();
                    from = self.subnets.clone().into_bytes();
                    continue;
                }
                answer => answer?,
            };
            if listing.revision == 0 {
                listing.revision = answer.header().map_or(0, etcd_client::ResponseHeader::revision);
            }
            listing.records.extend(answer.kvs().iter().map(|kv| self.record(kv)));
            match answer.kvs().last() {
                Some(last) if answer.more() => {
                    from = last.key().to_vec();
                    from.push(0);
                }
                _ => return Ok(listing),
            }
        }
    }

    /// How many leases there are and the newest mod revision among them: enough to see whether
    /// a watch has lost something.
    pub async fn summary(&self) -> Result<(i64, i64), EtcdError> {
        let options = GetOptions::new()
            .with_prefix()
            .with_keys_only()
            .with_sort(SortTarget::Mod, SortOrder::Descend)
            .with_limit(1);
        let mut kv = self.kv.clone();
        let answer =
            self.answer(format!("count {}", self.subnets), kv.get(self.subnets.as_str(), Some(options))).await?;
        Ok((answer.count(), answer.kvs().first().map_or(0, KeyValue::mod_revision)))
    }

    /// Fails if we may not read all leases. etcd checks the rights to both branches of a transaction
    /// (`checkTxnAuth`, `etcdserver/apply_auth.go`, 3.4), and carries out neither: nothing is read, counted or agreed on.
    pub async fn may_read(&self) -> Result<(), EtcdError> {
        let all = GetOptions::new().with_range(prefix_end(&self.subnets)).with_serializable();
        let txn = Txn::new().or_else([TxnOp::get(self.subnets.as_str(), Some(all))]);
        let mut kv = self.kv.clone();
        self.answer(format!("ask for the right to read {}", self.subnets), kv.txn(txn)).await.map(drop)
    }

    /// Fails if we may not write this lease, and writes nothing. Members of etcd agree on it as on a write.
    pub async fn may_write(&self, key: &str) -> Result<(), EtcdError> {
        let path = self.path(key);
        let txn = Txn::new().or_else([TxnOp::put(path.as_str(), Vec::new(), None)]);
        let mut kv = self.kv.clone();
        self.answer(format!("ask for the right to write {path}"), kv.txn(txn)).await.map(drop)
    }

    /// Reads one lease.
    pub async fn get(&self, key: &str) -> Result<Option<LeaseRecord>, EtcdError> {
        let mut kv = self.kv.clone();
        let path = self.path(key);
        let answer = self.answer(format!("read {path}"), kv.get(path.as_str(), None)).await?;
        Ok(answer.kvs().first().map(|kv| self.record(kv)))
    }

    /// Writes a lease if its mod revision is still `expected`, 0 for absent. `lease_id` 0 makes
    /// it a reservation.
    pub async fn write(&self, key: &str, expected: i64, value: &[u8], lease_id: i64) -> Result<Write, EtcdError> {
        let options = (lease_id != 0).then(|| PutOptions::new().with_lease(lease_id));
        let path = self.path(key);
        let attempt = format!("{} {path}", if expected == 0 { "create" } else { "update" });
        self.compared(attempt, key, expected, TxnOp::put(path, value, options)).await
    }

    /// Deletes a lease if its mod revision is still `expected`.
    pub async fn delete(&self, key: &str, expected: i64) -> Result<Write, EtcdError> {
        let path = self.path(key);
        self.compared(format!("delete {path}"), key, expected, TxnOp::delete(path, None)).await
    }

    async fn compared(&self, attempt: String, key: &str, expected: i64, op: TxnOp) -> Result<Write, EtcdError> {
        let path = self.path(key);
        let txn = Txn::new()
            .when([Compare::mod_revision(path.as_str(), CompareOp::Equal, expected)])
            .and_then([op])
            .or_else([TxnOp::get(path.as_str(), None)]);
        let mut kv = self.kv.clone();
        let answer = self.answer(attempt, kv.txn(txn)).await?;
        if answer.succeeded() {
            return Ok(Write::Done(answer.header().map_or(0, etcd_client::ResponseHeader::revision)));
        }
        let found = answer.op_responses().into_iter().find_map(|response| match response {
            TxnOpResponse::Get(get) => get.kvs().first().map(|kv| self.record(kv)),
            TxnOpResponse::Put(_) | TxnOpResponse::Delete(_) | TxnOpResponse::Txn(_) => None,
        });
        Ok(Write::Changed(found))
    }

    /// A new etcd lease.
    pub async fn grant(&self, ttl: Duration) -> Result<i64, EtcdError> {
        let mut lease = self.lease.clone();
        Ok(self.answer("grant a lease", lease.grant(seconds(ttl), None)).await?.id())
    }

    /// Renews an etcd lease; `false` if it does not exist any more.
    pub async fn renew(&self, id: i64) -> Result<bool, EtcdError> {
        let mut lease = self.lease.clone();
        match self.answer("renew our lease", lease.keep_alive(id)).await {
            Ok(_streams) => Ok(true),
            Err(error) if error.kind == Kind::LeaseGone => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The time to live that an etcd lease was granted with; `None` if it does not exist.
    pub async fn granted_ttl(&self, id: i64) -> Result<Option<Duration>, EtcdError> {
        let mut lease = self.lease.clone();
        match self.answer("look at our lease", lease.time_to_live(id, None)).await {
            Ok(answer) if answer.ttl() > 0 => Ok(u64::try_from(answer.granted_ttl()).ok().map(Duration::from_secs)),
            Ok(_) => Ok(None),
            Err(error) if error.kind == Kind::LeaseGone => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Ends an etcd lease and deletes what hangs on it.
    pub async fn revoke(&self, id: i64) -> Result<(), EtcdError> {
        let mut lease = self.lease.clone();
        self.answer("revoke our lease", lease.revoke(id)).await.map(drop)
    }

    pub(super) fn path(&self, key: &str) -> String {
        format!("{}{key}", self.subnets)
    }

    pub(super) fn record(&self, kv: &KeyValue) -> LeaseRecord {
        record::read(kv, self.subnets.len())
    }

    async fn answer<T>(
        &self,
        attempt: impl Into<String>,
        request: impl Future<Output = Result<T, etcd_client::Error>>,
    ) -> Result<T, EtcdError> {
        match timeout(ANSWER, request).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(EtcdError::new(&self.endpoint, attempt, &error)),
            Err(_) => Err(EtcdError::timeout(&self.endpoint, attempt, ANSWER)),
        }
    }
}

/// etcd counts whole seconds and refuses zero.
pub(super) fn seconds(ttl: Duration) -> i64 {
    i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX).max(1)
}

/// The first key behind all that begin with `prefix`, which ends in `/`.
pub(super) fn prefix_end(prefix: &str) -> String {
    format!("{}0", &prefix[..prefix.len() - 1])
}
