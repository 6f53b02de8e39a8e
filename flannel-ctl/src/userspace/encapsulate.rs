//! Out: from the TUN device to the wire.
//!
//! A super-packet is cut and sent by one call, and what is too much for that waits for the next one, if there is one at once. Single packets are
//! gathered as long as there are more to be had at once; those of one flow and one size leave as one train.

use std::{
    io::{self, IoSlice, Read as _},
    net::SocketAddr,
    sync::Arc,
};

use super::{
    Counter, EngineError, Reader,
    counters::Counts,
    cuttings::Cuttings,
    flow::Flow,
    notice::Notices,
    pace::Found,
    packet::{
        checksum,
        icmp::Problem,
        ttl,
        virtio::{self, VirtioHeader},
    },
    send::{Datagrams, MAX_OCTETS, MAX_TRAIN, Told, Way, send},
    shared::Shared,
    sys,
};
use crate::model::Family;

/// Single packets that are gathered at most.
const MAX_GATHERED: usize = 64;
/// What is read of the device in one turn at most, more or less.
const MOST_OCTETS: usize = 256 * 1024;
/// The longest that the device gives.
const LONGEST: usize = 65_535;
const ARENA: usize = 256 * 1024;

/// One queue's sender.
pub(super) struct Encapsulate {
    shared: Arc<Shared>,
    queue: usize,
    counts: Arc<Counts>,
    reader: Reader,
    cuttings: Cuttings,
    /// Packets as they were read, each with room before it.
    arena: Box<[u8]>,
    used: usize,
    trains: Vec<Train>,
    gathered: usize,
    notices: Notices,
    /// Octets before a packet: the virtio header, and in its place later the tunnel's.
    front: usize,
}

/// Packets that leave together.
#[derive(Debug)]
struct Train {
    way: Way,
    /// Octets of each but the last.
    size: usize,
    octets: usize,
    /// The last was shorter, so that nothing may follow.
    closed: bool,
    /// Offset and length of each, tunnel headers included.
    places: Vec<(usize, usize)>,
}

impl Encapsulate {
    pub(super) fn new(shared: Arc<Shared>, queue: usize, counts: Arc<Counts>, reader: Reader) -> Self {
        let wire = shared.options.wire;
        Self {
            shared,
            queue,
            counts,
            reader,
            cuttings: Cuttings::new(wire),
            arena: vec![0; ARENA].into(),
            used: 0,
            trains: Vec::with_capacity(MAX_GATHERED),
            gathered: 0,
            notices: Notices::new(),
            front: wire.room().max(virtio::LEN),
        }
    }

