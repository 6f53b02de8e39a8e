//! The wire's side: one socket for each receiving thread, and a pool of sending ones.

use std::{
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
    os::fd::{AsFd as _, BorrowedFd},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use nix::{
    libc,
    sys::socket::{
        AddressFamily, SockFlag, SockProtocol, SockType, SockaddrStorage, bind, setsockopt, socket,
        sockopt::{Ipv6V6Only, RcvBuf, RcvBufForce, ReusePort, SndBufForce},
    },
};

use socket2::{SockFilter, SockRef};

use super::{EngineError, Offloads, sys};

/// A UDP socket sends from one port, and whoever spreads flows over paths, queues and cores looks at it. So many are enough to spread them.
pub(super) const SOURCE_PORTS: usize = 32;
/// What may wait for the device below; a sender waits when it is full.
const SEND_BUFFER: usize = 4 << 20;
/// `BPF_RET | BPF_K`: 0 octets of each datagram.
const TAKE_NOTHING: SockFilter = SockFilter::new(0x06, 0, 0, 0);
/// A thread that waits for room looks up so often.
const SEND_PATIENCE: Duration = Duration::from_millis(200);

/// All sockets of an engine.
#[derive(Debug)]
pub(super) struct Sockets {
    /// At the tunnel's port. Flows stay with their socket, by a hash of addresses and ports.
    pub(super) receive: Vec<UdpSocket>,
    /// What the filter of each has dropped.
    filtered: Vec<Mutex<Filtered>>,
    /// At ports of the kernel's choice.
    pub(super) send: Vec<UdpSocket>,
    pub(super) offloads: Offloads,
}

/// The kernel counts what a filter drops together with what a full buffer does.
#[derive(Debug, Default)]
struct Filtered {
    /// By filters that are gone.
    before: u64,
    /// What stood there when the one that is in came.
    since: Option<u32>,
}

/// What the kernel dropped, of all sockets together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Dropped {
    /// For want of room.
    pub(super) overflow: u64,
    pub(super) filtered: u64,
}

impl Sockets {
    pub(super) fn open(
        local: SocketAddr,
        threads: usize,
        buffer: usize,
        allowed: Offloads,
    ) -> Result<Self, EngineError> {
        let receive = (0..threads).map(|_| receiving(local)).collect::<Result<_, _>>()?;
        Self::with(local, receive, buffer, allowed)
    }

    /// Receiving sockets that are bound already.
    pub(super) fn with(
        local: SocketAddr,
        receive: Vec<UdpSocket>,
        buffer: usize,
        allowed: Offloads,
    ) -> Result<Self, EngineError> {
        let mut offloads = allowed;
        for socket in &receive {
            prepare(socket, local, buffer, &mut offloads)?;
        }
        let send: Vec<_> = (0..SOURCE_PORTS).map(|_| sending(local.ip())).collect::<Result<_, _>>()?;
        offloads.batches &= sys::has_batches(receive[0].as_fd());
        offloads.udp_gso &= send.iter().all(|socket| sys::has_udp_segment(socket.as_fd()));
        let filtered = receive.iter().map(|_| Mutex::default()).collect();
        Ok(Self { receive, filtered, send, offloads })
    }

    /// The one for a flow with this hash.
    pub(super) fn sender(&self, hash: u32) -> BorrowedFd<'_> {
        self.send[hash as usize % self.send.len()].as_fd()
    }

    /// Gives a receiving socket a filter, or takes it away.
    pub(super) fn filter(&self, queue: usize, program: Option<&[SockFilter]>) -> io::Result<()> {
        let socket = SockRef::from(&self.receive[queue]);
        let mut filtered = self.filtered[queue].lock().unwrap_or_else(PoisonError::into_inner);
        let dropped = sys::overflow(self.receive[queue].as_fd())?;
        if let Some(program) = program {
            socket.attach_filter(program)?;
            filtered.since = Some(dropped);
        } else {
            socket.detach_filter()?;
            filtered.before = filtered.by(dropped);
            filtered.since = None;
        }
        Ok(())
    }

    /// Datagrams that the kernel has dropped.
    pub(super) fn dropped(&self) -> Dropped {
        let mut dropped = Dropped::default();
        for (socket, filtered) in self.receive.iter().zip(&self.filtered) {
            let filtered = filtered.lock().unwrap_or_else(PoisonError::into_inner);
            if let Ok(all) = sys::overflow(socket.as_fd()) {
                let by_filter = filtered.by(all);
                dropped.filtered += by_filter;
                dropped.overflow += u64::from(all).saturating_sub(by_filter);
            }
        }
        dropped
    }
}

