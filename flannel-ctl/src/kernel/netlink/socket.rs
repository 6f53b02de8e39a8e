//! A blocking rtnetlink socket that keeps many requests in flight.

use std::collections::BTreeSet;

use netlink_packet_core::NLM_F_ACK;
use netlink_sys::protocols::NETLINK_ROUTE;
use nix::errno::Errno;

use super::{
    batch::Batch,
    channel::Channel,
    refusal::{Refusal, refusal, verdict},
    wire::{Message, NLMSG_ERROR, Request},
};

/// Requests per datagram: 40 KB or so, well inside the default send buffer.
pub(crate) const CHUNK: usize = 512;
/// Questions per datagram: each answer takes a page or two of receive buffer, which an
/// unprivileged process gets 208 KB of.
const QUESTIONS: usize = 32;
const RECEIVE_BUFFER: usize = 8 << 20;

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
