//! A blocking nfnetlink socket: questions, dumps, and batches that succeed or fail as one.

use netlink_packet_core::NLM_F_ACK;
use netlink_sys::protocols::NETLINK_NETFILTER;
use nix::{
    errno::Errno,
    sys::socket::{setsockopt, sockopt},
};

use crate::kernel::netlink::{
    channel::Channel,
    refusal::Refusal,
    wire::{NLMSG_ERROR, Request, u32_at},
};

/// `NFNL_SUBSYS_NFTABLES`, and the messages around a transaction (`NFNL_MSG_BATCH_*`).
const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
/// A whole batch is one datagram: 10,000 IPv6 peers take 460 KB.
const SEND_BUFFER: usize = 8 << 20;
const RECEIVE_BUFFER: usize = 4 << 20;

pub(super) struct Socket(Channel);

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
        let mut channel = Channel::open(NETLINK_NETFILTER, RECEIVE_BUFFER)?;
        let raw = channel.raw();
        setsockopt(raw, sockopt::SndBufForce, &SEND_BUFFER)
            .or_else(|_unprivileged| setsockopt(raw, sockopt::SndBuf, &SEND_BUFFER))?;
        Ok(Self(channel))
    }

    /// Our address: notices of what this socket did carry it.
    pub(super) fn port(&self) -> u32 {
        self.0.port()
    }

    /// One object, `None` if there is no such one.
    pub(super) fn get<T>(
        &mut self,
        request: Request,
        read: impl FnOnce(&[u8]) -> Option<T>,
    ) -> Result<Option<T>, Refusal> {
        let (sequence, datagram) = self.0.number(&mut [request]);
        self.0.send(&datagram)?;
        loop {
            if let Some(message) = self.0.receive()?.find(|message| message.sequence == sequence) {
                return match message.kind {
                    NLMSG_ERROR => absent_is_none(message.payload),
                    _ => Ok(read(message.payload)),
                };
            }
        }
    }

    /// All objects; none if what they hang on does not exist.
    pub(super) fn dump<T>(
        &mut self,
        request: Request,
        read: impl FnMut(&[u8], &mut Vec<T>),
    ) -> Result<Vec<T>, Refusal> {
        self.0.dump(request, read, |message| absent_is_none::<()>(message.payload).map(drop))
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
        let (first, datagram) = self.0.number(&mut requests);
        let end = first + u32::try_from(requests.len() - 1).expect("far fewer than 2^32 requests");
        self.0.send(&datagram)?;
        let mut refusal = None;
        loop {
            for message in self.0.receive()? {
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
