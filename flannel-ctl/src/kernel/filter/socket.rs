//! A blocking nfnetlink socket: questions, dumps, and batches that succeed or fail as one.

use std::time::Duration;

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR};
use netlink_sys::{Socket as RawSocket, SocketAddr, protocols::NETLINK_NETFILTER};
use nix::{
    errno::Errno,
    sys::{
        socket::{setsockopt, sockopt},
        time::TimeVal,
    },
};

use crate::kernel::netlink::{
    socket::{Refusal, grow_receive_buffer},
    wire::{Request, messages, u32_at},
};

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// `NFNL_SUBSYS_NFTABLES`, and the messages around a transaction (`NFNL_MSG_BATCH_*`).
const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
/// A whole batch is one datagram: 10,000 IPv6 peers take 460 KB.
const SEND_BUFFER: usize = 8 << 20;
const RECEIVE_BUFFER: usize = 4 << 20;
const PATIENCE: Duration = Duration::from_secs(10);
/// A dump that is disturbed this often is given up.
const DUMP_TRIES: u32 = 20;

pub(super) struct Socket {
    raw: RawSocket,
    port: u32,
    sequence: u32,
    buffer: Vec<u8>,
}

/// A request about nftables objects of that protocol family (`NFPROTO_*`).
pub(super) fn request(message: u16, flags: u16, family: u8) -> Request {
    Request::new(SUBSYSTEM << 8 | message, flags, &[family, 0, 0, 0])
}

/// The nftables message that a netlink message type stands for; `None`: not nftables.
pub(super) fn message_of(kind: u16) -> Option<u16> {
    (kind >> 8 == SUBSYSTEM).then_some(kind & 0xff)
}

/// Length of `struct nfgenmsg`.
pub(super) const BODY: usize = 4;

impl Socket {
    pub(super) fn open() -> Result<Self, Refusal> {
        let mut raw = RawSocket::new(NETLINK_NETFILTER)?;
        let port = raw.bind_auto()?.port_number();
        raw.connect(&SocketAddr::new(0, 0))?;
        raw.set_ext_ack(true)?;
        raw.set_cap_ack(true)?;
        setsockopt(&raw, sockopt::SndBufForce, &SEND_BUFFER)
            .or_else(|_unprivileged| setsockopt(&raw, sockopt::SndBuf, &SEND_BUFFER))?;
        grow_receive_buffer(&raw, RECEIVE_BUFFER)?;
        setsockopt(&raw, sockopt::ReceiveTimeout, &TimeVal::new(PATIENCE.as_secs().cast_signed(), 0))?;
        Ok(Self { raw, port, sequence: 0, buffer: Vec::with_capacity(64 << 10) })
    }

    /// Our address: notices of what this socket did carry it.
    pub(super) fn port(&self) -> u32 {
        self.port
    }

    /// One object, `None` if there is no such one.
    pub(super) fn get<T>(
        &mut self,
        mut request: Request,
        read: impl FnOnce(&[u8]) -> Option<T>,
    ) -> Result<Option<T>, Refusal> {
        let sequence = self.send(&mut request)?;
        loop {
            self.receive()?;
            if let Some(message) = messages(&self.buffer).find(|message| message.sequence == sequence) {
                return match message.kind {
                    NLMSG_ERROR => absent_is_none(message.payload),
                    _ => Ok(read(message.payload)),
                };
            }
        }
    }

    /// All objects; none if what they hang on does not exist. Starts over when disturbed.
    pub(super) fn dump<T>(
        &mut self,
        mut request: Request,
        mut read: impl FnMut(&[u8], &mut Vec<T>),
    ) -> Result<Vec<T>, Refusal> {
        request.add_flags(NLM_F_DUMP);
        for _ in 0..DUMP_TRIES {
            let mut found = Vec::new();
            if self.dump_once(&mut request, |payload| read(payload, &mut found))? {
                return Ok(found);
            }
        }
        Err(Refusal::new(Errno::EINTR, "the rules changed whenever they were read"))
    }