impl Filtered {
    /// So many, where the kernel has counted that.
    fn by(&self, now: u32) -> u64 {
        self.before + self.since.map_or(0, |since| now.wrapping_sub(since).into())
    }
}

fn receiving(local: SocketAddr) -> Result<UdpSocket, EngineError> {
    let failed = |step| move |source: io::Error| EngineError::Socket { step, address: local, source };
    let socket = open(local).map_err(failed("open"))?;
    // Also for the successor of this process, which takes the port before this one lets it go.
    setsockopt(&socket, ReusePort, &true).map_err(io::Error::from).map_err(failed("share the port"))?;
    bind_to(&socket, local).map_err(failed("bind"))?;
    Ok(socket)
}

fn prepare(socket: &UdpSocket, local: SocketAddr, buffer: usize, offloads: &mut Offloads) -> Result<(), EngineError> {
    let failed = |step| move |source: io::Error| EngineError::Socket { step, address: local, source };
    // Without CAP_NET_ADMIN in the first user namespace: as much as net.core.rmem_max allows.
    setsockopt(socket, RcvBufForce, &buffer)
        .or_else(|_| setsockopt(socket, RcvBuf, &buffer))
        .map_err(io::Error::from)
        .map_err(failed("set the receive buffer"))?;
    let (level, name) = match local {
        SocketAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_RECVTOS),
        SocketAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS),
    };
    sys::set_option(socket.as_fd(), level, name, 1).map_err(failed("ask for the type of service"))?;
    if local.is_ipv6() {
        // Our own fast path leaves the sum out where the peer's device takes that, as this node's device may have done before.
        sys::set_option(socket.as_fd(), libc::SOL_UDP, libc::UDP_NO_CHECK6_RX, 1)
            .map_err(failed("take datagrams without checksum"))?;
    }
    match SockRef::from(socket).detach_filter() {
        // Who had it open before may have left one.
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
        outcome => outcome.map_err(failed("remove the filter"))?,
    }
    if offloads.udp_gro {
        offloads.udp_gro = sys::set_udp_gro(socket.as_fd()).is_ok();
    }
    Ok(())
}

fn sending(local: IpAddr) -> Result<UdpSocket, EngineError> {
    let address = SocketAddr::new(local, 0);
    let failed = |step| move |source: io::Error| EngineError::Socket { step, address, source };
    let socket = open(address).map_err(failed("open"))?;
    // What is sent to a source port is for nobody.
    SockRef::from(&socket).attach_filter(&[TAKE_NOTHING]).map_err(failed("refuse datagrams"))?;
    // The default is a quarter of a megabyte, and less than what one train counts for on some devices; it may stay if it must.
    setsockopt(&socket, SndBufForce, &SEND_BUFFER).or_else(|errno| match errno {
        nix::errno::Errno::EPERM => Ok(()),
        other => Err(failed("set the send buffer")(other.into())),
    })?;
    // As the kernel's VXLAN device: routers on the way may fragment, and there is no flow label.
    let (level, name) = match address {
        SocketAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER),
        SocketAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER),
    };
    sys::set_option(socket.as_fd(), level, name, libc::IP_PMTUDISC_DONT).map_err(failed("allow fragments"))?;
    if address.is_ipv6() {
        sys::set_option(socket.as_fd(), libc::IPPROTO_IPV6, libc::IPV6_AUTOFLOWLABEL, 0)
            .map_err(failed("leave the flow label out"))?;
    }
    socket.set_write_timeout(Some(SEND_PATIENCE)).map_err(failed("set the send timeout"))?;
    bind_to(&socket, address).map_err(failed("bind"))?;
    Ok(socket)
}

fn open(address: SocketAddr) -> io::Result<UdpSocket> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::Inet,
        SocketAddr::V6(_) => AddressFamily::Inet6,
    };
    let socket = socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC, SockProtocol::Udp)?;
    if address.is_ipv6() {
        setsockopt(&socket, Ipv6V6Only, &true)?;
    }
    Ok(socket.into())
}

fn bind_to(socket: &UdpSocket, address: SocketAddr) -> io::Result<()> {
    use std::os::fd::AsRawFd as _;
    Ok(bind(socket.as_raw_fd(), &SockaddrStorage::from(address))?)
}
