//! Watch: each stream is a task that reads the change log at its own pace.
//!
//! Nothing is queued per watcher but its position, so a slow client costs no memory: it falls behind, and if compaction
//! overtakes it, it is told so and has to list again, as with etcd.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::rpc::watch_server::Watch;
use super::{Service, status};
use crate::store::engine::Engine;
use crate::store::mvcc::{Change, Core, KeyRange, Refusal};
use crate::store::proto::{
    Event, EventType, WatchCreateRequest, WatchFilter, WatchRequest, WatchRequestKind, WatchResponse,
};

/// Answers on their way to a client.
const IN_FLIGHT: usize = 4;
/// An answer is closed, at the end of a revision, once it holds this much; most clients refuse more than 4 MiB.
const ANSWER_BYTES: usize = 1 << 20;
const ANSWER_EVENTS: usize = 1000;
const MAX_WATCHERS: usize = 10_000;
/// How often a watcher that asked for it hears that nothing happened (etcd's interval).
const PROGRESS_INTERVAL: Duration = Duration::from_mins(10);
/// The watch id of answers that belong to no watcher.
const NO_WATCHER: i64 = -1;

#[tonic::async_trait]
impl Watch for Service {
    type WatchStream = ReceiverStream<Result<WatchResponse, Status>>;

    async fn watch(&self, request: Request<Streaming<WatchRequest>>) -> Result<Response<Self::WatchStream>, Status> {
        let (answer_tx, answer_rx) = mpsc::channel(IN_FLIGHT);
        let session = Session { engine: self.engine.clone(), answer_tx, watchers: BTreeMap::new(), next_id: 0 };
        let stopped = self.stopped();
        let requests = request.into_inner();
        tokio::spawn(async move {
            let farewell_tx = session.answer_tx.clone();
            let done = tokio::select! {
                done = session.run(requests) => done,
                () = stopped => Err(status(Refusal::Stopped)),
            };
            if let Err(status) = done {
                // Not waiting for a client that does not read: the connection ends anyway.
                drop(farewell_tx.try_send(Err(status)));
            }
        });
        Ok(Response::new(ReceiverStream::new(answer_rx)))
    }
}

struct Watcher {
    keys: KeyRange,
    /// The next revision to look at.
    next: i64,
    /// Kinds of change that it does not want.
    filters: Vec<i32>,
    prev_kv: bool,
    progress_notify: bool,
    /// Whether it was told anything since the last progress tick.
    told: bool,
}

struct Session {
    engine: Engine,
    answer_tx: mpsc::Sender<Result<WatchResponse, Status>>,
    watchers: BTreeMap<i64, Watcher>,
    next_id: i64,
}

/// What a look at the log gave a watcher.
enum Step {
    Events { events: Vec<Event>, header_revision: i64 },
    Compacted { at: i64 },
    UpToDate,
}

impl Session {
    /// Until the client hangs up; an error is for the client to read.
    async fn run(mut self, mut requests: Streaming<WatchRequest>) -> Result<(), Status> {
        let mut durable_rx = self.engine.follow();
        let mut progress = tokio::time::interval(PROGRESS_INTERVAL);
        progress.reset();
        loop {
            let going = tokio::select! {
                changed = durable_rx.changed() => {
                    let upto = *durable_rx.borrow_and_update();
                    changed.is_ok() && self.deliver(upto).await
                }
                request = requests.message() => match request? {
                    Some(WatchRequest { request: Some(request) }) => self.handle(request).await,
                    Some(WatchRequest { request: None }) => true,
                    // The client says no more, but may go on listening.
                    None => return self.listen_only(durable_rx).await,
                },
                _ = progress.tick() => self.notify_progress().await,
                () = self.answer_tx.closed() => false,
            };
            if !going {
                return Ok(());
            }
        }
    }

    async fn listen_only(mut self, mut durable_rx: tokio::sync::watch::Receiver<i64>) -> Result<(), Status> {
        loop {
            let going = tokio::select! {
                changed = durable_rx.changed() => {
                    let upto = *durable_rx.borrow_and_update();
                    changed.is_ok() && self.deliver(upto).await
                }
                () = self.answer_tx.closed() => false,
            };
            if !going || self.watchers.is_empty() {
                return Ok(());
            }
        }
    }

    async fn handle(&mut self, request: WatchRequestKind) -> bool {
        match request {
            WatchRequestKind::Create(create) => self.create(create).await,
            WatchRequestKind::Cancel(cancel) => {
                if self.watchers.remove(&cancel.watch_id).is_none() {
                    return true;
                }
                let answer = WatchResponse { canceled: true, ..self.answer(cancel.watch_id) };
                self.send(answer).await
            }
            WatchRequestKind::Progress(_) => {
                // The answer promises that nothing up to its revision is still to come.
                let revision = self.engine.durable();
                self.deliver(revision).await && {
                    let header = Some(self.engine.header(revision));
                    self.send(WatchResponse { header, ..self.answer(NO_WATCHER) }).await
                }
            }
        }
    }