    /// Sends what the device has, up to a limit: the other direction waits meanwhile. `one`: what comes first, without a look at what else
    /// there is.
    pub(super) fn turn(&mut self, one: bool) -> Result<Found, EngineError> {
        let before = self.counts.get(Counter::SentPackets);
        let (mut reads, mut octets, mut more) = (0, 0, true);
        while octets < MOST_OCTETS && self.has_room() {
            let at = self.used + self.front - virtio::LEN;
            match (&self.shared.tun.queues[self.queue]).read(&mut self.arena[at..at + virtio::LEN + LONGEST]) {
                Ok(read) => {
                    if reads == 0 {
                        self.reader.refresh();
                    }
                    self.take(read);
                    octets += read;
                    reads += 1;
                    if one {
                        break;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    more = false;
                    break;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.shared.device_error("read", error)),
            }
        }
        if reads > 0 {
            self.counts.add(Counter::SentReads, reads.into());
            self.flush();
        }
        Ok(Found { reads, packets: self.counts.get(Counter::SentPackets) - before, more, delivered: false })
    }

    fn has_room(&self) -> bool {
        let most = if self.shared.offloads.batches { MAX_GATHERED } else { 1 };
        self.gathered < most && self.used + self.front + LONGEST <= self.arena.len()
    }

    /// A packet lies behind `used`: `read` octets, virtio header included.
    fn take(&mut self, read: usize) {
        let begin = self.used + self.front;
        let Some(octets) = read.checked_sub(virtio::LEN) else { return self.malformed() };
        let Ok(header) = VirtioHeader::parse(&self.arena[begin - virtio::LEN..begin]) else { return self.malformed() };
        let packet = &mut self.arena[begin..begin + octets];
        let Some(flow) = Flow::of(packet) else { return self.malformed() };
        let Some(forward) = self.reader.forward(flow.destination) else {
            self.counts.add(Counter::SentNoRoute, 1);
            return self.tell(Problem::NoRoute, begin, octets);
        };
        if self.shared.options.wire.is_hop() && !ttl::decrement(packet) {
            self.counts.add(Counter::SentTimeExceeded, 1);
            return self.tell(Problem::TimeExceeded, begin, octets);
        }
        let way = Way { to: forward.public, hash: flow.hash, tos: flow.outer_tos };
        if header.gso.is_some() {
            // What was gathered came before it.
            self.flush_trains();
            let Self { shared, counts, cuttings, notices, arena, queue, .. } = self;
            let packet = (&header, &arena[begin..begin + octets]);
            let send = |way, row: &[u8], size| send_row(shared, counts, notices, *queue, way, row, size);
            if cuttings.take(packet, (way, forward.mac, flow.family), send).is_err() {
                self.malformed();
            }
            return;
        }
        self.flush_cuttings();
        let packet = &mut self.arena[begin..begin + octets];
        if let Some(partial) = header.checksum {
            let (start, field) = (usize::from(partial.start), usize::from(partial.start) + usize::from(partial.offset));
            if start > octets || field + 2 > octets {
                return self.malformed();
            }
            let complete = checksum::finish_udp(checksum::sum(&packet[start..], 0));
            packet[field..field + 2].copy_from_slice(&complete);
        }
        let wire = self.shared.options.wire;
        let place = begin - wire.room();
        wire.write(&mut self.arena[place..begin], forward.mac, flow.family);
        self.append(way, flow.alone, place, wire.room() + octets);
        self.used = begin + octets;
        self.gathered += 1;
    }

    fn append(&mut self, way: Way, alone: bool, place: usize, octets: usize) {
        let (cut, listed) = (self.shared.cuts(), self.shared.offloads.batches);
        let last = self.trains.iter_mut().rfind(|train| train.way == way && !train.places.is_empty());
        if let Some(train) = last
            && !alone
            && if cut { train.takes(octets) } else { listed && train.places.len() < MAX_TRAIN }
        {
            return train.add(place, octets);
        }
        // Emptied ones at the end are used again.
        let next = self.trains.iter().rposition(|train| !train.places.is_empty()).map_or(0, |at| at + 1);
        if next == self.trains.len() {
            self.trains.push(Train { way, size: 0, octets: 0, closed: false, places: Vec::with_capacity(MAX_TRAIN) });
        }
        let train = &mut self.trains[next];
        (train.way, train.size, train.octets, train.closed) = (way, octets, 0, false);
        train.add(place, octets);
        train.closed |= alone;
    }

    /// Sends all that was gathered.
    fn flush(&mut self) {
        self.flush_trains();
        self.flush_cuttings();
        self.used = 0;
    }

    /// The same, while another packet still lies behind them.
    fn flush_trains(&mut self) {
        for at in 0..self.trains.len() {
            let train = &self.trains[at];
            let Some((place, octets)) = train.places.first().copied() else { break };
            let (shared, counts, way) = (&self.shared, &self.counts, train.way);
            let mut pieces = [IoSlice::new(&[]); MAX_TRAIN];
            for (piece, (place, octets)) in pieces.iter_mut().zip(&train.places) {
                *piece = IoSlice::new(&self.arena[*place..place + octets]);
            }
            let datagrams = Datagrams::Pieces(&pieces[..train.places.len()]);
            if send(shared, counts, way, datagrams, train.size) == Told::TooBig {
                let packet = &self.arena[place + shared.options.wire.room()..place + octets];
                too_big(shared, counts, &mut self.notices, self.queue, way, packet);
            }
            self.trains[at].places.clear();
        }
        self.gathered = 0;
    }

    /// What was left of super-packets.
    fn flush_cuttings(&mut self) {
        let Self { shared, counts, cuttings, notices, queue, .. } = self;
        cuttings.flush(|way, row, size| send_row(shared, counts, notices, *queue, way, row, size));
    }

    fn tell(&mut self, problem: Problem, begin: usize, octets: usize) {
        let mut tun = &self.shared.tun.queues[self.queue];
        self.notices.send(&mut tun, &self.counts, problem, &self.arena[begin..begin + octets]);
    }

    fn malformed(&self) {
        self.counts.add(Counter::SentMalformed, 1);
    }
}

/// Sends what was cut: datagrams one behind the other.
fn send_row(shared: &Shared, counts: &Counts, notices: &mut Notices, queue: usize, way: Way, row: &[u8], size: usize) {
    if send(shared, counts, way, Datagrams::Row(row), size) == Told::TooBig {
        too_big(shared, counts, notices, queue, way, &row[shared.options.wire.room()..size.min(row.len())]);
    }
}

/// A packet like this was sent in fragments. Its sender had better send less, if it asked not to have that done.
fn too_big(shared: &Shared, counts: &Counts, notices: &mut Notices, queue: usize, way: Way, packet: &[u8]) {
    let may_be_cut =
        packet.first().is_some_and(|first| first >> 4 == 4) && packet.get(6).is_some_and(|flags| flags & 0x40 == 0);
    if may_be_cut {
        return;
    }
    let options = &shared.options;
    let Ok(wire) = sys::path_mtu(options.local, SocketAddr::new(way.to, options.wire.port())) else { return };
    let mtu = wire.saturating_sub(options.wire.overhead(Family::of(&options.local)));
    if mtu < options.mtu {
        let problem = Problem::TooBig { mtu: u16::try_from(mtu).unwrap_or(u16::MAX) };
        notices.send(&mut &shared.tun.queues[queue], counts, problem, packet);
    }
}

impl Train {
    fn takes(&self, octets: usize) -> bool {
        !self.closed && octets <= self.size && self.places.len() < MAX_TRAIN && self.octets + octets <= MAX_OCTETS
    }

    fn add(&mut self, place: usize, octets: usize) {
        self.places.push((place, octets));
        self.octets += octets;
        self.closed = octets < self.size;
    }
}
