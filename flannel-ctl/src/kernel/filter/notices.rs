//! Says when somebody else changed rules that concern us.

use std::{
    collections::VecDeque,
    io,
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use netlink_sys::{Socket as RawSocket, SocketAddr, protocols::NETLINK_NETFILTER};

use super::{
    object::{CHAIN_NAME, field, message, table_of},
    socket::{Socket, message_of},
};
use crate::{
    filter::nft::TABLE,
    kernel::{
        attend::{self, Hearing, attend},
        netlink::{
            channel::grow_receive_buffer,
            wire::{messages, text, u32_at},
        },
    },
};

/// Where `nlmsg_pid` is in `struct nlmsghdr`.
const SENDER: usize = 12;
/// `NFNLGRP_NFTABLES`.
const GROUP: u32 = 7;
const RECEIVE_BUFFER: usize = 2 << 20;
/// Process ids of tools that we ran are remembered for this many runs.
const REMEMBERED: usize = 64;

/// Netlink addresses that our own changes come from: our socket's, and the process ids of the
/// tools that we start, which theirs default to.
#[derive(Clone, Debug, Default)]
pub struct Own(Arc<Mutex<VecDeque<u32>>>);

impl Own {
    pub(super) fn new(socket: Option<&Socket>) -> Self {
        let own = Self::default();
        if let Some(socket) = socket {
            own.lock().push_back(socket.port());
        }
        own
    }

    pub(super) fn note(&self, process: u32) {
        let mut ports = self.lock();
        ports.push_back(process);
        if ports.len() > REMEMBERED {
            // The first is the socket's.
            ports.remove(1);
        }
    }

    fn contains(&self, port: u32) -> bool {
        self.lock().contains(&port)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<u32>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Listens for changes of nftables rules (iptables-nft's among them; legacy iptables has no
/// notices, a periodic look must do).
pub struct Listener;

impl Listener {
    /// Calls `each` from a thread of its own for every change by others, until it returns `false`. The calling thread's network namespace is listened to. A socket
    /// that fails is replaced by another.
    pub fn start(own: Own, each: impl FnMut(Touched) -> bool + Send + 'static) -> io::Result<thread::JoinHandle<()>> {
        let socket = subscribe()?;
        let open = || subscribe().map_err(|error| error.to_string());
        let listen = move |socket: &RawSocket, each: &mut _| listen(socket, &own, each);
        let work = move || attend(socket, each, open, listen, tell, attend::PAUSE);
        thread::Builder::new().name("filter-notices".into()).spawn(work)
    }
}

/// What a [`Listener`] says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Touched {
    /// Rules that concern us may have changed.
    Rules,
    /// Rules of somebody else have changed: what they said of a flow may no longer hold.
    Others,
    /// No changes are heard of, for this reason, until the next word.
    Deaf(String),
}

fn tell(each: &mut impl FnMut(Touched) -> bool, hearing: Hearing) -> bool {
    match hearing {
        Hearing::Deaf(why) => each(Touched::Deaf(why)),
        Hearing::Again => each(Touched::Rules),
    }
}

fn subscribe() -> io::Result<RawSocket> {
    let mut socket = RawSocket::new(NETLINK_NETFILTER)?;
    socket.bind(&SocketAddr::new(0, 0))?;
    socket.add_membership(GROUP)?;
    grow_receive_buffer(&socket, RECEIVE_BUFFER)?;
    Ok(socket)
}

/// Until nobody cares any more, or something that the kernel does not document happens.
fn listen(socket: &RawSocket, own: &Own, each: &mut impl FnMut(Touched) -> bool) -> Option<io::Error> {
    let mut buffer = Vec::with_capacity(64 << 10);
    loop {
        buffer.clear();
        let touched = match socket.recv(&mut buffer, 0) {
            Ok(_) => touched(&buffer, own),
            // Notices were lost: anything may have changed.
            Err(error) if error.raw_os_error() == Some(nix::libc::ENOBUFS) => Some(Touched::Rules),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => None,
            Err(error) => return Some(error),
        };
        if touched.is_some_and(|touched| !each(touched)) {
            return None;
        }
    }
}

fn touched(datagram: &[u8], own: &Own) -> Option<Touched> {
    // A datagram has one sender: that of its first message (`nlmsg_pid`).
    if u32_at(datagram, SENDER).is_some_and(|port| own.contains(port)) {
        return None;
    }
    let mut others = None;
    for notice in messages(datagram) {
        match message_of(notice.kind) {
            Some(kind) if matters(kind, notice.payload) => return Some(Touched::Rules),
            // Every transaction ends with one.
            Some(message::NEWGEN) | None => {}
            Some(_) => others = Some(Touched::Others),
        }
    }
    others
}

/// Ours or flannel's, or a table or chain where iptables keeps ours.
fn matters(kind: u16, payload: &[u8]) -> bool {
    let table = table_of(payload);
    if table == TABLE || table.starts_with("flannel-") {
        return true;
    }
    if !matches!(table.as_str(), "nat" | "filter") {
        return false;
    }
    match kind {
        message::NEWTABLE | message::DELTABLE => true,
        message::NEWCHAIN | message::DELCHAIN => {
            matters_in_iptables(&text(field(payload, CHAIN_NAME).unwrap_or_default()))
        }
        // NFTA_RULE_CHAIN.
        message::NEWRULE | message::DELRULE => matters_in_iptables(&text(field(payload, 2).unwrap_or_default())),
        _ => false,
    }
}

fn matters_in_iptables(chain: &str) -> bool {
    chain.starts_with("FLANNEL-") || matches!(chain, "FORWARD" | "POSTROUTING" | "DOCKER-USER")
}
