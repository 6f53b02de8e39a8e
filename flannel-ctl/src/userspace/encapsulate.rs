//! Out: from the TUN device to the wire.
//!
//! A super-packet is cut and sent by one call. Single packets are gathered as long as there are more to be had at once; those of one flow
//! and one size leave as one train.

use std::{
    io::{self, IoSlice, Read as _},
    net::{IpAddr, SocketAddr},
    sync::{Arc, atomic::Ordering},
};

use nix::libc;

use super::{
    Counter, EngineError, Reader, Wire,
    counters::Counts,
    flow::Flow,
    notice::Notices,
    pace::Found,
    packet::{
        checksum,
        icmp::Problem,
        segment::{Cutter, Segments},
        ttl,
        virtio::{self, VirtioHeader},
    },
    shared::Shared,
    sys,
};
use crate::model::{Family, Forward};

/// Most datagrams of one send (`UDP_MAX_SEGMENTS`, 64 until Linux 6.9), and their octets.
const MAX_TRAIN: usize = 64;
const MAX_OCTETS: usize = 65_507;
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
    cutter: Cutter,
    /// Packets as they were read, each with room before it.
    arena: Box<[u8]>,
    used: usize,
    trains: Vec<Train>,
    gathered: usize,
    notices: Notices,
    /// Octets before a packet: the virtio header, and in its place later the tunnel's.
    front: usize,
}

/// Where a packet goes, and from which of our ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Way {
    to: IpAddr,
    hash: u32,
    tos: u8,
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
        let front = shared.options.wire.room().max(virtio::LEN);
        Self {
            shared,
            queue,
            counts,
            reader,
            cutter: Cutter::new(),
            arena: vec![0; ARENA].into(),
            used: 0,
            trains: Vec::with_capacity(MAX_GATHERED),
            gathered: 0,
            notices: Notices::new(),
            front,
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
            self.cut(&header, begin, octets, way, forward, flow.family);
            return;
        }
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
        self.used = 0;
    }

    /// The same, while another packet still lies behind them.
    fn flush_trains(&mut self) {
        for at in 0..self.trains.len() {
            let train = &self.trains[at];
            let Some((place, octets)) = train.places.first().copied() else { break };
            let (shared, counts, way) = (&self.shared, &self.counts, train.way);
            let told = if train.places.len() == 1 {
                send(shared, counts, way, &[IoSlice::new(&self.arena[place..place + octets])], 1, octets, octets)
            } else {
                let mut pieces = [IoSlice::new(&[]); MAX_TRAIN];
                for (piece, (place, octets)) in pieces.iter_mut().zip(&train.places) {
                    *piece = IoSlice::new(&self.arena[*place..place + octets]);
                }
                send(shared, counts, way, &pieces[..train.places.len()], 1, train.size, train.octets)
            };
            if told == Told::TooBig {
                let room = self.shared.options.wire.room();
                self.too_big(way, place + room, octets - room);
            }
            self.trains[at].places.clear();
        }
        self.gathered = 0;
    }

    fn cut(&mut self, header: &VirtioHeader, begin: usize, octets: usize, way: Way, forward: Forward, family: Family) {
        let wire: Wire = self.shared.options.wire;
        let Self { cutter, arena, .. } = self;
        let Ok(mut segments) = cutter.cut(header, &arena[begin..begin + octets], wire.room()) else {
            return self.malformed();
        };
        for (room, _) in segments.iter_mut() {
            wire.write(room, forward.mac, family);
        }
        if send_segments(&self.shared, &self.counts, way, &segments) == Told::TooBig {
            self.too_big(way, begin, octets);
        }
    }

    /// What lies there was sent in fragments. Its sender had better send less, if it asked not to have that done.
    fn too_big(&mut self, way: Way, begin: usize, octets: usize) {
        let packet = &self.arena[begin..begin + octets];
        let may_be_cut =
            packet.first().is_some_and(|first| first >> 4 == 4) && packet.get(6).is_some_and(|flags| flags & 0x40 == 0);
        if may_be_cut {
            return;
        }
        let options = &self.shared.options;
        let Ok(wire) = sys::path_mtu(options.local, SocketAddr::new(way.to, options.wire.port())) else { return };
        let mtu = wire.saturating_sub(options.wire.overhead(Family::of(&options.local)));
        if mtu < options.mtu {
            self.tell(Problem::TooBig { mtu: u16::try_from(mtu).unwrap_or(u16::MAX) }, begin, octets);
        }
    }

    fn tell(&mut self, problem: Problem, begin: usize, octets: usize) {
        let mut tun = &self.shared.tun.queues[self.queue];
        self.notices.send(&mut tun, &self.counts, problem, &self.arena[begin..begin + octets]);
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

/// What a send had to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Nothing,
    /// The path takes less than that.
    TooBig,
}

