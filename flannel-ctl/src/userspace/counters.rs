//! What the threads have counted.

use std::sync::atomic::{AtomicU64, Ordering};

use super::Offloads;

flannel_common::counters! {
    /// What is counted. Packets are inner packets on the wire, except where it says super-packets or calls.
    pub enum Counter;

    /// Sent: packets on the wire.
    SentPackets, "sent_packets";
    /// Sent: their octets, inner headers included.
    SentBytes, "sent_bytes";
    /// Sent: super-packets and packets read from the device.
    SentReads, "sent_reads";
    /// Sent: system calls that sent them.
    SentCalls, "sent_calls";
    /// Sent: dropped, neither IPv4 nor IPv6, or headers that contradict each other.
    SentMalformed, "sent_malformed";
    /// Sent: dropped, a destination that no node has leased.
    SentNoRoute, "sent_no_route";
    /// Sent: in fragments, larger than what the wire takes; the sender was told.
    SentTooBig, "sent_too_big";
    /// Sent: dropped, time to live at its end; the sender was told.
    SentTimeExceeded, "sent_time_exceeded";
    /// Sent: dropped, the kernel had no room for it.
    SentNoRoom, "sent_no_room";
    /// Sent: dropped, the kernel refused it: no route to the node, for one.
    SentRefused, "sent_refused";

    /// Received: packets from the wire that were handed on.
    ReceivedPackets, "received_packets";
    /// Received: their octets, inner headers included.
    ReceivedBytes, "received_bytes";
    /// Received: system calls that received them.
    ReceivedCalls, "received_calls";
    /// Received: super-packets and packets written to the device.
    ReceivedWrites, "received_writes";
    /// Received: dropped, too short, or headers that contradict each other.
    ReceivedMalformed, "received_malformed";
    /// Received: dropped, VXLAN flags that are not ours.
    ReceivedFlags, "received_vxlan_flags";
    /// Received: dropped, another network identifier.
    ReceivedVni, "received_vni";
    /// Received: dropped, inner frame not for our VTEP address.
    ReceivedMac, "received_vtep_mac";
    /// Received: dropped, neither IPv4 nor IPv6 inside.
    ReceivedProtocol, "received_protocol";
    /// Received: dropped, the outer source is not the node that leased the inner source.
    ReceivedForged, "received_forged";
    /// Received: dropped, congestion marks that RFC 6040 wants dropped.
    ReceivedEcn, "received_ecn";
    /// Received: dropped, time to live at its end.
    ReceivedTimeExceeded, "received_time_exceeded";
    /// Received: dropped, the device would not take it.
    ReceivedRefused, "received_refused";
    /// Received: dropped by the kernel, the socket's buffer was full.
    ReceivedOverflow, "received_overflow";
    /// Received: dropped by the socket's filter during a flood of what is refused.
    ReceivedFiltered, "received_filtered";

    /// ICMP messages to senders.
    IcmpSent, "icmp_sent";
    /// ICMP messages left out, because there were too many.
    IcmpSpared, "icmp_spared";
}

/// One thread's counters; only that thread adds.
#[derive(Debug)]
pub(super) struct Counts([AtomicU64; Counter::ALL.len()]);

impl Default for Counts {
    fn default() -> Self {
        Self([const { AtomicU64::new(0) }; Counter::ALL.len()])
    }
}

impl Counts {
    pub(super) fn add(&self, counter: Counter, many: u64) {
        let slot = &self.0[counter as usize];
        // One writer: no need for a locked instruction.
        slot.store(slot.load(Ordering::Relaxed).wrapping_add(many), Ordering::Relaxed);
    }

    pub(super) fn get(&self, counter: Counter) -> u64 {
        self.0[counter as usize].load(Ordering::Relaxed)
    }
}

/// How an engine fares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statistics {
    counts: [u64; Counter::ALL.len()],
    /// What is in use of what was allowed.
    pub offloads: Offloads,
    /// Queues, and threads.
    pub queues: usize,
}

impl Statistics {
    pub(super) fn new<'a>(counts: impl IntoIterator<Item = &'a Counts>, offloads: Offloads, queues: usize) -> Self {
        let mut sums = [0; Counter::ALL.len()];
        for counts in counts {
            for counter in Counter::ALL {
                sums[counter as usize] += counts.get(counter);
            }
        }
        Self { counts: sums, offloads, queues }
    }

    pub fn get(&self, counter: Counter) -> u64 {
        self.counts[counter as usize]
    }

    /// All of them, in the order of output.
    pub fn counts(&self) -> impl Iterator<Item = (Counter, u64)> {
        Counter::ALL.into_iter().zip(self.counts)
    }
}
