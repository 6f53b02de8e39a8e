//! Runs the pure core: one writer thread that groups commits, readers that see only what is durable, lease expiry.
//!
//! Writers queue up; the thread applies all that wait, commits them to the file together, and only then answers them and
//! raises the durable revision that readers and watches go by. If a commit fails the store stops: what was applied in
//! memory is not in the file, and carrying on would answer from a state that a restart does not find.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc, oneshot, watch};

use super::file::{File, FileError};
use super::lease::Lessor;
use super::mvcc::{Core, Effects, Refusal};
use super::proto::ResponseHeader;

/// Requests that may wait for the writer; further ones wait at their senders.
const QUEUE: usize = 4096;
/// Requests that share a commit at most.
const GROUP: usize = 1024;
/// Leases that are revoked in one go when many end together.
const EXPIRY_BATCH: usize = 256;
/// History is compacted earlier than by count once it holds this much.
const LOG_BYTES: u64 = 64 << 20;

/// How much is kept.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Revisions that stay readable and watchable behind the newest.
    pub keep_revisions: i64,
    /// Bytes of data and history in memory beyond which writes are refused.
    pub quota: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { keep_revisions: 10_000, quota: 512 << 20 }
    }
}

type Job = Box<dyn FnOnce(&mut Core, &mut Effects) -> Reply + Send>;
/// Sends an answer, once it is known whether the commit succeeded.
type Reply = Box<dyn FnOnce(bool) + Send>;

struct Shared {
    core: RwLock<Core>,
    lessor: Mutex<Lessor>,
    lessor_changed: Notify,
    /// Newest revision that is on disk.
    durable: watch::Sender<i64>,
    started: Instant,
    cluster_id: u64,
    member_id: u64,
}

/// A running store without its network side. Clones share it; it ends when the last one is dropped.
#[derive(Clone)]
pub struct Engine {
    shared: Arc<Shared>,
    job_tx: mpsc::Sender<Job>,
}

impl Engine {
    /// Opens the file and starts the writer. The receiver yields the error if the writer has to give up, and closes once
    /// the writer is done and the file released.
    pub fn open(path: &Path, limits: Limits) -> Result<(Self, oneshot::Receiver<FileError>), FileError> {
        let (file, saved) = File::open(path, (rand::random(), rand::random()))?;
        let core = Core::restore(saved, limits.quota).map_err(|damage| file.damaged(&damage))?;
        let mut lessor = Lessor::default();
        for (id, ttl) in core.leases() {
            lessor.grant(id, ttl, Duration::ZERO);
        }
        let shared = Arc::new(Shared {
            durable: watch::Sender::new(core.revision()),
            core: RwLock::new(core),
            lessor: Mutex::new(lessor),
            lessor_changed: Notify::new(),
            started: Instant::now(),
            cluster_id: file.cluster_id,
            member_id: file.member_id,
        });
        let (job_tx, job_rx) = mpsc::channel(QUEUE);
        let (done_tx, done_rx) = oneshot::channel();
        let path = file.path().to_owned();
        let writer = Writer { shared: Arc::clone(&shared), file, job_rx, limits };
        std::thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || {
                if let Err(error) = writer.run()
                    && done_tx.send(error).is_err()
                {
                    tracing::debug!("the store's writer failed after the server had gone");
                }
            })
            .map_err(|error| FileError::Failed { path, tried: "starting the writer", answer: error.to_string() })?;
        Ok((Self { shared, job_tx }, done_rx))
    }

    /// Runs a write, and answers once it is durable. Reads that must see all earlier writes may come this way too.
    pub async fn write<T, F>(&self, job: F) -> Result<T, Refusal>
    where
        T: Send + 'static,
        F: FnOnce(&mut Core, &mut Effects) -> Result<T, Refusal> + Send + 'static,
    {
        let (answer_tx, answer_rx) = oneshot::channel();
        let job: Job = Box::new(move |core, effects| {
            let answer = job(core, effects);
            Box::new(move |durable| {
                // A client that has hung up does not want its answer.
                drop(answer_tx.send(if durable { answer } else { Err(Refusal::Stopped) }));
            })
        });
        self.job_tx.send(job).await.map_err(|_| Refusal::Stopped)?;
        answer_rx.await.unwrap_or(Err(Refusal::Stopped))
    }

    /// Runs a read with the newest durable revision.
    pub fn read<T>(&self, look: impl FnOnce(&Core, i64) -> T) -> T {
        let core = self.core();
        // Under the lock, so that no compaction gets ahead of it.
        let durable = self.durable();
        look(&core, durable)
    }

    /// The newest durable revision.
    pub fn durable(&self) -> i64 {
        *self.shared.durable.borrow()
    }

    /// Follows the newest durable revision.
    pub fn follow(&self) -> watch::Receiver<i64> {
        self.shared.durable.subscribe()
    }

    /// The header of an answer at a revision.
    pub fn header(&self, revision: i64) -> ResponseHeader {
        let Shared { cluster_id, member_id, .. } = *self.shared;
        ResponseHeader { cluster_id, member_id, revision, raft_term: 1 }
    }

    /// A keep-alive, see [`Lessor::renew`].
    pub fn renew(&self, id: i64) -> Option<i64> {
        let now = self.now();
        self.lessor().renew(id, now)
    }

    /// See [`Lessor::remaining`].
    pub fn remaining(&self, id: i64) -> Option<(i64, i64)> {
        self.lessor().remaining(id, self.now())
    }

    /// See [`Lessor::ids`].
    pub fn lease_ids(&self) -> Vec<i64> {
        self.lessor().ids()
    }

    /// Revokes leases as they end, until the store stops.
    pub async fn expire_leases(self) {
        loop {
            let now = self.now();
            let (over, next) = {
                let lessor = self.lessor();
                (lessor.expired(now, EXPIRY_BATCH), lessor.next_end())
            };
            if over.is_empty() {
                let changed = self.shared.lessor_changed.notified();
                match next {
                    Some(end) => drop(tokio::time::timeout(end.saturating_sub(now), changed).await),
                    None => changed.await,
                }
                continue;
            }
            let revoked = self
                .write(move |core, effects| {
                    for id in over {
                        match core.revoke(id, effects) {
                            Ok(revision) => tracing::info!(lease = format_args!("{id:x}"), revision, "lease expired"),
                            // Its owner was quicker.
                            Err(refusal) => tracing::debug!(lease = format_args!("{id:x}"), %refusal, "not expired"),
                        }
                    }
                    Ok(())
                })
                .await;
            if revoked.is_err() {
                return;
            }
        }
    }

    fn now(&self) -> Duration {
        self.shared.started.elapsed()
    }

    // A panic while one of these locks is held is a bug that ends the process in a release build; elsewhere the data is
    // still what the last complete statement left.
    fn core(&self) -> RwLockReadGuard<'_, Core> {
        self.shared.core.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn lessor(&self) -> MutexGuard<'_, Lessor> {
        self.shared.lessor.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Writer {
    shared: Arc<Shared>,
    file: File,
    job_rx: mpsc::Receiver<Job>,
    limits: Limits,
}

