//! What an engine's threads have in common.

use std::{
    fmt, io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use super::{EngineError, Offloads, Options, counters::Counts, socket::Sockets, tun::Tun, wait::Stop};

/// What the threads have in common.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) options: Options,
    pub(super) tun: Tun,
    pub(super) sockets: Sockets,
    /// What is in use, unless it proves not to work.
    pub(super) offloads: Offloads,
    /// A device on the way cannot do without help what `UDP_SEGMENT` needs.
    pub(super) no_udp_gso: AtomicBool,
    pub(super) stop: Arc<Stop>,
    /// One of each thread.
    pub(super) counts: Vec<Arc<Counts>>,
    pub(super) ended: Ended,
}

/// Whom to tell when a thread ends by itself; the first one does.
pub(super) struct Ended(Mutex<Option<Tell>>);

type Tell = Box<dyn FnOnce(EngineError) + Send>;

impl Shared {
    /// Whether one send may carry a train.
    pub(super) fn cuts(&self) -> bool {
        self.offloads.udp_gso && !self.no_udp_gso.load(Ordering::Relaxed)
    }

    /// A thread ends with this.
    pub(super) fn end(&self, error: EngineError) {
        if !self.stop.is_rung()
            && let Some(tell) = self.ended.take()
        {
            tell(error);
        }
        self.stop.ring();
    }

    /// What an error of the device means: most often that it is gone.
    pub(super) fn device_error(&self, step: &'static str, source: io::Error) -> EngineError {
        let device = self.options.device.clone();
        match source.raw_os_error() {
            Some(nix::libc::EBADFD) => EngineError::Deleted { device },
            _ => EngineError::Device { step, device, source },
        }
    }

    pub(super) fn socket_error(&self, step: &'static str, source: io::Error) -> EngineError {
        let address = SocketAddr::new(self.options.local, self.options.wire.port());
        EngineError::Socket { step, address, source }
    }
}

impl Ended {
    pub(super) fn tell(ended: impl FnOnce(EngineError) + Send + 'static) -> Self {
        Self(Mutex::new(Some(Box::new(ended))))
    }

    fn take(&self) -> Option<Tell> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl fmt::Debug for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Ended").finish_non_exhaustive()
    }
}
