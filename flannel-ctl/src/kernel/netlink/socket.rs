//! A blocking rtnetlink socket that keeps many requests in flight.

use std::{fmt, time::Duration};

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR};
use netlink_sys::{Socket as RawSocket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::{
    errno::Errno,
    sys::{
        socket::{setsockopt, sockopt},
        time::TimeVal,
    },
};

use super::wire::{HEADER, Message, Request, attributes, messages, text};

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// `NLM_F_CAPPED` and `NLM_F_ACK_TLVS` of an error message.
const CAPPED: u16 = 0x100;
const ACK_TLVS: u16 = 0x200;
const NLMSGERR_ATTR_MSG: u16 = 1;
/// Requests per datagram: 40 KB or so, well inside the default send buffer.
const CHUNK: usize = 512;
/// Questions per datagram: each answer takes a page or two of receive buffer, which an
/// unprivileged process gets 208 KB of.
const QUESTIONS: usize = 32;
/// A dump that is disturbed this often is given up.
const DUMP_TRIES: u32 = 20;
const RECEIVE_BUFFER: usize = 8 << 20;
/// The kernel answers while it takes the request; this is for a kernel gone wrong.
const PATIENCE: Duration = Duration::from_secs(10);

/// The kernel's no.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) errno: Errno,
    /// The kernel's own words (extended acknowledgement), empty if it sent none.
    pub(crate) text: String,
}