/// As few sends as their lengths allow.
fn send_segments(shared: &Shared, counts: &Counts, way: Way, segments: &Segments<'_>) -> Told {
    let mut told = Told::Nothing;
    let most = if shared.cuts() { (MAX_OCTETS / segments.octets()).clamp(1, MAX_TRAIN) } else { MAX_TRAIN };
    let mut all = segments.iter();
    loop {
        let mut pieces = [IoSlice::new(&[]); 2 * MAX_TRAIN];
        let (mut count, mut octets) = (0, 0);
        for (header, payload) in all.by_ref().take(most) {
            pieces[count] = IoSlice::new(header);
            pieces[count + 1] = IoSlice::new(payload);
            count += 2;
            octets += header.len() + payload.len();
        }
        if count == 0 {
            return told;
        }
        if send(shared, counts, way, &pieces[..count], 2, segments.octets(), octets) == Told::TooBig {
            told = Told::TooBig;
        }
    }
}

/// `each` pieces make a datagram.
fn send(
    shared: &Shared,
    counts: &Counts,
    way: Way,
    pieces: &[IoSlice<'_>],
    each: usize,
    size: usize,
    octets: usize,
) -> Told {
    let packets = pieces.len() / each;
    if packets > 1 && !shared.cuts() {
        send_each(shared, counts, way, pieces, each);
        return Told::Nothing;
    }
    let segment = if packets > 1 { u16::try_from(size).ok() } else { None };
    let to = SocketAddr::new(way.to, shared.options.wire.port());
    counts.add(Counter::SentCalls, 1);
    match sys::send(shared.sockets.sender(way.hash), to, pieces, segment, way.tos) {
        Ok(_) => {
            counts.add(Counter::SentPackets, packets as u64);
            counts.add(Counter::SentBytes, (octets - packets * shared.options.wire.room()) as u64);
            Told::Nothing
        }
        // Each on its own it may go, in fragments: a train is not fragmented. Linux before 6.8 calls both a wrong argument.
        Err(error) if packets > 1 && is_about_train(&error) => {
            let too_big = error.raw_os_error() != Some(libc::EIO);
            if !too_big {
                shared.no_udp_gso.store(true, Ordering::Relaxed);
            }
            send_each(shared, counts, way, pieces, each);
            if too_big {
                counts.add(Counter::SentTooBig, packets as u64);
                return Told::TooBig;
            }
            Told::Nothing
        }
        Err(error) => {
            counts.add(loss(&error), packets as u64);
            Told::Nothing
        }
    }
}

/// Datagrams of `each` pieces, none with another: several to a call, where the kernel has one for that.
fn send_each(shared: &Shared, counts: &Counts, way: Way, pieces: &[IoSlice<'_>], each: usize) {
    let to = SocketAddr::new(way.to, shared.options.wire.port());
    let socket = shared.sockets.sender(way.hash);
    let mut rest = pieces;
    while !rest.is_empty() {
        counts.add(Counter::SentCalls, 1);
        let sent = if shared.offloads.batches {
            sys::send_many(socket, to, rest, each, way.tos)
        } else {
            sys::send(socket, to, &rest[..each], None, way.tos).map(|_| 1)
        };
        let done = match sent {
            Ok(sent) => {
                let done = rest.len().min(sent.max(1) * each);
                let octets: usize = rest[..done].iter().map(|piece| piece.len()).sum();
                counts.add(Counter::SentPackets, (done / each) as u64);
                counts.add(Counter::SentBytes, (octets - done / each * shared.options.wire.room()) as u64);
                done
            }
            // The first one's; the others may have more luck.
            Err(error) => {
                counts.add(loss(&error), 1);
                each
            }
        };
        rest = &rest[done..];
    }
}

fn loss(error: &io::Error) -> Counter {
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM) => Counter::SentNoRoom,
        _ => Counter::SentRefused,
    }
}

fn is_about_train(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMSGSIZE | libc::EINVAL | libc::EIO))
}