impl Writer {
    fn run(mut self) -> Result<(), FileError> {
        let mut jobs = Vec::with_capacity(GROUP);
        while self.job_rx.blocking_recv_many(&mut jobs, GROUP) > 0 {
            let mut effects = Effects::default();
            let mut replies = Vec::with_capacity(jobs.len());
            let (revision, compacted) = {
                let mut core = self.shared.core.write().unwrap_or_else(PoisonError::into_inner);
                replies.extend(jobs.drain(..).map(|job| job(&mut core, &mut effects)));
                self.compact_old(&mut core, &mut effects);
                (core.revision(), core.compacted())
            };
            let committed = if effects.is_empty() { Ok(()) } else { self.file.commit(&effects, revision, compacted) };
            if committed.is_ok() {
                self.publish(&effects, revision);
            }
            for reply in replies {
                reply(committed.is_ok());
            }
            committed?;
        }
        Ok(())
    }

    /// Keeps history within bounds. Never beyond what readers see, or they would find their revision compacted.
    fn compact_old(&self, core: &mut Core, effects: &mut Effects) {
        let durable = *self.shared.durable.borrow();
        let keep = if core.log_weight() > LOG_BYTES {
            (core.revision() - core.compacted().max(0)) / 2
        } else {
            self.limits.keep_revisions
        };
        let target = (core.revision() - keep).min(durable);
        // In steps, so that the bookkeeping is not done for each write.
        let step = (keep / 16).max(1);
        if target < core.compacted().max(0) + step {
            return;
        }
        match core.compact(target, durable, effects) {
            Ok(()) => tracing::debug!(revision = target, "compacted history"),
            Err(refusal) => tracing::warn!(revision = target, %refusal, "could not compact history"),
        }
    }

    fn publish(&self, effects: &Effects, revision: i64) {
        if !effects.leases.is_empty() {
            let now = self.shared.started.elapsed();
            let mut lessor = self.shared.lessor.lock().unwrap_or_else(PoisonError::into_inner);
            for (&id, ttl) in &effects.leases {
                match ttl {
                    Some(ttl) => lessor.grant(id, *ttl, now),
                    None => lessor.revoke(id),
                }
            }
            self.shared.lessor_changed.notify_one();
        }
        self.shared.durable.send_if_modified(|durable| std::mem::replace(durable, revision) != revision);
    }
}
