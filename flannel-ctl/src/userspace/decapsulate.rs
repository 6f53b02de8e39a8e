//! In: from the wire to the TUN device.
//!
//! What one call brings is checked datagram by datagram, put together to super-packets, and written without being copied.

use std::{
    io::{self, IoSlice, Write as _},
    ops::Range,
    os::fd::AsFd as _,
    sync::Arc,
    time::Instant,
};

use nix::poll::PollTimeout;
use socket2::SockFilter;

use super::{
    Counter, EngineError, Reader, WireFault,
    counters::Counts,
    flow,
    pace::Found,
    packet::{
        coalesce::{Coalescer, Limits, MAX_PIECES, Super},
        ecn, ttl,
    },
    shared::Shared,
    sieve::{self, Sieve},
    sys::{self, Arrival},
};

/// The longest datagram, or train of them.
const LONGEST: usize = 65_535;
/// Messages to a call: trains are long already.
const TRAINS: usize = 8;

/// One queue's receiver.
pub(super) struct Decapsulate {
    shared: Arc<Shared>,
    queue: usize,
    counts: Arc<Counts>,
    reader: Reader,
    coalescer: Coalescer,
    /// Memory that no message has reached yet costs nothing.
    buffer: Box<[u8]>,
    arrivals: Box<[Option<Arrival>]>,
    sieve: Sieve,
    filter: Box<[SockFilter]>,
    /// In this turn.
    refused: u32,
}

impl Decapsulate {
    pub(super) fn new(shared: Arc<Shared>, queue: usize, counts: Arc<Counts>, reader: Reader) -> Self {
        let limits = Limits {
            mtu: u16::try_from(shared.options.mtu).unwrap_or(u16::MAX),
            tso: shared.offloads.tso,
            uso: shared.offloads.uso,
        };
        let messages = match (shared.offloads.batches, shared.offloads.udp_gro) {
            (false, _) => 1,
            (true, true) => TRAINS,
            (true, false) => sys::MAX_MESSAGES,
        };
        let filter = sieve::program(&shared.options.wire).into();
        Self {
            shared,
            queue,
            counts,
            reader,
            sieve: Sieve::new(Instant::now()),
            filter,
            refused: 0,
            coalescer: Coalescer::new(limits),
            buffer: vec![0; messages * LONGEST].into(),
            arrivals: vec![None; messages].into(),
        }
    }

    /// Hands on what one call brings; `one`: one message.
    pub(super) fn turn(&mut self, one: bool) -> Result<Found, EngineError> {
        let found = self.take_up(one)?;
        let refused = std::mem::take(&mut self.refused);
        if refused > 0 || self.sieve.is_in() {
            self.weigh(refused);
        }
        Ok(found)
    }

    /// How long to wait for something to come.
    pub(super) fn patience(&self) -> PollTimeout {
        if self.sieve.is_in() {
            PollTimeout::try_from(sieve::WHILE).unwrap_or(PollTimeout::MAX)
        } else {
            PollTimeout::NONE
        }
    }

    fn weigh(&mut self, refused: u32) {
        let Some(comes) = self.sieve.refused(Instant::now(), refused) else { return };
        let program = comes.then_some(&*self.filter);
        if let Err(error) = self.shared.sockets.filter(self.queue, program) {
            // Each is refused here as before, then.
            tracing::debug!(%error, comes, "the filter of a receiving socket");
        }
    }

