//! The userspace datapath as kernel objects: forwarding entries, and an engine for each TUN device.

use std::{
    collections::BTreeMap,
    fmt,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use super::KernelError;
use crate::{
    model::{EnginePolicy, Family, Kept, Key, Object, Op, State},
    plan::explain::explain as words,
    userspace::{self, Engine, EngineError, Inherited, Offloads, Options, Statistics, Table},
};

/// How soon after one change of what is kept the next is written.
const KEEP_INTERVAL: Duration = Duration::from_secs(5);

/// Engines and the table that they share. Dropping it leaves them running, in the hands of [`Parting`].
pub struct Userspace {
    table: Arc<Table>,
    engines: BTreeMap<Family, Running>,
    /// Called when an engine has ended by itself.
    ended: Arc<dyn Fn() + Send + Sync>,
    keep: Box<dyn FnMut(&Kept) + Send>,
    handover: Box<dyn Handover>,
    parting: Parting,
    unkept: bool,
    kept_at: Option<Instant>,
}

/// Keeps descriptors open beyond the end of this process, under names.
pub trait Handover: Send {
    /// What the last process has left under this name.
    fn take(&mut self, name: &str) -> Vec<OwnedFd>;
    /// What it has left and nobody took, by name.
    fn left(&mut self) -> Vec<(String, Vec<OwnedFd>)>;
    /// For the next process.
    fn keep(&mut self, name: &str, descriptors: &[BorrowedFd<'_>]);
    /// Nothing of this name is for the next process.
    fn forget(&mut self, name: &str);
}

/// Engines that carry packets until the process ends, whoever started them being gone already.
#[derive(Clone, Debug, Default)]
pub struct Parting(Arc<Mutex<Vec<Engine>>>);

impl Parting {
    /// Nothing else is left to do: ends them, once each has sent what it holds.
    pub fn end(&self) {
        let engines = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        engines.into_iter().for_each(Engine::stop);
    }
}

struct Running {
    engine: Engine,
    policy: EnginePolicy,
    /// Index of its device.
    index: u32,
    ended: Arc<AtomicBool>,
}

impl Userspace {
    /// `ended` is called, on any thread, when an engine has ended by itself; `keep` writes down what the next daemon
    /// shall find.
    pub fn new(
        ended: impl Fn() + Send + Sync + 'static,
        keep: impl FnMut(&Kept) + Send + 'static,
        handover: impl Handover + 'static,
        parting: Parting,
    ) -> Self {
        Self {
            table: Arc::default(),
            engines: BTreeMap::new(),
            ended: Arc::new(ended),
            keep: Box::new(keep),
            handover: Box::new(handover),
            parting,
            unkept: false,
            kept_at: None,
        }
    }

    /// Goes on where an earlier daemon ended. `index` tells the index of a device. What does not start now is started
    /// with everything else.
    pub fn resume(&mut self, kept: &Kept, index: impl Fn(&str) -> Option<u32>) {
        self.table.apply(kept.forwards.iter().map(|(net, forward)| (*net, Some(*forward))));
        for (family, policy) in &kept.engines {
            let Some(index) = index(&policy.device) else { continue };
            match self.start(*family, policy, index) {
                Ok(()) => tracing::info!(device = policy.device, "carrying packets for the peers of the last run"),
                Err(error) => tracing::warn!(%error, device = policy.device, "cannot carry packets yet"),
            }
        }
    }

    /// Whatever the last process has left that no engine goes on with.
    pub fn let_go(&mut self) {
        for (name, descriptors) in self.handover.left() {
            descriptors.iter().for_each(|descriptor| userspace::retire(descriptor.as_fd()));
            self.handover.forget(&name);
        }
    }

    pub(super) fn apply(&mut self, ops: &[Op], index: impl Fn(Family) -> u32) -> Vec<Result<(), KernelError>> {
        self.unkept |= !ops.is_empty();
        self.table.apply(ops.iter().filter_map(|op| match (op.key, &op.to) {
            (Key::Forward(net), Some(Object::Forward(forward))) => Some((net, Some(*forward))),
            (Key::Forward(net), None) => Some((net, None)),
            _ => None,
        }));
        let outcome = |op: &Op| match (op.key, &op.to) {
            (Key::Engine(family), Some(Object::Engine(policy))) => {
                self.start(family, policy, index(family)).map_err(|error| refused(op, &error))
            }
            (Key::Engine(family), None) => {
                self.stop(family);
                Ok(())
            }
            _ => Ok(()),
        };
        ops.iter().map(outcome).collect()
    }

    pub(super) fn observe(&self, index: impl Fn(Family) -> u32, state: &mut State) {
        let entries = self.table.entries().into_iter();
        state.extend(entries.map(|(net, forward)| (Key::Forward(net), Object::Forward(forward))));
        self.observe_engines(index, state);
    }

    /// An engine whose device is another one than that of its name reads from nowhere.
    pub(super) fn observe_engines(&self, index: impl Fn(Family) -> u32, state: &mut State) {
        let sound = |(family, running): &(&Family, &Running)| {
            running.index == index(**family) && !running.ended.load(Ordering::Acquire)
        };
        let engines = self.engines.iter().filter(sound);
        state.extend(
            engines.map(|(family, running)| (Key::Engine(*family), Object::Engine(Box::new(running.policy.clone())))),
        );
    }

    /// What the engines count.
    pub fn statistics(&self) -> BTreeMap<Family, Statistics> {
        self.engines.iter().map(|(family, running)| (*family, running.engine.statistics())).collect()
    }

    /// Writes down what the next daemon shall find, if it changed and was not written just now.
    pub(super) fn keep_soon(&mut self) {
        if self.unkept && self.kept_at.is_none_or(|at| at.elapsed() >= KEEP_INTERVAL) {
            self.keep_now();
        }
    }

    fn keep_now(&mut self) {
        self.unkept = false;
        self.kept_at = Some(Instant::now());
        let kept = Kept {
            engines: self.engines.iter().map(|(family, running)| (*family, running.policy.clone())).collect(),
            forwards: self.table.entries(),
        };
        (self.keep)(&kept);
    }

    fn start(&mut self, family: Family, policy: &EnginePolicy, index: u32) -> Result<(), EngineError> {
        // Two cannot have one port.
        self.stop(family);
        let ended = Arc::new(AtomicBool::new(false));
        let (flag, told) = (Arc::clone(&ended), Arc::clone(&self.ended));
        let device = policy.device.clone();
        let [queues, sockets] = names(family);
        let inherited = Inherited { queues: self.handover.take(&queues), sockets: self.handover.take(&sockets) };
        let started = Engine::start_with(&options(policy), &self.table, inherited, move |error| {
            tracing::warn!(%error, device, "the userspace engine ended");
            flag.store(true, Ordering::Release);
            told();
        });
        if !started.as_ref().is_ok_and(Engine::has_adopted) {
            [&queues, &sockets].into_iter().for_each(|name| self.handover.forget(name));
        }
        let engine = started?;
        if !engine.has_adopted() {
            self.handover.keep(&queues, &engine.queues());
            self.handover.keep(&sockets, &engine.sockets());
        }
        self.engines.insert(family, Running { engine, policy: policy.clone(), index, ended });
        Ok(())
    }

    fn stop(&mut self, family: Family) {
        if let Some(running) = self.engines.remove(&family) {
            running.engine.retire();
            names(family).iter().for_each(|name| self.handover.forget(name));
        }
    }

    /// Ends all engines; another datapath takes over.
    pub fn stop_all(mut self) {
        for family in Family::ALL {
            self.stop(family);
        }
        self.unkept = false;
    }
}

impl Drop for Userspace {
    fn drop(&mut self) {
        if self.unkept {
            self.keep_now();
        }
        let engines = std::mem::take(&mut self.engines).into_values().map(|running| running.engine);
        self.parting.0.lock().unwrap_or_else(PoisonError::into_inner).extend(engines);
    }
}

impl fmt::Debug for Userspace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Userspace").field("engines", &self.engines.keys()).finish_non_exhaustive()
    }
}

/// Of queues and sockets, in the store of descriptors.
fn names(family: Family) -> [String; 2] {
    ["queue", "socket"].map(|what| format!("{what}-{family}"))
}

fn options(policy: &EnginePolicy) -> Options {
    Options {
        wire: policy.wire,
        device: policy.device.clone(),
        mtu: policy.mtu,
        local: policy.local,
        queues: None,
        offloads: Offloads::ALL,
        receive_buffer: Options::RECEIVE_BUFFER,
    }
}

fn refused(op: &Op, error: &EngineError) -> KernelError {
    KernelError { attempt: words(op), answer: error.to_string(), hint: None, errno: error.errno() }
}
