//! What all our netlink sockets have in common: an address, numbers for requests, whole dumps.

use std::time::Duration;

use netlink_packet_core::{NLM_F_DUMP, NLM_F_DUMP_INTR};
use netlink_sys::{Socket as RawSocket, SocketAddr};
use nix::{
    errno::Errno,
    sys::{
        socket::{setsockopt, sockopt},
        time::TimeVal,
    },
};

use super::{
    batch::Batch,
    refusal::Refusal,
    wire::{Message, NLMSG_DONE, NLMSG_ERROR, Request, messages},
};

/// A dump that is disturbed this often is given up.
const DUMP_TRIES: u32 = 20;
/// The kernel answers while it takes the request; this is for a kernel gone wrong.
const PATIENCE: Duration = Duration::from_secs(10);

/// One question or batch at a time, and its answers.
pub(crate) struct Channel {
    raw: RawSocket,
    port: u32,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Channel {
    pub(crate) fn open(protocol: isize, receive_buffer: usize) -> Result<Self, Refusal> {
        let mut raw = RawSocket::new(protocol)?;
        let port = raw.bind_auto()?.port_number();
        raw.connect(&SocketAddr::new(0, 0))?;
        raw.set_ext_ack(true)?;
        raw.set_cap_ack(true)?;
        grow_receive_buffer(&raw, receive_buffer)?;
        setsockopt(&raw, sockopt::ReceiveTimeout, &TimeVal::new(PATIENCE.as_secs().cast_signed(), 0))?;
        Ok(Self { raw, port, sequence: 0, buffer: Vec::with_capacity(64 << 10) })
    }

    /// For what one protocol needs of its socket.
    pub(crate) fn raw(&mut self) -> &mut RawSocket {
        &mut self.raw
    }

    /// Our address: notices of what this socket did carry it.
    pub(crate) fn port(&self) -> u32 {
        self.port
    }

    /// Numbers the requests and returns them as one datagram, with the number of the first.
    pub(crate) fn number(&mut self, requests: &mut [Request]) -> (u32, Vec<u8>) {
        let first = self.next_sequence();
        let mut datagram = Vec::with_capacity(requests.iter().map(|request| request.bytes().len()).sum());
        for (request, sequence) in requests.iter_mut().zip(first..) {
            request.set_sequence(sequence);
            datagram.extend_from_slice(request.bytes());
            self.sequence = sequence;
        }
        (first, datagram)
    }

    /// Numbers the requests, and returns the number of the first.
    pub(crate) fn number_batch(&mut self, batch: &mut Batch) -> u32 {
        let first = self.next_sequence();
        batch.number(first);
        self.sequence = first + u32::try_from(batch.len()).map_or(0, |requests| requests.saturating_sub(1));
        first
    }

    /// Wraps far from the end, so that a batch never does.
    fn next_sequence(&self) -> u32 {
        if self.sequence > u32::MAX / 2 { 1 } else { self.sequence + 1 }
    }

    pub(crate) fn send(&self, datagram: &[u8]) -> Result<(), Refusal> {
        self.raw.send(datagram, 0)?;
        Ok(())
    }

    /// The next datagram's messages.
    pub(crate) fn receive(&mut self) -> Result<impl Iterator<Item = Message<'_>>, Refusal> {
        loop {
            self.buffer.clear();
            match self.raw.recv(&mut self.buffer, 0) {
                Ok(_) => return Ok(messages(&self.buffer)),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Reads a whole table, keeping what `read` makes of it. Starts over when the table changed
    /// under way: what was read may then be incomplete. `verdict`: what the last message says.
    pub(crate) fn dump<A: Default>(
        &mut self,
        mut request: Request,
        mut read: impl FnMut(&[u8], &mut A),
        verdict: impl Fn(&Message<'_>) -> Result<(), Refusal>,
    ) -> Result<A, Refusal> {
        request.add_flags(NLM_F_DUMP);
        let mut request = [request];
        for _ in 0..DUMP_TRIES {
            let mut found = A::default();
            if self.dump_once(&mut request, |payload| read(payload, &mut found), &verdict)? {
                return Ok(found);
            }
        }
        Err(Refusal::new(Errno::EINTR, "the table changed whenever it was read"))
    }

    /// Reads a table from its beginning, as long as `read` wants more of it. The kernel does not forget a dump that was
    /// broken off, so this is the last that is asked here.
    pub(crate) fn beginning(
        mut self,
        mut request: Request,
        mut read: impl FnMut(&[u8]) -> bool,
        verdict: impl Fn(&Message<'_>) -> Result<(), Refusal>,
    ) -> Result<(), Refusal> {
        request.add_flags(NLM_F_DUMP);
        let (sequence, datagram) = self.number(&mut [request]);
        self.send(&datagram)?;
        loop {
            for message in self.receive()?.filter(|message| message.sequence == sequence) {
                match message.kind {
                    NLMSG_ERROR | NLMSG_DONE => return verdict(&message),
                    _ if read(message.payload) => {}
                    _ => return Ok(()),
                }
            }
        }
    }

    /// `false`: disturbed.
    fn dump_once(
        &mut self,
        request: &mut [Request; 1],
        mut each: impl FnMut(&[u8]),
        verdict: &impl Fn(&Message<'_>) -> Result<(), Refusal>,
    ) -> Result<bool, Refusal> {
        let (sequence, datagram) = self.number(request);
        self.send(&datagram)?;
        let mut undisturbed = true;
        loop {
            for message in self.receive()?.filter(|message| message.sequence == sequence) {
                undisturbed &= message.flags & NLM_F_DUMP_INTR == 0;
                match message.kind {
                    // The end carries an error number too when the dump broke off.
                    NLMSG_ERROR | NLMSG_DONE => {
                        return match verdict(&message) {
                            // nf_tables ends a dump that lost its place with this.
                            Err(refusal) if refusal.errno == Errno::EINTR => Ok(false),
                            answer => answer.map(|()| undisturbed),
                        };
                    }
                    _ => each(message.payload),
                }
            }
        }
    }
}

/// As large as it may get: beyond the limit if we are privileged, up to it if not.
pub(crate) fn grow_receive_buffer(socket: &RawSocket, bytes: usize) -> Result<(), Errno> {
    setsockopt(socket, sockopt::RcvBufForce, &bytes)
        .or_else(|_unprivileged| setsockopt(socket, sockopt::RcvBuf, &bytes))
}
