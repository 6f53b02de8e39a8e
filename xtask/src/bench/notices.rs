//! The kernel's own word on when something was done: notices, with the time at which they came.

use std::{
    collections::BTreeSet,
    io,
    net::Ipv4Addr,
    os::fd::{AsRawFd as _, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, Receiver, Sender},
    },
    thread,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, Result, bail};
use nix::{
    errno::Errno,
    sys::{
        socket::{
            AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, setsockopt, socket,
            sockopt,
        },
        time::TimeVal,
    },
};
use xtask::lab::Netns;

/// `RTMGRP_IPV4_ROUTE`, `RTMGRP_NEIGH`
pub(super) const ROUTES: u32 = 0x40;
pub(super) const NEIGHBOURS: u32 = 4;
/// `rtm_protocol` of the daemon's routes.
const OURS: u8 = 102;
const MAIN: u8 = 254;
const RECEIVE_BUFFER: usize = 256 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum What {
    Route(Ipv4Addr),
    RouteGone(Ipv4Addr),
    Neighbour([u8; 6]),
    Fdb([u8; 6]),
    FdbGone([u8; 6]),
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    pub(super) at: Instant,
    pub(super) wall: SystemTime,
    pub(super) what: What,
}

/// Notices of one namespace from the moment of [`Notices::start`].
pub(super) struct Notices {
    seen_rx: Receiver<Seen>,
    stop: Arc<AtomicBool>,
}

impl Notices {
    pub(super) fn start(netns: &Netns, groups: u32) -> Result<Self> {
        let socket = netns.enter(|| subscribe(groups))?.context("subscribe to the kernel's notices")?;
        let (seen_tx, seen_rx) = mpsc::channel();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        thread::spawn(move || {
            if let Err(errno) = listen(&socket, &seen_tx, &stopped) {
                eprintln!("bench: no more notices: {errno}");
            }
        });
        Ok(Self { seen_rx, stop })
    }

    /// Waits until all of these have been seen; the one that came last.
    pub(super) fn all(&self, mut wanted: BTreeSet<What>, limit: Duration) -> Result<Seen> {
        let start = Instant::now();
        loop {
            let left = limit.saturating_sub(start.elapsed());
            let Ok(seen) = self.seen_rx.recv_timeout(left) else {
                let example = wanted.first();
                bail!("waited {limit:?} in vain for {} notices, among them {example:?}", wanted.len());
            };
            if wanted.remove(&seen.what) && wanted.is_empty() {
                return Ok(seen);
            }
        }
    }

    /// How many came that nobody has taken yet.
    pub(super) fn count(&self) -> usize {
        self.seen_rx.try_iter().count()
    }
}

impl Drop for Notices {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn subscribe(groups: u32) -> io::Result<OwnedFd> {
    let fd = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)?;
    setsockopt(&fd, sockopt::RcvBufForce, &RECEIVE_BUFFER)?;
    setsockopt(&fd, sockopt::ReceiveTimeout, &TimeVal::new(0, 100_000))?;
    bind(fd.as_raw_fd(), &NetlinkAddr::new(0, groups))?;
    Ok(fd)
}

fn listen(socket: &OwnedFd, seen_tx: &Sender<Seen>, stop: &AtomicBool) -> Result<(), Errno> {
    let mut buffer = vec![0; 64 << 10];
    while !stop.load(Ordering::Relaxed) {
        let length = match recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
            Ok(length) => length,
            Err(Errno::EAGAIN | Errno::EINTR) => continue,
            Err(errno) => return Err(errno),
        };
        let (at, wall) = (Instant::now(), SystemTime::now());
        let mut rest = &buffer[..length];
        while let Some((message, behind)) = message(rest) {
            rest = behind;
            if let Some(what) = read(message)
                && seen_tx.send(Seen { at, wall, what }).is_err()
            {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// The first message with its header, and what follows.
fn message(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let length = usize::try_from(u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?)).ok()?;
    let message = bytes.get(..length).filter(|message| message.len() >= 16)?;
    Some((message, bytes.get(length.next_multiple_of(4)..).unwrap_or_default()))
}

fn read(message: &[u8]) -> Option<What> {
    let kind = u16::from_ne_bytes([message[4], message[5]]);
    let body = message.get(16..28)?;
    let attributes = message.get(28..)?;
    match kind {
        // RTM_NEWROUTE, RTM_DELROUTE; RTA_DST
        24 | 25 if body[4] == MAIN && body[5] == OURS => {
            let base = Ipv4Addr::from(<[u8; 4]>::try_from(attribute(attributes, 1)?).ok()?);
            Some(if kind == 24 { What::Route(base) } else { What::RouteGone(base) })
        }
        // RTM_NEWNEIGH, RTM_DELNEIGH; NDA_LLADDR
        28 | 29 => {
            let mac = attribute(attributes, 2)?.try_into().ok()?;
            match (kind, i32::from(body[0])) {
                (28, nix::libc::AF_INET) => Some(What::Neighbour(mac)),
                (28, nix::libc::AF_BRIDGE) => Some(What::Fdb(mac)),
                (29, nix::libc::AF_BRIDGE) => Some(What::FdbGone(mac)),
                _ => None,
            }
        }
        _ => None,
    }
}

fn attribute(mut bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let length = usize::from(u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?));
        let value = bytes.get(4..length)?;
        if u16::from_ne_bytes(bytes.get(2..4)?.try_into().ok()?) & 0x3fff == wanted {
            return Some(value);
        }
        bytes = bytes.get(length.next_multiple_of(4)..)?;
    }
}
