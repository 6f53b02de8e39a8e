//! Descriptors of an engine that another process ran: what the kernel has queued in them is still there.

use std::{
    fs::File,
    io,
    net::{SocketAddr, UdpSocket},
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
};

use nix::{
    libc,
    sys::socket::{SockaddrStorage, connect, getsockname},
};

use super::sys;

/// What an engine has handed on; see [`super::Engine::queues`] and [`super::Engine::sockets`].
#[derive(Debug, Default)]
pub struct Inherited {
    pub queues: Vec<OwnedFd>,
    pub sockets: Vec<OwnedFd>,
}

/// Queues and sockets, of which each has its fellow.
pub(super) type Adopted = (Vec<File>, Vec<UdpSocket>);

impl Inherited {
    /// All of it, if it is what an engine for this device and address would open: otherwise nothing comes to any of it any
    /// more, whoever else has it open.
    pub(super) fn adopt(self, device: &str, local: SocketAddr, most: usize) -> Option<Adopted> {
        if self.queues.is_empty() && self.sockets.is_empty() {
            return None;
        }
        let queues: Vec<File> = self.queues.into_iter().map(File::from).collect();
        let sockets: Vec<UdpSocket> = self.sockets.into_iter().map(UdpSocket::from).collect();
        let count = queues.len();
        let whole = count == sockets.len() && (1..=most).contains(&count);
        let fits = |socket: &UdpSocket| {
            // One that is connected was retired.
            socket.local_addr().is_ok_and(|at| at == local) && socket.peer_addr().is_err()
        };
        if whole && queues.iter().all(|queue| is_queue(queue, device)) && sockets.iter().all(fits) {
            return Some((queues, sockets));
        }
        tracing::warn!(device, %local, "what an earlier run has left open is of no use");
        queues.iter().map(File::as_fd).chain(sockets.iter().map(UdpSocket::as_fd)).for_each(retire);
        None
    }
}

fn is_queue(queue: &File, device: &str) -> bool {
    const KIND: libc::c_int = libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    sys::tun_device(queue).is_ok_and(|(name, flags)| name == device && flags & KIND == KIND)
}

/// A queue or socket that others may still have open gets nothing any more: it would be lost there.
pub fn retire(descriptor: BorrowedFd<'_>) {
    let done = match getsockname::<SockaddrStorage>(descriptor.as_raw_fd()) {
        // Who is connected hears from its peer alone, and this one's peer is itself.
        Ok(own) => connect(descriptor.as_raw_fd(), &own).map_err(io::Error::from),
        Err(_) => sys::detach_queue(descriptor),
    };
    if let Err(error) = done {
        // A device that is gone gives nothing either.
        tracing::debug!(%error, "retiring a descriptor");
    }
}