    /// All of it or nothing.
    pub(super) fn transaction(&mut self, mut requests: Vec<Request>) -> Result<(), Refusal> {
        let Some(last) = requests.last_mut() else { return Ok(()) };
        // BATCH_END is acknowledged since 6.10 only; the last request before it always was.
        last.add_flags(NLM_F_ACK);
        // The subsystem is big-endian here (`nfgenmsg.res_id`).
        let [high, low] = SUBSYSTEM.to_be_bytes();
        requests.insert(0, Request::new(BATCH_BEGIN, 0, &[0, 0, high, low]));
        requests.push(Request::new(BATCH_END, 0, &[0, 0, high, low]));
        let first = self.next_sequence();
        let mut datagram = Vec::with_capacity(requests.iter().map(|request| request.bytes().len()).sum());
        let mut end = first;
        for (request, sequence) in requests.iter_mut().zip(first..) {
            request.set_sequence(sequence);
            datagram.extend_from_slice(request.bytes());
            end = sequence;
        }
        self.sequence = end;
        self.raw.send(&datagram, 0)?;
        let mut refusal = None;
        loop {
            self.receive()?;
            for message in messages(&self.buffer) {
                if message.kind != NLMSG_ERROR || !(first..=end).contains(&message.sequence) {
                    continue;
                }
                if let Err(error) = check(message.payload) {
                    refusal.get_or_insert(error);
                    // A refusal of the batch as such (no privilege, no memory at commit) names its
                    // first message and is the only answer.
                    if message.sequence == first {
                        return refusal.map_or(Ok(()), Err);
                    }
                }
                if message.sequence + 1 == end {
                    return refusal.map_or(Ok(()), Err);
                }
            }
        }
    }

    /// `false`: disturbed.
    fn dump_once(&mut self, request: &mut Request, mut each: impl FnMut(&[u8])) -> Result<bool, Refusal> {
        let sequence = self.send(request)?;
        let mut undisturbed = true;
        loop {
            self.receive()?;
            for message in messages(&self.buffer).filter(|message| message.sequence == sequence) {
                undisturbed &= message.flags & NLM_F_DUMP_INTR == 0;
                match message.kind {
                    NLMSG_ERROR | NLMSG_DONE => {
                        return match absent_is_none::<()>(message.payload) {
                            // nf_tables ends a dump that lost its place with this.
                            Err(refusal) if refusal.errno == Errno::EINTR => Ok(false),
                            answer => answer.map(|_| undisturbed),
                        };
                    }
                    _ => each(message.payload),
                }
            }
        }
    }

    fn send(&mut self, request: &mut Request) -> Result<u32, Refusal> {
        let sequence = self.next_sequence();
        request.set_sequence(sequence);
        self.raw.send(request.bytes(), 0)?;
        Ok(sequence)
    }

    /// The next datagram, into the buffer.
    fn receive(&mut self) -> Result<(), Refusal> {
        loop {
            self.buffer.clear();
            match self.raw.recv(&mut self.buffer, 0) {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Wraps far from the end, so that a batch never does.
    fn next_sequence(&mut self) -> u32 {
        self.sequence = if self.sequence > u32::MAX / 2 { 1 } else { self.sequence + 1 };
        self.sequence
    }
}

fn absent_is_none<T>(payload: &[u8]) -> Result<Option<T>, Refusal> {
    match check(payload) {
        Err(refusal) if refusal.errno != Errno::ENOENT => Err(refusal),
        _ => Ok(None),
    }
}

/// Error messages and ends of dumps begin with a negative error number or zero.
fn check(payload: &[u8]) -> Result<(), Refusal> {
    match u32_at(payload, 0).unwrap_or(0).cast_signed() {
        0 => Ok(()),
        code => Err(Errno::from_raw(code.wrapping_neg()).into()),
    }
}
