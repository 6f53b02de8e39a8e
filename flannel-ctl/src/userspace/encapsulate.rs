//! Out: from the TUN device to the wire.
//!
//! A super-packet is cut and sent by one call, and what is too much for that waits for the next one, if there is one at once. Single packets are
//! gathered as long as there are more to be had at once; those of one flow and one size leave as one train.

use std::{
    io::{self, IoSlice, Read as _},
    sync::Arc,
};

use super::{
    Counter, EngineError, Reader,
    counters::Counts,
    cuttings::Cuttings,
    flow::Flow,
    pace::Found,
    packet::{
        checksum,
        icmp::Problem,
        ttl,
        virtio::{self, VirtioHeader},
    },
    send::{Datagrams, MAX_OCTETS, MAX_TRAIN, Sender, Way},
    shared::Shared,
};

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
    sender: Sender,
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
            sender: Sender::new(Arc::clone(&shared), queue, Arc::clone(&counts)),
            shared,
            queue,
            counts,
            reader,
            cuttings: Cuttings::new(wire),
            arena: vec![0; ARENA].into(),
            used: 0,
            trains: Vec::with_capacity(MAX_GATHERED),
            gathered: 0,
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
            return self.sender.tell(Problem::NoRoute, packet);
        };
        if self.shared.options.wire.is_hop() && !ttl::decrement(packet) {
            self.counts.add(Counter::SentTimeExceeded, 1);
            return self.sender.tell(Problem::TimeExceeded, packet);
        }
        let way = Way { to: forward.public, hash: flow.hash, tos: flow.outer_tos };
        if header.gso.is_some() {
            // What was gathered came before it.
            self.flush_trains();
            let Self { cuttings, sender, arena, .. } = self;
            let packet = (&header, &arena[begin..begin + octets]);
            let send = |way, row: &[u8], size| sender.send(way, Datagrams::Row(row), size);
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
        let Self { sender, arena, trains, .. } = self;
        for train in trains.iter_mut().take_while(|train| !train.places.is_empty()) {
            let mut pieces = [IoSlice::new(&[]); MAX_TRAIN];
            for (piece, (place, octets)) in pieces.iter_mut().zip(&train.places) {
                *piece = IoSlice::new(&arena[*place..place + octets]);
            }
            sender.send(train.way, Datagrams::Pieces(&pieces[..train.places.len()]), train.size);
            train.places.clear();
        }
        self.gathered = 0;
    }

    /// What was left of super-packets.
    fn flush_cuttings(&mut self) {
        let Self { cuttings, sender, .. } = self;
        cuttings.flush(|way, row, size| sender.send(way, Datagrams::Row(row), size));
    }

    fn malformed(&self) {
        self.counts.add(Counter::SentMalformed, 1);
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