    async fn create(&mut self, mut request: WatchCreateRequest) -> bool {
        if request.key.is_empty() {
            request.key = prost::bytes::Bytes::from_static(&[0]);
        }
        let revision = self.engine.durable();
        let keys = KeyRange::new(&request.key, &request.range_end);
        let refused = if request.start_revision < 0 {
            Some(Refusal::Compacted.to_string())
        } else if keys.is_empty() {
            Some("mvcc: watcher range is empty".to_owned())
        } else if request.watch_id != 0 && self.watchers.contains_key(&request.watch_id) {
            Some("mvcc: duplicate watch ID provided on the WatchStream".to_owned())
        } else if self.watchers.len() >= MAX_WATCHERS {
            Some(format!("this stream has {MAX_WATCHERS} watchers already"))
        } else {
            None
        };
        if let Some(cancel_reason) = refused {
            let answer = WatchResponse { created: true, canceled: true, cancel_reason, ..self.answer(NO_WATCHER) };
            return self.send(answer).await;
        }
        let id = if request.watch_id == 0 { self.free_id() } else { request.watch_id };
        let watcher = Watcher {
            keys,
            next: if request.start_revision == 0 { revision + 1 } else { request.start_revision },
            filters: request.filters,
            prev_kv: request.prev_kv,
            progress_notify: request.progress_notify,
            told: false,
        };
        self.watchers.insert(id, watcher);
        let header = Some(self.engine.header(revision));
        let created = WatchResponse { header, created: true, ..self.answer(id) };
        self.send(created).await && self.deliver_to(id, revision).await
    }

    async fn deliver(&mut self, upto: i64) -> bool {
        let ids: Vec<i64> = self.watchers.keys().copied().collect();
        for id in ids {
            if !self.deliver_to(id, upto).await {
                return false;
            }
        }
        true
    }

    /// Sends a watcher what happened up to a revision. False once the client is gone.
    async fn deliver_to(&mut self, id: i64, upto: i64) -> bool {
        loop {
            let Some(watcher) = self.watchers.get_mut(&id) else { return true };
            let step = self.engine.read(|core, _| watcher.step(core, upto));
            let going = match step {
                Step::UpToDate => return true,
                Step::Events { events, header_revision } => {
                    let header = Some(self.engine.header(header_revision));
                    self.send(WatchResponse { header, events, ..self.answer(id) }).await
                }
                Step::Compacted { at } => {
                    self.watchers.remove(&id);
                    self.send(WatchResponse { canceled: true, compact_revision: at, ..self.answer(id) }).await
                }
            };
            if !going {
                return false;
            }
        }
    }

    async fn notify_progress(&mut self) -> bool {
        let revision = self.engine.durable();
        if !self.deliver(revision).await {
            return false;
        }
        let mut quiet = Vec::new();
        for (&id, watcher) in &mut self.watchers {
            if watcher.progress_notify && !std::mem::take(&mut watcher.told) {
                quiet.push(id);
            }
        }
        for id in quiet {
            let header = Some(self.engine.header(revision));
            if !self.send(WatchResponse { header, ..self.answer(id) }).await {
                return false;
            }
        }
        true
    }

    fn answer(&self, watch_id: i64) -> WatchResponse {
        let header = Some(self.engine.header(self.engine.durable()));
        WatchResponse { header, watch_id, ..WatchResponse::default() }
    }

    async fn send(&self, answer: WatchResponse) -> bool {
        self.answer_tx.send(Ok(answer)).await.is_ok()
    }

    /// Never one that was used before on this stream, so that a late answer cannot be mistaken.
    fn free_id(&mut self) -> i64 {
        while self.watchers.contains_key(&self.next_id) {
            self.next_id += 1;
        }
        self.next_id += 1;
        self.next_id - 1
    }
}

impl Watcher {
    /// Collects the next answer and moves on past it.
    fn step(&mut self, core: &Core, upto: i64) -> Step {
        if self.next > upto {
            return Step::UpToDate;
        }
        if self.next < core.compacted() {
            return Step::Compacted { at: core.compacted() };
        }
        let mut events = Vec::new();
        let mut bytes = 0;
        let mut last = 0;
        for change in core.changes(self.next, upto) {
            let full = bytes >= ANSWER_BYTES || events.len() >= ANSWER_EVENTS;
            if full && change.revision() != last {
                self.told = true;
                self.next = last + 1;
                return Step::Events { events, header_revision: upto };
            }
            if self.wants(change) {
                last = change.revision();
                let event = self.event(core, change);
                bytes += prost::Message::encoded_len(&event);
                events.push(event);
            }
        }
        self.next = upto + 1;
        if events.is_empty() {
            return Step::UpToDate;
        }
        self.told = true;
        Step::Events { events, header_revision: upto }
    }

    fn wants(&self, change: &Change) -> bool {
        let filter = if change.is_deletion() { WatchFilter::NoDelete } else { WatchFilter::NoPut };
        !self.filters.contains(&(filter as i32)) && self.keys.contains(&change.kv.key)
    }

    fn event(&self, core: &Core, change: &Change) -> Event {
        let kind = if change.is_deletion() { EventType::Delete } else { EventType::Put };
        let created = change.kv.create_revision == change.revision();
        Event {
            r#type: kind as i32,
            kv: Some(change.kv.clone()),
            prev_kv: if self.prev_kv && !created { core.before(change).cloned() } else { None },
        }
    }
}
