//! A blocking rtnetlink socket that keeps many requests in flight.

use std::{collections::BTreeSet, fmt};

use netlink_packet_core::NLM_F_ACK;
use netlink_sys::{Socket as RawSocket, protocols::NETLINK_ROUTE};
use nix::{
    errno::Errno,
    sys::socket::{setsockopt, sockopt},
};

use super::{
    batch::Batch,
    channel::{Channel, NLMSG_DONE, NLMSG_ERROR},
    wire::{HEADER, Message, Request, attributes, text},
};

/// `NLM_F_CAPPED` and `NLM_F_ACK_TLVS` of an error message.
const CAPPED: u16 = 0x100;
const ACK_TLVS: u16 = 0x200;
const NLMSGERR_ATTR_MSG: u16 = 1;
/// Requests per datagram: 40 KB or so, well inside the default send buffer.
pub(crate) const CHUNK: usize = 512;
/// Questions per datagram: each answer takes a page or two of receive buffer, which an
/// unprivileged process gets 208 KB of.
const QUESTIONS: usize = 32;
const RECEIVE_BUFFER: usize = 8 << 20;

/// The kernel's no.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) errno: Errno,
    /// The kernel's own words (extended acknowledgement), empty if it sent none.
    pub(crate) text: String,
}

pub(crate) struct Socket(Channel);

impl Socket {
    pub(crate) fn open() -> Result<Self, Refusal> {
        let mut channel = Channel::open(NETLINK_ROUTE, RECEIVE_BUFFER)?;
        // Before 4.20: dumps then come unfiltered, which the readers do not rely on.
        let strict = channel.raw().set_netlink_get_strict_chk(true);
        if let Err(error) = strict {
            tracing::debug!(%error, "the kernel does not filter dumps");
        }
        Ok(Self(channel))
    }

    /// Our address: notices of what this socket did carry it.
    pub(crate) fn port(&self) -> u32 {
        self.0.port()
    }

    /// Sends them all, in order, and says what became of each.
    pub(crate) fn run_all(&mut self, requests: &[Request]) -> Vec<Result<(), Refusal>> {
        let mut results = Vec::with_capacity(requests.len());
        for chunk in requests.chunks(CHUNK) {
            let begun = results.len();
            results.resize(begun + chunk.len(), Ok(()));
            let failures = self.batch(&mut chunk.iter().collect());
            failures.into_iter().for_each(|(index, refusal)| results[begun + index] = Err(refusal));
        }
        results
    }

    /// Sends no more than [`CHUNK`] of them, in order, and says which failed.
    pub(crate) fn batch(&mut self, batch: &mut Batch) -> Vec<(usize, Refusal)> {
        self.exchange(batch, |_, _| {})
    }

    /// One request.
    pub(crate) fn run(&mut self, request: Request) -> Result<(), Refusal> {
        let failures = self.batch(&mut request.into());
        failures.into_iter().next().map_or(Ok(()), |(_, refusal)| Err(refusal))
    }

    /// Asks them all; a question has one answer or a refusal.
    pub(crate) fn ask<T>(
        &mut self,
        questions: &[Request],
        mut read: impl FnMut(&[u8]) -> Option<T>,
    ) -> Vec<Result<T, Refusal>> {
        let mut answers = Vec::with_capacity(questions.len());
        for chunk in questions.chunks(QUESTIONS) {
            let unreadable = || Err(Refusal::new(Errno::EBADMSG, "an answer that cannot be read"));
            let mut found: Vec<Result<T, Refusal>> = std::iter::repeat_with(unreadable).take(chunk.len()).collect();
            let failures = self.exchange(&mut chunk.iter().collect(), |index, message| {
                found[index] = read(message.payload).map_or_else(unreadable, Ok);
            });
            failures.into_iter().for_each(|(index, refusal)| found[index] = Err(refusal));
            answers.append(&mut found);
        }
        answers
    }

    /// Reads a whole table, keeping what `read` returns.
    pub(crate) fn dump<T>(
        &mut self,
        request: Request,
        mut read: impl FnMut(&[u8]) -> Option<T>,
    ) -> Result<Vec<T>, Refusal> {
        self.fold(request, |payload, found: &mut Vec<T>| found.extend(read(payload)))
    }

    /// Reads a whole table, keeping what `read` makes of it.
    pub(crate) fn fold<A: Default>(&mut self, request: Request, read: impl FnMut(&[u8], &mut A)) -> Result<A, Refusal> {
        self.0.dump(request, read, verdict)
    }

    /// Reads a table from its beginning, as long as `read` wants more of it.
    pub(crate) fn beginning(self, request: Request, read: impl FnMut(&[u8]) -> bool) -> Result<(), Refusal> {
        self.0.beginning(request, read, verdict)
    }

    /// One datagram of requests, and those that failed. Only failures are reported, except that the last request is
    /// acknowledged too: when its answer is here, so are all others.
    fn exchange(&mut self, batch: &mut Batch, mut on_answer: impl FnMut(usize, &Message<'_>)) -> Vec<(usize, Refusal)> {
        let Some(last) = batch.len().checked_sub(1) else { return Vec::new() };
        batch.flag_last(NLM_F_ACK);
        let first = self.0.number_batch(batch);
        let mut failures: Vec<(usize, Refusal)> = Vec::new();
        if let Err(error) = self.0.send(batch.datagram()) {
            return (0..=last).map(|index| (index, error.clone())).collect();
        }
        loop {
            let answers = match self.0.receive() {
                Ok(answers) => answers,
                Err(error) => {
                    // Which answers were lost cannot be known.
                    let known: BTreeSet<usize> = failures.iter().map(|(index, _)| *index).collect();
                    let others = (0..=last).filter(|index| !known.contains(index));
                    failures.extend(others.map(|index| (index, error.clone())));
                    return failures;
                }
            };
            for message in answers {
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
                    failures.push((index, refusal));
                }
                if index == last {
                    return failures;
                }
            }
        }
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

/// What the last message of a dump says.
fn verdict(message: &Message<'_>) -> Result<(), Refusal> {
    match message.kind {
        NLMSG_DONE => done(message).map_or(Ok(()), Err),
        _ => refusal(message).map_or(Ok(()), Err),
    }
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