    fn take_up(&mut self, one: bool) -> Result<Found, EngineError> {
        let socket = &self.shared.sockets.receive[self.queue];
        let arrivals = if one { &mut self.arrivals[..1] } else { &mut self.arrivals[..] };
        let most = arrivals.len();
        let came = match sys::receive(socket.as_fd(), &mut self.buffer, LONGEST, arrivals) {
            Ok(came) => came,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Found::default()),
            // An earlier datagram's: ours are not bound to one peer.
            Err(error) if error.kind() == io::ErrorKind::Interrupted || is_icmp(&error) => {
                return Ok(Found { more: true, ..Found::default() });
            }
            Err(error) => return Err(self.shared.socket_error("receive", error)),
        };
        let before = self.counts.get(Counter::ReceivedPackets);
        self.reader.refresh();
        self.counts.add(Counter::ReceivedCalls, 1);
        for at in 0..came {
            if let Some(arrival) = self.arrivals[at] {
                self.take(at * LONGEST, &arrival);
            }
        }
        self.hand_on()?;
        let packets = self.counts.get(Counter::ReceivedPackets) - before;
        Ok(Found {
            reads: u32::try_from(came).unwrap_or(u32::MAX),
            packets,
            more: came == most,
            delivered: packets > 0,
        })
    }

    /// A message lies at `begin`: a datagram, or a train of them.
    fn take(&mut self, begin: usize, arrival: &Arrival) {
        let each = arrival.segment.map_or(arrival.octets, usize::from);
        if arrival.cut || arrival.octets == 0 {
            return self.refuse(Counter::ReceivedMalformed);
        }
        let mut at = 0;
        while at < arrival.octets {
            let end = (at + each).min(arrival.octets);
            if let Err(reason) = self.datagram(begin + at..begin + end, arrival) {
                self.refuse(reason);
            }
            at = end;
        }
    }

    fn refuse(&mut self, reason: Counter) {
        self.counts.add(reason, 1);
        self.refused += 1;
    }

    fn datagram(&mut self, place: Range<usize>, arrival: &Arrival) -> Result<(), Counter> {
        let buffer = &mut self.buffer;
        let packet = self.shared.options.wire.strip(&buffer[place.clone()]).map_err(reason)?;
        let octets = packet.len();
        let source = flow::source(packet).ok_or(Counter::ReceivedMalformed)?;
        if !self.reader.may_send(source, arrival.from.ip()) {
            return Err(Counter::ReceivedForged);
        }
        let place = place.end - octets..place.end;
        let packet = &mut buffer[place.clone()];
        if !ecn::mark(packet, arrival.tos) {
            return Err(Counter::ReceivedEcn);
        }
        // flannel's daemons are routers on both sides, and say nothing at the end of a packet's time.
        if self.shared.options.wire.is_hop() && !ttl::decrement(packet) {
            return Err(Counter::ReceivedTimeExceeded);
        }
        self.coalescer.push(buffer, place).map_err(|_| Counter::ReceivedMalformed)?;
        self.counts.add(Counter::ReceivedPackets, 1);
        self.counts.add(Counter::ReceivedBytes, octets as u64);
        Ok(())
    }

    /// Everything that was taken goes to the device.
    fn hand_on(&mut self) -> Result<(), EngineError> {
        let Self { shared, queue, counts, coalescer, buffer, .. } = self;
        let mut tun = &shared.tun.queues[*queue];
        for packet in coalescer.finish(buffer) {
            let header = packet.virtio.encode();
            counts.add(Counter::ReceivedWrites, 1);
            let written = if let Some(single) = packet.single() {
                tun.write_vectored(&[IoSlice::new(&header), IoSlice::new(single)])
            } else {
                let mut pieces = [IoSlice::new(&[]); MAX_PIECES + 2];
                let count = gather(&mut pieces, &header, &packet);
                tun.write_vectored(&pieces[..count])
            };
            match written {
                Ok(_) => {}
                Err(error) if error.raw_os_error() == Some(nix::libc::EBADFD) => {
                    return Err(shared.device_error("write", error));
                }
                // The device is down, or the kernel finds fault with the packet, or has no memory.
                Err(_) => counts.add(Counter::ReceivedRefused, 1),
            }
        }
        Ok(())
    }
}

/// Fills `pieces` with the packet behind its header; how many there are.
fn gather<'a>(pieces: &mut [IoSlice<'a>; MAX_PIECES + 2], header: &'a [u8], packet: &Super<'a>) -> usize {
    let parts = [header, packet.header].into_iter().chain(packet.pieces.clone()).filter(|part| !part.is_empty());
    let mut count = 0;
    for (piece, part) in pieces.iter_mut().zip(parts) {
        *piece = IoSlice::new(part);
        count += 1;
    }
    count
}

fn reason(fault: WireFault) -> Counter {
    match fault {
        WireFault::Short => Counter::ReceivedMalformed,
        WireFault::Flags => Counter::ReceivedFlags,
        WireFault::Vni => Counter::ReceivedVni,
        WireFault::Mac => Counter::ReceivedMac,
        WireFault::Protocol => Counter::ReceivedProtocol,
    }
}

fn is_icmp(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(nix::libc::ECONNREFUSED | nix::libc::EHOSTUNREACH | nix::libc::ENETUNREACH | nix::libc::EMSGSIZE)
    )
}
