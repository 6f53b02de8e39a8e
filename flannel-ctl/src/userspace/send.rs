//! One train of datagrams, to the wire: by one call, or by as few as the kernel has it.

use std::{
    io::{self, IoSlice},
    net::{IpAddr, SocketAddr},
    sync::{Arc, atomic::Ordering},
};

use nix::libc;

use super::{Counter, counters::Counts, notice::Notices, packet::icmp::Problem, shared::Shared, sys};
use crate::model::Family;

/// Most datagrams of one send (`UDP_MAX_SEGMENTS`, 64 until Linux 6.9), and their octets.
pub(super) const MAX_TRAIN: usize = 64;
pub(super) const MAX_OCTETS: usize = 65_507;

/// Where a packet goes, and from which of our ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Way {
    pub(super) to: IpAddr,
    pub(super) hash: u32,
    pub(super) tos: u8,
}

/// A train, each datagram but the last of the same size.
#[derive(Clone, Copy, Debug)]
pub(super) enum Datagrams<'a> {
    /// A piece each. Where the kernel does not cut trains, any sizes.
    Pieces(&'a [IoSlice<'a>]),
    /// One behind the other.
    Row(&'a [u8]),
}

/// One queue's way out, and back to those who sent.
#[derive(Debug)]
pub(super) struct Sender {
    shared: Arc<Shared>,
    queue: usize,
    counts: Arc<Counts>,
    notices: Notices,
}

impl Datagrams<'_> {
    fn count(&self, size: usize) -> usize {
        match self {
            Self::Pieces(pieces) => pieces.len(),
            Self::Row(octets) => octets.len().div_ceil(size),
        }
    }

    fn first(&self, size: usize) -> &[u8] {
        match self {
            Self::Pieces(pieces) => pieces.first().map_or(&[], |first| first),
            Self::Row(octets) => &octets[..size.min(octets.len())],
        }
    }
}

impl Sender {
    pub(super) fn new(shared: Arc<Shared>, queue: usize, counts: Arc<Counts>) -> Self {
        Self { shared, queue, counts, notices: Notices::new() }
    }

    /// No more than [`MAX_TRAIN`], of `size` octets and the last of no more.
    pub(super) fn send(&mut self, way: Way, datagrams: Datagrams<'_>, size: usize) {
        let (shared, counts) = (&*self.shared, &*self.counts);
        let packets = datagrams.count(size);
        if packets > 1 && !shared.cuts() {
            return self.send_each(way, datagrams, size);
        }
        let segment = if packets > 1 { u16::try_from(size).ok() } else { None };
        let to = SocketAddr::new(way.to, shared.options.wire.port());
        counts.add(Counter::SentCalls, 1);
        let row;
        let pieces = match datagrams {
            Datagrams::Pieces(pieces) => pieces,
            Datagrams::Row(octets) => {
                row = [IoSlice::new(octets)];
                &row
            }
        };
        match sys::send(shared.sockets.sender(way.hash), to, pieces, segment, way.tos) {
            Ok(sent) => {
                counts.add(Counter::SentPackets, packets as u64);
                counts.add(Counter::SentBytes, (sent - packets * shared.options.wire.room()) as u64);
            }
            // Each on its own it may go, in fragments: a train is not fragmented. Linux before 6.8 calls both a wrong argument.
            Err(error) if packets > 1 && is_about_train(&error) => {
                let too_big = error.raw_os_error() != Some(libc::EIO);
                if !too_big {
                    shared.no_udp_gso.store(true, Ordering::Relaxed);
                }
                self.send_each(way, datagrams, size);
                if too_big {
                    self.counts.add(Counter::SentTooBig, packets as u64);
                    self.too_big(way, datagrams.first(size));
                }
            }
            Err(error) => counts.add(loss(&error), packets as u64),
        }
    }

    /// Each on its own: several to a call, where the kernel has one for that.
    fn send_each(&self, way: Way, datagrams: Datagrams<'_>, size: usize) {
        let (shared, counts) = (&*self.shared, &*self.counts);
        let mut each = [IoSlice::new(&[]); MAX_TRAIN];
        let mut rest = match datagrams {
            Datagrams::Pieces(pieces) => pieces,
            Datagrams::Row(octets) => {
                let count =
                    each.iter_mut().zip(octets.chunks(size)).map(|(piece, one)| *piece = IoSlice::new(one)).count();
                &each[..count]
            }
        };
        let to = SocketAddr::new(way.to, shared.options.wire.port());
        let socket = shared.sockets.sender(way.hash);
        while !rest.is_empty() {
            counts.add(Counter::SentCalls, 1);
            let sent = if shared.offloads.batches {
                sys::send_many(socket, to, rest, 1, way.tos)
            } else {
                sys::send(socket, to, &rest[..1], None, way.tos).map(|_| 1)
            };
            let done = match sent {
                Ok(sent) => {
                    let done = rest.len().min(sent.max(1));
                    let octets: usize = rest[..done].iter().map(|piece| piece.len()).sum();
                    counts.add(Counter::SentPackets, done as u64);
                    counts.add(Counter::SentBytes, (octets - done * shared.options.wire.room()) as u64);
                    done
                }
                // The first one's; the others may have more luck.
                Err(error) => {
                    counts.add(loss(&error), 1);
                    1
                }
            };
            rest = &rest[done..];
        }
    }

    /// A datagram like this was sent in fragments. Its sender had better send less, if it asked not to have that done.
    fn too_big(&mut self, way: Way, datagram: &[u8]) {
        let options = &self.shared.options;
        let packet = &datagram[options.wire.room()..];
        let may_be_cut =
            packet.first().is_some_and(|first| first >> 4 == 4) && packet.get(6).is_some_and(|flags| flags & 0x40 == 0);
        if may_be_cut {
            return;
        }
        let Ok(wire) = sys::path_mtu(options.local, SocketAddr::new(way.to, options.wire.port())) else { return };
        let mtu = wire.saturating_sub(options.wire.overhead(Family::of(&options.local)));
        if mtu < options.mtu {
            self.tell(Problem::TooBig { mtu: u16::try_from(mtu).unwrap_or(u16::MAX) }, packet);
        }
    }

    /// Answers a packet that came out of the device.
    pub(super) fn tell(&mut self, problem: Problem, packet: &[u8]) {
        self.notices.send(&mut &self.shared.tun.queues[self.queue], &self.counts, problem, packet);
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
