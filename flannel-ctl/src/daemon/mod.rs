//! The node agent as a process: puts the rooms together, starts and stops them in order.
//!
//! Three threads matter: the reconcile loop (all kernel work, in order), the kernel's notices,
//! and one asynchronous runtime for the source of leases, the servers and signals. They meet in
//! one channel of [`Wake`]s. Nothing here is undone on exit: the datapath outlives the daemon.

pub mod cleanup;
pub(crate) mod datapath;
mod error;
pub(crate) mod facts;
mod fast;
mod former;
mod handover;
mod heap;
mod listen;
mod node;
mod prepare;
pub mod preview;
pub(crate) mod uplink;
mod userspace;
mod vtep;

use std::{
    sync::{Arc, mpsc},
    thread::{self, JoinHandle},
    time::Instant,
};

use futures::future::select_all;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
    task::{JoinHandle as Task, spawn_blocking},
};

pub use error::StartError;

use self::node::Node;
use crate::{
    config::Settings,
    kernel::{Notice, linux::LinuxKernel, userspace::Parting},
    reconcile::{Agent, Start, Wake},
    serve::{HealthServer, Heartbeat, Readiness, Report, ReportHandle, StatusSocket, notify},
    source::{Event, EventSink},
    state::Lock,
};

/// Hands a source's events to the loop.
struct SourceWakes(mpsc::Sender<Wake<Notice>>);

impl EventSink for SourceWakes {
    fn send(&self, event: Event) -> bool {
        self.0.send(Wake::Source(event)).is_ok()
    }
}

/// Runs until SIGTERM or SIGINT. A second signal ends the process where it stands.
pub fn run(settings: Settings) -> Result<(), StartError> {
    heap::set_up();
    let lock = Lock::acquire(&settings.paths.run_dir)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(StartError::Runtime)?;
    let parting = Parting::default();
    let outcome = runtime.block_on(serve(settings, parting.clone()));
    // Tasks that wait for the network must not delay the exit.
    runtime.shutdown_background();
    parting.end();
    drop(lock);
    outcome
}

async fn serve(settings: Settings, parting: Parting) -> Result<(), StartError> {
    let mut stop = Stop::new()?;
    let readiness = Readiness::new();
    let ready = vec![readiness.wait_for("the lease and its first whole pass over the kernel")];
    let heartbeat = Heartbeat::new(Instant::now());
    let (wake_tx, wake_rx) = mpsc::channel();
    let (report_tx, report_rx) = watch::channel(Arc::new(prepare::first_report(&settings)));
    let handle = report_handle(report_rx, &heartbeat, &readiness, &wake_tx);

    // The status socket comes first: whoever asks why nothing happens yet gets an answer.
    let socket = StatusSocket::bind(&settings.paths.run_dir)?;
    tokio::spawn(report_end("status socket", socket.run(handle.clone())));
    if let Some(address) = settings.health {
        let server = HealthServer::bind(address.ip(), address.port()).await?;
        tokio::spawn(report_end("health server", server.run(handle.clone())));
    }
    tokio::spawn(notify::run(handle.clone()));
    let waiting = tokio::spawn(beat_while_waiting(heartbeat.clone(), readiness.clone()));

    // Before anything else is known, what was carried before is carried again.
    let userspace = userspace::resume(&settings.paths.run_dir, &wake_tx, parting);
    let prepared = tokio::select! {
        prepared = prepare::prepare(&settings, &report_tx, userspace, &readiness) => prepared?,
        () = stop.asked() => return Ok(()),
    };
    waiting.abort();

    let values_tx = watch::Sender::new(prepared.lease.value.clone());
    let (shutdown_tx, shutdown_rx) = watch::channel(false);
    let source = tokio::spawn(prepared.source.run(SourceWakes(wake_tx.clone()), values_tx.subscribe(), shutdown_rx));
    let listeners = listen::listen(&wake_tx, &prepared.kernel, prepared.own)?;
    tokio::spawn(former::remove_once_ready(
        readiness.clone(),
        settings.paths.state_dir.clone(),
        prepared.network.clone(),
    ));
    let report = Report::clone(&report_tx.borrow());
    let start = Start {
        facts: prepared.facts,
        rules: prepared.rules,
        lease: prepared.lease,
        report,
        heartbeat,
        report_tx,
        readiness: readiness.clone(),
        ready,
    };
    let node = Node::new(&settings, prepared.policy, prepared.identity, prepared.network, values_tx);
    let kernel = prepared.kernel;
    let agent = thread::Builder::new()
        .name("reconcile".into())
        .spawn(move || Agent::<LinuxKernel, Node>::new(kernel, node, start).run(&wake_rx))
        .map_err(StartError::Thread)?;
    let mut agent = spawn_blocking(|| drop(agent.join()));
    let ended = tokio::select! {
        () = stop.asked() => None,
        name = died(&mut agent, listeners) => Some(name),
    };
    notify::stopping();
    tracing::info!("stopping; the datapath stays in place and carries packets");
    // Whether anybody still listens does not matter: the point is that they all stop.
    shutdown_tx.send_replace(true);
    drop(wake_tx.send(Wake::Stop));
    drop(tokio::time::timeout(prepare::RELEASE_LIMIT, source).await);
    // It leaves its engines to `parting`.
    if !agent.is_finished() {
        drop(tokio::time::timeout(prepare::RELEASE_LIMIT, agent).await);
    }
    match ended {
        None => Ok(()),
        Some(name) => Err(StartError::Died(name)),
    }
}

