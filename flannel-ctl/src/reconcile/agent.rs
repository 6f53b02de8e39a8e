//! The loop: wakes for a reason, takes in all that is waiting, compares, applies, reports.
//!
//! Flow: an event, a notice or a timer only marks what may differ; the pass after it compares
//! and changes. Guarantees: nothing is removed before the source has told its whole list; one
//! object's failure holds up no other; after any pass without failures, another would change
//! nothing. Assumptions: one agent per network namespace and run directory. Caveat: the loop
//! is one thread, so a pass over ten thousand peers delays the next event by its length.

mod around;
mod events;
mod fast;
mod look;
mod publish;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeSet,
    net::IpAddr,
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use nix::errno::Errno;
use rand::Rng;
use tokio::sync::watch;

use self::look::Sweep;
use super::{
    Inbox, Retries, World,
    hits::Hits,
    host::Host,
    own_report,
    reporting::{self, Memory},
    vital,
};
use crate::{
    kernel::{Interpretation, Kernel, KernelError},
    model::{Key, Op},
    plan::{Facts, Rules, explain::explain},
    serve::{
        Heartbeat, Question, Readiness, ReadyGuard, Report,
        report::{EngineReport, FilterReport},
    },
    source::{Event, OwnLease},
};

/// Reasons to wake.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "moved once from sender to loop; a box each would cost more")]
pub enum Wake<N> {
    Source(Event),
    /// The kernel said something.
    Kernel(Inbox<N>),
    /// The packet filter's tables were touched.
    Filter(Inbox<()>),
    /// Rules of somebody else changed.
    OthersRules(Inbox<()>),
    /// Nothing is heard with this ear any more, and why; `None`: it hears again.
    Deaf(Ear, Option<String>),
    Question(Question),
    Stop,
}

/// What listens to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ear {
    /// To its tables: links, routes, neighbours.
    Kernel,
    /// To its packet filter.
    Filter,
}

/// Other people's routes and addresses change in bursts (every pod start): look at most this often.
const SURROUNDINGS: Duration = Duration::from_millis(250);
/// A pod's interface is set up in several steps.
const PODS_SETTLE: Duration = Duration::from_millis(5);
/// A touched packet filter is looked at after this: whoever rewrites it does so in several steps.
const FILTER_SETTLES: Duration = Duration::from_millis(20);
/// How old the packet filter's counters in a report may be.
const FILTER_REPORT: Duration = Duration::from_secs(1);
/// Changes in one pass, or objects looked at, after which it is worth tidying up.
const LARGE: usize = 5000;
/// And when: others have put down by then what they carried for it.
const REST: Duration = Duration::from_secs(1);
/// Wake-ups taken in before a pass is due, so that a storm cannot starve the kernel.
const BATCH: usize = 4096;

/// The reconcile loop with all that it owns.
pub struct Agent<K: Kernel, H: Host> {
    kernel: K,
    host: H,
    world: World,
    retries: Retries,
    memory: Memory,
    started: Instant,
    heartbeat: Heartbeat,
    report_tx: watch::Sender<Arc<Report>>,
    readiness: Readiness,
    /// Held until our own part is in place, at first and after a lost subnet.
    ready: Vec<ReadyGuard>,
    due: Due,
    sweep: Sweep,
    /// Facts changed and have not been published yet.
    unpublished: bool,
    filter: FilterReport,
    hits: Hits,
    engines: Vec<EngineReport>,
    /// Peers that could not be looked up; asked after again with the next look around.
    unanswered: BTreeSet<IpAddr>,
    /// [`vital::GRACE`], except in tests.
    grace: Duration,
}

/// Times, since the start, at which something has to happen.
#[derive(Debug, Default)]
struct Due {
    /// Look at the kernel again, and why.
    observe: Option<(Duration, &'static str)>,
    surroundings: Option<Duration>,
    pods: Option<Duration>,
    publish: Option<Duration>,
    /// IPv6 has been waited for long enough then.
    grace: Option<Duration>,
    /// Memory that much work took can be given back.
    rest: Option<Duration>,
    filter: Duration,
    /// The fast path's attachments are looked at, and doubts that were put off are carried out.
    attachments: Option<Duration>,
    doubts: Option<Duration>,
}

/// What a new agent starts from.
pub struct Start {
    pub facts: Facts,
    pub rules: Rules,
    pub lease: OwnLease,
    /// Version, node, source kind, datapath and its reason: what the loop itself does not know.
    pub report: Report,
    pub heartbeat: Heartbeat,
    pub report_tx: watch::Sender<Arc<Report>>,
    pub readiness: Readiness,
    pub ready: Vec<ReadyGuard>,
}

impl<K: Kernel<Notice: Clone>, H: Host> Agent<K, H> {
    pub fn new(mut kernel: K, host: H, start: Start) -> Self {
        kernel.set_facts(&start.facts);
        Self {
            kernel,
            host,
            world: World::new(start.facts, start.rules),
            retries: Retries::default(),
            memory: Memory::new(start.report, start.lease),
            started: Instant::now(),
            heartbeat: start.heartbeat,
            report_tx: start.report_tx,
            readiness: start.readiness,
            ready: start.ready,
            due: Due { observe: Some((Duration::ZERO, "start")), ..Due::default() },
            sweep: Sweep::default(),
            unpublished: true,
            filter: FilterReport::default(),
            hits: Hits::default(),
            engines: Vec::new(),
            unanswered: BTreeSet::new(),
            grace: vital::GRACE,
        }
    }

