//! The userspace datapath as kernel objects: forwarding entries, and an engine for each TUN device.

use std::{
    collections::BTreeMap,
    fmt,
    mem::ManuallyDrop,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use super::KernelError;
use crate::{
    model::{EnginePolicy, EngineWire, Family, Kept, Key, Object, Op, State},
    plan::explain::explain as words,
    userspace::{Engine, EngineError, Offloads, Options, Statistics, Table, Wire},
};

/// How soon after one change of what is kept the next is written.
const KEEP_INTERVAL: Duration = Duration::from_secs(5);

/// Engines and the table that they share. Dropping it leaves them running: they end with the process.
pub struct Userspace {
    table: Arc<Table>,
    engines: BTreeMap<Family, Running>,
    /// Called when an engine has ended by itself.
    ended: Arc<dyn Fn() + Send + Sync>,
    keep: Box<dyn FnMut(&Kept) + Send>,
    unkept: bool,
    kept_at: Option<Instant>,
}

struct Running {
    /// Its threads go on when this is dropped: until the process ends they are the datapath.
    engine: ManuallyDrop<Engine>,
    policy: EnginePolicy,
    /// Index of its device.
    index: u32,
    ended: Arc<AtomicBool>,
}

impl Userspace {
    /// `ended` is called, on any thread, when an engine has ended by itself; `keep` writes down what the next daemon
    /// shall find.
    pub fn new(ended: impl Fn() + Send + Sync + 'static, keep: impl FnMut(&Kept) + Send + 'static) -> Self {
        Self {
            table: Arc::default(),
            engines: BTreeMap::new(),
            ended: Arc::new(ended),
            keep: Box::new(keep),
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
        let engine = Engine::start(&options(policy), &self.table, move |error| {
            tracing::warn!(%error, device, "the userspace engine ended");
            flag.store(true, Ordering::Release);
            told();
        })?;
        self.engines
            .insert(family, Running { engine: ManuallyDrop::new(engine), policy: policy.clone(), index, ended });
        Ok(())
    }

    fn stop(&mut self, family: Family) {
        if let Some(running) = self.engines.remove(&family) {
            ManuallyDrop::into_inner(running.engine).stop();
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
    }
}

impl fmt::Debug for Userspace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Userspace").field("engines", &self.engines.keys()).finish_non_exhaustive()
    }
}

fn options(policy: &EnginePolicy) -> Options {
    Options {
        wire: match policy.wire {
            EngineWire::Vxlan { vni, mac } => Wire::Vxlan { vni, port: policy.port, mac },
            EngineWire::Raw => Wire::Raw { port: policy.port },
        },
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
