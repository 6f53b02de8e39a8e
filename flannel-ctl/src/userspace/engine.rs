//! The engine: opens device and sockets, runs the threads.

use std::{
    fs::File,
    net::{SocketAddr, UdpSocket},
    os::fd::{AsFd as _, BorrowedFd},
    sync::{Arc, atomic::AtomicBool},
    thread::{Builder, JoinHandle},
};

use super::{
    Counter, EngineError, Inherited, Offloads, Options, Statistics, Table, carry,
    counters::Counts,
    decapsulate::Decapsulate,
    encapsulate::Encapsulate,
    inherited::retire,
    shared::{Ended, Shared},
    socket::Sockets,
    tun::Tun,
    wait::Stop,
};

/// More threads than this do not help: a core moves packets faster than most wires.
const MOST_QUEUES: usize = 4;

/// A running tunnel. Dropping it stops it; the device stays.
#[derive(Debug)]
pub struct Engine {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    adopted: bool,
}

impl Engine {
    /// Opens everything, and starts the threads in the calling thread's network namespace. `ended` is called once, on a
    /// thread of the engine's, if it ends by itself.
    pub fn start(
        options: &Options,
        table: &Arc<Table>,
        ended: impl FnOnce(EngineError) + Send + 'static,
    ) -> Result<Self, EngineError> {
        Self::start_with(options, table, Inherited::default(), ended)
    }

    /// The same, with what another process has handed on, if it fits.
    pub fn start_with(
        options: &Options,
        table: &Arc<Table>,
        inherited: Inherited,
        ended: impl FnOnce(EngineError) + Send + 'static,
    ) -> Result<Self, EngineError> {
        let Options { device, receive_buffer, offloads, .. } = options;
        let local = SocketAddr::new(options.local, options.wire.port());
        let adopted = inherited.adopt(device, local, MOST_QUEUES);
        let has_adopted = adopted.is_some();
        let (tun, sockets) = if let Some((queues, sockets)) = adopted {
            let tun = Tun::with(device, queues, *offloads)?;
            let sockets = Sockets::with(local, sockets, *receive_buffer, tun.offloads)?;
            (tun, sockets)
        } else {
            let queues = options.queues.unwrap_or_else(default_queues).clamp(1, MOST_QUEUES);
            let tun = Tun::open(device, queues, *offloads)?;
            let sockets = Sockets::open(local, tun.queues.len(), *receive_buffer, tun.offloads)?;
            (tun, sockets)
        };
        let threads = tun.queues.len();
        let stop = Stop::new().map_err(|source| EngineError::Thread { source })?;
        let shared = Arc::new(Shared {
            options: options.clone(),
            offloads: sockets.offloads,
            no_udp_gso: AtomicBool::new(false),
            tun,
            sockets,
            stop,
            counts: (0..2 * threads).map(|_| Arc::default()).collect(),
            ended: Ended::tell(ended),
        });
        let mut engine =
            Self { shared: Arc::clone(&shared), threads: Vec::with_capacity(threads), adopted: has_adopted };
        for queue in 0..threads {
            let counts = |way: usize| Arc::clone(&shared.counts[2 * queue + way]);
            let out = Encapsulate::new(Arc::clone(&shared), queue, counts(0), table.reader());
            let into = Decapsulate::new(Arc::clone(&shared), queue, counts(1), table.reader());
            let shared = Arc::clone(&shared);
            engine.spawn(format!("tunnel-{queue}"), move || carry::run(&shared, queue, out, into))?;
        }
        Ok(engine)
    }

    fn spawn(
        &mut self,
        name: String,
        work: impl FnOnce() -> Result<(), EngineError> + Send + 'static,
    ) -> Result<(), EngineError> {
        let guard = Guard(Arc::clone(&self.shared));
        let thread = Builder::new()
            .name(name)
            .spawn(move || {
                if let Err(error) = work() {
                    guard.0.end(error);
                }
            })
            .map_err(|source| EngineError::Thread { source })?;
        self.threads.push(thread);
        Ok(())
    }

    pub fn statistics(&self) -> Statistics {
        let shared = &self.shared;
        let kernel = Counts::default();
        let dropped = shared.sockets.dropped();
        kernel.add(Counter::ReceivedOverflow, dropped.overflow);
        kernel.add(Counter::ReceivedFiltered, dropped.filtered);
        let counts = shared.counts.iter().map(Arc::as_ref).chain([&kernel]);
        let offloads = Offloads { udp_gso: shared.cuts(), ..shared.offloads };
        Statistics::new(counts, offloads, shared.tun.queues.len())
    }

    /// Whether it goes on with what another process had opened.
    pub fn has_adopted(&self) -> bool {
        self.adopted
    }

    /// What packets of this node wait in; to hand on.
    pub fn queues(&self) -> Vec<BorrowedFd<'_>> {
        self.shared.tun.queues.iter().map(File::as_fd).collect()
    }

    /// What packets for this node wait in; to hand on.
    pub fn sockets(&self) -> Vec<BorrowedFd<'_>> {
        self.shared.sockets.receive.iter().map(UdpSocket::as_fd).collect()
    }

    /// As [`Engine::stop`], and nothing comes any more to what was handed on.
    pub fn retire(self) {
        let shared = Arc::clone(&self.shared);
        drop(self);
        let queues = shared.tun.queues.iter().map(File::as_fd);
        queues.chain(shared.sockets.receive.iter().map(UdpSocket::as_fd)).for_each(retire);
    }

    /// Ends the threads and waits for them: milliseconds. The device stays, and takes no packets any more.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.shared.stop.ring();
        for thread in self.threads.drain(..) {
            // One that panicked has said so.
            drop(thread.join());
        }
    }
}

/// Tells of a thread that panicked.
struct Guard(Arc<Shared>);

impl Drop for Guard {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.end(EngineError::Panicked);
        }
    }
}

fn default_queues() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| cores.get().div_ceil(2))
}
