//! Tells senders what became of their packets: ICMP messages, into the device.

use std::{
    fs::File,
    io::{IoSlice, Write as _},
    net::IpAddr,
    time::Instant,
};

use super::{
    Counter,
    counters::Counts,
    flow::Flow,
    packet::{
        icmp::{self, Limiter, Problem},
        virtio::VirtioHeader,
    },
};

/// One thread's messages.
#[derive(Debug)]
pub(super) struct Notices {
    limiter: Limiter,
    since: Instant,
    message: Box<[u8; icmp::MAX]>,
}

impl Notices {
    pub(super) fn new() -> Self {
        Self { limiter: Limiter::default(), since: Instant::now(), message: Box::new([0; icmp::MAX]) }
    }

    /// Answers a packet that came out of the device, unless its kind is not to be answered, or there were too many.
    ///
    /// The message comes from where the packet went: the kernel takes nothing from a device that claims to be from one of the host's own
    /// addresses, nor, with strict filtering by reverse path, from anywhere that is not behind it.
    pub(super) fn send(&mut self, tun: &mut &File, counts: &Counts, problem: Problem, packet: &[u8]) {
        let Some(Flow { destination, .. }) = Flow::of(packet) else { return };
        let from: IpAddr = destination;
        if !self.limiter.allows(packet, self.since.elapsed()) {
            return counts.add(Counter::IcmpSpared, 1);
        }
        let Some(octets) = icmp::write(problem, packet, from, &mut self.message) else { return };
        let header = VirtioHeader::default().encode();
        let both = [IoSlice::new(&header), IoSlice::new(&self.message[..octets])];
        // A device that is down has nobody to tell; one that is gone is noticed by whoever reads from it.
        if tun.write_vectored(&both).is_ok() {
            counts.add(Counter::IcmpSent, 1);
        }
    }
}
