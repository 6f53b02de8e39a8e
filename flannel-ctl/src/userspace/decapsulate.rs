//! In: from the wire to the TUN device. One thread for each queue.
//!
//! What one call brings is checked datagram by datagram, put together to super-packets, and written without being copied.

use std::{
    io::{self, IoSlice, Write as _},
    ops::Range,
    os::fd::AsFd as _,
    sync::Arc,
};

use super::{
    Counter, EngineError, Reader, WireFault,
    counters::Counts,
    engine::Shared,
    flow,
    packet::{
        coalesce::{Coalescer, Limits, MAX_PIECES, Super},
        ecn, ttl,
    },
    sys::{self, Arrival},
    wait::Patience,
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
}

impl Decapsulate {
    pub(super) fn new(shared: Arc<Shared>, queue: usize, counts: Arc<Counts>, reader: Reader) -> Self {
        let limits = Limits {
            mtu: u16::try_from(shared.options.mtu).unwrap_or(u16::MAX),
            tso: shared.offloads.tso,
            uso: shared.offloads.uso,
        };
        Self { shared, queue, counts, reader, coalescer: Coalescer::new(limits) }
    }

    /// Until the engine is stopped, or the device is gone.
    pub(super) fn run(mut self) -> Result<(), EngineError> {
        let shared = Arc::clone(&self.shared);
        let socket = &shared.sockets.receive[self.queue];
        let messages = match (shared.offloads.batches, shared.offloads.udp_gro) {
            (false, _) => 1,
            (true, true) => TRAINS,
            (true, false) => sys::MAX_MESSAGES,
        };
        // Memory that no message has reached yet costs nothing.
        let mut buffer = vec![0; messages * LONGEST];
        let mut arrivals = vec![None; messages];
        let mut patience = Patience::default();
        while !shared.stop.is_rung() {
            match sys::receive(socket.as_fd(), &mut buffer, LONGEST, &mut arrivals) {
                Ok(came) => {
                    patience.got_some();
                    self.reader.refresh();
                    self.counts.add(Counter::ReceivedCalls, 1);
                    for (at, arrival) in arrivals.iter().take(came).enumerate() {
                        if let Some(arrival) = arrival {
                            self.take(&mut buffer, at * LONGEST, arrival);
                        }
                    }
                    self.hand_on(&buffer)?;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if patience.is_over() {
                        shared.stop.wait(socket.as_fd()).map_err(|e| shared.socket_error("wait for datagrams", e))?;
                    }
                }
                // An earlier datagram's: ours are not bound to one peer.
                Err(error) if error.kind() == io::ErrorKind::Interrupted || is_icmp(&error) => {}
                Err(error) => return Err(shared.socket_error("receive", error)),
            }
        }
        Ok(())
    }

    /// A message lies at `begin`: a datagram, or a train of them.
    fn take(&mut self, buffer: &mut [u8], begin: usize, arrival: &Arrival) {
        let each = arrival.segment.map_or(arrival.octets, usize::from);
        if arrival.cut || arrival.octets == 0 {
            return self.counts.add(Counter::ReceivedMalformed, 1);
        }
        let mut at = 0;
        while at < arrival.octets {
            let end = (at + each).min(arrival.octets);
            if let Err(reason) = self.datagram(buffer, begin + at..begin + end, arrival) {
                self.counts.add(reason, 1);
            }
            at = end;
        }
    }

    fn datagram(&mut self, buffer: &mut [u8], place: Range<usize>, arrival: &Arrival) -> Result<(), Counter> {
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
    fn hand_on(&mut self, buffer: &[u8]) -> Result<(), EngineError> {
        let Self { shared, queue, counts, coalescer, .. } = self;
        let mut tun = &shared.tun.queues[*queue];
        for packet in coalescer.finish(buffer) {
            let header = packet.virtio.encode();
            let mut pieces = [IoSlice::new(&[]); MAX_PIECES + 2];
            let count = gather(&mut pieces, &header, &packet);
            counts.add(Counter::ReceivedWrites, 1);
            match tun.write_vectored(&pieces[..count]) {
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