pub(crate) struct Socket {
    raw: RawSocket,
    port: u32,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Socket {
    pub(crate) fn open() -> Result<Self, Refusal> {
        let mut raw = RawSocket::new(NETLINK_ROUTE)?;
        let port = raw.bind_auto()?.port_number();
        raw.connect(&SocketAddr::new(0, 0))?;
        raw.set_ext_ack(true)?;
        raw.set_cap_ack(true)?;
        // Before 4.20: dumps then come unfiltered, which the readers do not rely on.
        let strict = raw.set_netlink_get_strict_chk(true);
        if let Err(error) = strict {
            tracing::debug!(%error, "the kernel does not filter dumps");
        }
        grow_receive_buffer(&raw, RECEIVE_BUFFER)?;
        setsockopt(&raw, sockopt::ReceiveTimeout, &TimeVal::new(PATIENCE.as_secs().cast_signed(), 0))?;
        Ok(Self { raw, port, sequence: 0, buffer: Vec::with_capacity(64 << 10) })
    }

    /// Our address: notices of what this socket did carry it.
    pub(crate) fn port(&self) -> u32 {
        self.port
    }

    /// Sends them all, in order, and says what became of each.
    pub(crate) fn batch(&mut self, requests: &mut [Request]) -> Vec<Result<(), Refusal>> {
        let mut results = Vec::with_capacity(requests.len());
        for chunk in requests.chunks_mut(CHUNK) {
            results.extend(self.exchange(chunk, |_, _| {}));
        }
        results
    }

    /// One request.
    pub(crate) fn run(&mut self, request: Request) -> Result<(), Refusal> {
        self.exchange(&mut [request], |_, _| {}).remove(0)
    }

    /// Asks them all; a question has one answer or a refusal.
    pub(crate) fn ask<T>(
        &mut self,
        questions: &mut [Request],
        mut read: impl FnMut(&[u8]) -> Option<T>,
    ) -> Vec<Result<T, Refusal>> {
        let mut answers = Vec::with_capacity(questions.len());
        for chunk in questions.chunks_mut(QUESTIONS) {
            let mut found: Vec<Option<T>> = std::iter::repeat_with(|| None).take(chunk.len()).collect();
            let results = self.exchange(chunk, |index, message| found[index] = read(message.payload));
            answers.extend(results.into_iter().zip(found).map(|(result, answer)| {
                result?;
                answer.ok_or_else(|| Refusal::new(Errno::EBADMSG, "an answer that cannot be read"))
            }));
        }
        answers
    }

    /// Reads a whole table, keeping what `read` returns. Starts over when the table changed
    /// under way (`NLM_F_DUMP_INTR`): what was read may then be incomplete.
    pub(crate) fn dump<T>(
        &mut self,
        mut request: Request,
        mut read: impl FnMut(&[u8]) -> Option<T>,
    ) -> Result<Vec<T>, Refusal> {
        request.add_flags(NLM_F_DUMP);
        for _ in 0..DUMP_TRIES {
            let mut found = Vec::new();
            if self.dump_once(&mut request, |payload| found.extend(read(payload)))? {
                return Ok(found);
            }
        }
        Err(Refusal::new(Errno::EINTR, "the table changed whenever it was read"))
    }

    /// `false`: disturbed.
    fn dump_once(&mut self, request: &mut Request, mut each: impl FnMut(&[u8])) -> Result<bool, Refusal> {
        let sequence = self.next_sequence();
        request.set_sequence(sequence);
        self.raw.send(request.bytes(), 0)?;
        let mut undisturbed = true;
        loop {
            self.receive()?;
            for message in messages(&self.buffer).filter(|message| message.sequence == sequence) {
                undisturbed &= message.flags & NLM_F_DUMP_INTR == 0;
                match message.kind {
                    NLMSG_ERROR => return refusal(&message).map_or(Ok(undisturbed), Err),
                    // Carries an error number too when the dump broke off.
                    NLMSG_DONE => return done(&message).map_or(Ok(undisturbed), Err),
                    _ => each(message.payload),
                }
            }
        }
    }

    /// One datagram of requests. Only failures are reported, except that the last request is
    /// acknowledged too: when its answer is here, so are all others.
    fn exchange(
        &mut self,
        requests: &mut [Request],
        mut on_answer: impl FnMut(usize, &Message<'_>),
    ) -> Vec<Result<(), Refusal>> {
        let Some(last) = requests.len().checked_sub(1) else { return Vec::new() };
        let first = self.next_sequence();
        let mut datagram = Vec::with_capacity(requests.iter().map(|request| request.bytes().len()).sum());
        for (request, sequence) in requests.iter_mut().zip(first..) {
            request.set_sequence(sequence);
            self.sequence = sequence;
        }
        requests[last].add_flags(NLM_F_ACK);
        for request in requests.iter() {
            datagram.extend_from_slice(request.bytes());
        }
        let mut results = vec![Ok(()); requests.len()];
        if let Err(error) = self.raw.send(&datagram, 0) {
            results.fill(Err(error.into()));
            return results;
        }
        loop {
            if let Err(error) = self.receive() {
                // Which answers were lost cannot be known.
                results.iter_mut().filter(|result| result.is_ok()).for_each(|result| *result = Err(error.clone()));
                return results;
            }
            for message in messages(&self.buffer) {
                let Some(index) = message.sequence.checked_sub(first).and_then(|i| usize::try_from(i).ok()) else {
                    continue;
                };
                if index > last {
                    continue;
                }
                if message.kind != NLMSG_ERROR {
                    on_answer(index, &message);
                    continue;
                }
                if let Some(refusal) = refusal(&message) {
                    results[index] = Err(refusal);
                }
                if index == last {
                    return results;
                }
            }
        }
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

impl Refusal {
    pub(crate) fn new(errno: Errno, text: &str) -> Self {
        Self { errno, text: text.to_owned() }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.errno)?;
        if self.text.is_empty() { Ok(()) } else { write!(f, ": {}", self.text) }
    }
}

impl From<Errno> for Refusal {
    fn from(errno: Errno) -> Self {
        Self { errno, text: String::new() }
    }
}

impl From<std::io::Error> for Refusal {
    fn from(error: std::io::Error) -> Self {
        error
            .raw_os_error()
            .map_or_else(|| Self::new(Errno::EIO, &error.to_string()), |raw| Errno::from_raw(raw).into())
    }
}

/// As large as it may get: beyond the limit if we are privileged, up to it if not.
pub(crate) fn grow_receive_buffer(socket: &RawSocket, bytes: usize) -> Result<(), Errno> {
    setsockopt(socket, sockopt::RcvBufForce, &bytes)
        .or_else(|_unprivileged| setsockopt(socket, sockopt::RcvBuf, &bytes))
}

/// What an `NLMSG_ERROR` says; `None`: success.
fn refusal(message: &Message<'_>) -> Option<Refusal> {
    let errno = error_number(message.payload)?;
    let echoed = if message.flags & CAPPED != 0 {
        HEADER
    } else {
        // The request's own length, at the start of its echo.
        super::wire::u32_at(message.payload, 4).and_then(|length| usize::try_from(length).ok())?
    };
    let skip = (4 + echoed).next_multiple_of(4);
    Some(Refusal { errno, text: words(message, skip) })
}

/// What an `NLMSG_DONE` says; `None`: success.
fn done(message: &Message<'_>) -> Option<Refusal> {
    Some(Refusal { errno: error_number(message.payload)?, text: words(message, 4) })
}

fn error_number(payload: &[u8]) -> Option<Errno> {
    let code = super::wire::u32_at(payload, 0)?.cast_signed();
    (code != 0).then(|| Errno::from_raw(code.wrapping_neg()))
}

fn words(message: &Message<'_>, skip: usize) -> String {
    if message.flags & ACK_TLVS == 0 {
        return String::new();
    }
    attributes(message.payload, skip)
        .find(|(kind, _)| *kind == NLMSGERR_ATTR_MSG)
        .map(|(_, value)| text(value))
        .unwrap_or_default()
}