    /// Runs until told to stop, or until nobody can wake it any more. Leaves the kernel as it is.
    pub fn run(mut self, wake_rx: &mpsc::Receiver<Wake<K::Notice>>) {
        self.pass(true);
        loop {
            let first = match wake_rx.recv_timeout(self.until_due()) {
                Ok(wake) => Some(wake),
                Err(mpsc::RecvTimeoutError::Timeout) => None,
                Err(mpsc::RecvTimeoutError::Disconnected) => return,
            };
            let woken = first.is_some();
            for wake in first.into_iter().chain(wake_rx.try_iter().take(BATCH)) {
                if matches!(wake, Wake::Stop) {
                    return;
                }
                self.take(wake);
            }
            if self.look_after_fast_path() || woken || self.next_pass() <= self.now() {
                self.pass(woken);
            }
        }
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn rest_soon(&mut self) {
        self.due.rest = Some(self.now() + REST);
    }

    fn until_due(&self) -> Duration {
        let times = [Some(self.next_pass()), self.due.attachments, self.due.doubts];
        times.into_iter().flatten().min().unwrap_or_default().saturating_sub(self.now())
    }

    fn next_pass(&self) -> Duration {
        let times = [
            Some(self.sweep.due()),
            self.due.observe.map(|(at, _)| at),
            self.due.surroundings,
            self.due.pods,
            self.due.publish,
            self.due.grace,
            self.due.rest,
            self.retries.next(),
        ];
        times.into_iter().flatten().min().unwrap_or_default()
    }

    fn take(&mut self, wake: Wake<K::Notice>) {
        match wake {
            Wake::Source(event) => self.event(event),
            Wake::Kernel(inbox) => inbox.take().into_iter().for_each(|notice| self.notice(notice)),
            Wake::Filter(inbox) => {
                inbox.take();
                // What a new rule forbids shall not go on past it.
                self.kernel.doubt_flows();
                self.observe_after(FILTER_SETTLES, "the packet filter was touched");
            }
            Wake::OthersRules(inbox) => {
                inbox.take();
                self.kernel.doubt_flows();
            }
            Wake::Deaf(ear, problem) => {
                self.memory.deaf(ear, problem);
                // What happened meanwhile was not heard.
                self.observe_after(Duration::ZERO, "the kernel's notices broke off");
            }
            Wake::Question(Question::Peers(answer_tx)) => {
                // Whoever asked may have gone: then nobody misses the answer.
                drop(answer_tx.send(reporting::peers(&self.world, &self.retries)));
            }
            Wake::Stop => {}
        }
    }

    fn notice(&mut self, notice: K::Notice) {
        self.memory.counters().notices += 1;
        match self.kernel.interpret(notice) {
            Interpretation::Irrelevant => {}
            Interpretation::Changed(key, object) => {
                if self.world.noticed(key, object) {
                    self.memory.disturbed(key);
                }
            }
            Interpretation::Resync(why) => self.observe_after(Duration::ZERO, why),
            Interpretation::Uplink => self.observe_after(Duration::ZERO, "the uplink changed"),
            Interpretation::Pods => self.look_at_pods_soon(),
            Interpretation::Topology => {
                self.kernel.doubt_flows();
                let due = self.now() + SURROUNDINGS;
                self.due.surroundings.get_or_insert(due);
                self.look_at_pods_soon();
            }
        }
    }

    /// Looks around where it is due, compares, applies, reports.
    fn pass(&mut self, woken: bool) {
        self.heartbeat.beat(Instant::now());
        let begun = self.now();
        let part = self.sweep.part(begun);
        if part == Some(0) {
            (self.due.surroundings, self.due.pods) = (Some(Duration::ZERO), Some(Duration::ZERO));
        }
        self.kernel.begin_pass();
        if self.due.surroundings.is_some_and(|at| at <= begun) {
            self.due.surroundings = None;
            // The uplink's address, or the route that names it, may have moved to another interface.
            self.choose_uplink();
            self.look_around();
        }
        self.learn_on_link();
        if self.due.pods.is_some_and(|at| at <= begun) {
            self.look_at_pods();
        }
        if let Some((_, why)) = self.due.observe.take_if(|(at, _)| *at <= begun) {
            self.observe(why);
        } else if let Some(part) = part {
            self.sweep(part);
        }
        let (world, retries) = (&mut self.world, &self.retries);
        let ops = world.ops(|key| retries.holds(key, begun));
        if let Some(example) = self.memory.take_disturbance(&ops) {
            tracing::warn!(changes = ops.len(), example, "mending what somebody else changed");
        }
        if !ops.is_empty() {
            self.apply(&ops, begun);
        }
        let large = ops.len() >= LARGE;
        drop(ops);
        self.unpublished |= self.world.set_zero_checksum(self.kernel.takes_zero_checksum());
        self.publish();
        // The small parts of a sweep, between which nothing happens, tell nothing new.
        if woken || part.is_none_or(|part| part == 0) {
            self.look_at_filter();
        }
        self.report();
        if large {
            self.world.compact();
            self.rest_soon();
        }
        if self.due.rest.take_if(|at| *at <= begun).is_some() {
            self.host.rest();
        }
    }

    fn apply(&mut self, ops: &[Op], begun: Duration) {
        let outcomes = self.kernel.apply(ops);
        let now = self.now();
        let (mut failed, mut first_error) = (0_usize, None);
        for (op, outcome) in ops.iter().zip(outcomes) {
            match outcome {
                Ok(()) => {
                    tracing::debug!(change = explain(op), "done");
                    self.world.applied(op);
                    self.retries.forget(&op.key);
                }
                // Its device went away, and the notice of that is still to be read.
                Err(error) if is_surprise(op, &error) && self.retries.surprised(op.key) => {
                    failed += 1;
                    tracing::debug!(%error, "looking again at once");
                    self.world.doubt(op.key);
                    self.observe_after(Duration::ZERO, "a device went away or down");
                }
                Err(error) => {
                    failed += 1;
                    self.memory.failed(&op.key);
                    if self.retries.get(&op.key).is_none_or(|known| known.error.answer != error.answer) {
                        first_error.get_or_insert_with(|| error.to_string());
                    }
                    self.world.doubt(op.key);
                    self.retries.failed(op.key, error, now, rand::rng().random());
                }
            }
        }
        self.memory.applied(ops.len() - failed, now.saturating_sub(begun));
        tracing::debug!(changes = ops.len(), failed, took = ?now.saturating_sub(begun), "pass");
        if let Some(error) = first_error {
            self.memory.changes_failed(&error, failed);
        }
        // A device that came or was remade may differ from what was asked (udev, limits), and
        // what is believed of a failed object may be wrong: both deserve another look.
        if ops.iter().any(|op| matches!(op.key, Key::Device(_))) {
            self.observe_after(Duration::ZERO, "a device was changed");
        } else if failed > 0 {
            let next = self.retries.next().unwrap_or(now).saturating_sub(now);
            self.observe_after(next, "changes failed");
        }
    }

    /// Its counters, and those of the fast path, cost a question each, so they are not asked for at every pass of a storm.
    fn look_at_filter(&mut self) {
        let now = self.now();
        if self.due.filter <= now {
            self.due.filter = now + FILTER_REPORT;
            self.filter = self.kernel.filter_report(self.world.wanted());
            self.filter.read_unix = Some(reporting::unix_now());
            self.hits.read(now, self.kernel.fast_path_counts());
            self.engines = own_report::engines(&self.kernel.engine_statistics());
        }
    }

    fn report(&mut self) {
        let mut report = self.memory.report(&self.world, &self.retries, self.now(), self.filter.clone());
        report.fast_path = self.hits.report(&self.world);
        report.userspace.clone_from(&self.engines);
        self.report_tx.send_if_modified(|current| {
            let changed = **current != report;
            if changed {
                *current = Arc::new(report);
            }
            changed
        });
    }
}

/// The answer that something on a device gets when the device has just gone, or gone down.
fn is_surprise(op: &Op, error: &KernelError) -> bool {
    let gone = [Errno::ENODEV, Errno::ENETDOWN].contains(&Errno::from_raw(error.errno));
    gone && !matches!(op.key, Key::Device(_) | Key::Filter | Key::Guard(..))
}