fn report_handle(
    report_rx: watch::Receiver<Arc<Report>>,
    heartbeat: &Heartbeat,
    readiness: &Readiness,
    wake_tx: &mpsc::Sender<Wake<Notice>>,
) -> ReportHandle {
    let wake_tx = wake_tx.clone();
    ReportHandle::new(report_rx, heartbeat.clone(), readiness.clone(), move |question| {
        wake_tx.send(Wake::Question(question)).is_ok()
    })
}

/// Until the loop runs, waiting for the store is what being alive looks like.
async fn beat_while_waiting(heartbeat: Heartbeat, readiness: Readiness) {
    let mut tick = tokio::time::interval(Heartbeat::LIMIT / 4);
    while !readiness.is_ready() {
        tick.tick().await;
        heartbeat.beat(Instant::now());
    }
}

async fn report_end(what: &'static str, server: impl Future<Output = std::io::Result<()>>) {
    if let Err(error) = server.await {
        tracing::error!(%error, "the {what} ended");
    }
}

/// Completes if one of them ends without having been asked to: a bug, and nothing to go on without. Each is waited for by
/// a thread, so that an idle daemon need not look.
async fn died(agent: &mut Task<()>, listeners: Vec<(&'static str, JoinHandle<()>)>) -> &'static str {
    let listeners = listeners.into_iter().map(|(name, thread)| {
        spawn_blocking(move || {
            drop(thread.join());
            name
        })
    });
    tokio::select! {
        // The listeners end when it does.
        biased;
        _ = agent => "reconcile loop",
        (name, ..) = select_all(listeners) => name.unwrap_or("thread that listens"),
    }
}

/// SIGTERM and SIGINT.
struct Stop {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Stop {
    fn new() -> Result<Self, StartError> {
        let listen = |kind| signal(kind).map_err(StartError::Signals);
        Ok(Self { terminate: listen(SignalKind::terminate())?, interrupt: listen(SignalKind::interrupt())? })
    }

    async fn asked(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
        // A second signal shall not have to wait for a polite end.
        tokio::spawn(async {
            let Ok(mut again) = Self::new() else { return };
            tokio::select! {
                _ = again.terminate.recv() => {}
                _ = again.interrupt.recv() => {}
            }
            std::process::exit(130);
        });
    }
}
