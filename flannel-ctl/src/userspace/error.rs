//! What goes wrong, and what usually explains it.

use std::{io, net::SocketAddr};

use nix::errno::Errno;

/// Why an engine could not be started, or has ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    #[error("open /dev/net/tun: {source}{}", hint(.source))]
    Tun { source: io::Error },
    #[error("{step} of TUN device {device}: {source}{}", hint(.source))]
    Device { step: &'static str, device: String, source: io::Error },
    #[error("{step} of the UDP socket at {address}: {source}{}", hint(.source))]
    Socket { step: &'static str, address: SocketAddr, source: io::Error },
    #[error("start a thread of the userspace datapath: {source}")]
    Thread { source: io::Error },
    #[error("a thread of the userspace datapath panicked; this is a bug")]
    Panicked,
    /// The device was deleted while the engine used it. Start another.
    #[error("TUN device {device} was deleted")]
    Deleted { device: String },
}

impl EngineError {
    /// Whether the same start may succeed without anything being changed by hand.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Deleted { .. } | Self::Panicked | Self::Thread { .. } => true,
            Self::Tun { source } | Self::Device { source, .. } | Self::Socket { source, .. } => !matches!(
                source.raw_os_error().map(Errno::from_raw),
                Some(Errno::EPERM | Errno::EACCES | Errno::ENOENT)
            ),
        }
    }
}

impl EngineError {
    /// Of the system call that failed; 0 if it was none.
    pub fn errno(&self) -> i32 {
        match self {
            Self::Tun { source }
            | Self::Device { source, .. }
            | Self::Socket { source, .. }
            | Self::Thread { source } => source.raw_os_error().unwrap_or(0),
            Self::Panicked | Self::Deleted { .. } => 0,
        }
    }
}

fn hint(error: &io::Error) -> &'static str {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ENOENT | Errno::ENXIO) => " (is the module tun loaded, and /dev/net/tun in this container?)",
        Some(Errno::EPERM | Errno::EACCES) => " (needs CAP_NET_ADMIN, and access to /dev/net/tun)",
        Some(Errno::EBUSY) => " (another process holds it)",
        Some(Errno::EINVAL) => " (a device of another kind has this name, or the kernel lacks this)",
        Some(Errno::EADDRINUSE) => " (another overlay, or a VXLAN device, has this port)",
        Some(Errno::EADDRNOTAVAIL) => " (the address is not on this host)",
        _ => "",
    }
}
