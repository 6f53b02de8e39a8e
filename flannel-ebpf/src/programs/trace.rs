//! Tells of chosen packets. Off, there is nothing of it left in the loaded programs.

use core::ptr;

use aya_ebpf::{bindings::BPF_RB_NO_WAKEUP, maps::ring_buf::RingBufEntry};
use flannel_common::{Address, Counter, TRACE_NOTHING, TraceFilter, TraceRecord};
use flannel_ebpf::inner::{ETHERNET, IPV4, IPV6};

use super::now;
use crate::{maps::TRACE, packet::Packet};

const NOBODY: Address = Address([0; 4]);

/// Written by the loader, and read-only from then on.
#[unsafe(no_mangle)]
static TRACE_FILTER: TraceFilter =
    TraceFilter { ask: 0, protocol: 0, port: 0, either: NOBODY, source: NOBODY, destination: NOBODY };

/// Where a program meets packets, in the order of [`TraceRecord::program`].
#[derive(Clone, Copy)]
pub(super) enum At {
    PodIngress,
    PodEgress,
    UplinkIngress,
    UplinkEgress,
    VtepIngress,
}

/// A packet to be told of, or nothing.
pub(super) struct Trace(Option<RingBufEntry<TraceRecord>>);

impl Trace {
    /// Looks at a packet before its program does.
    #[inline(always)]
    pub(super) fn begin(packet: Packet, at: At) -> Self {
        if asked(ASK) == 0 {
            return Self(None);
        }
        let Some(mut entry) = TRACE.reserve_untyped::<TraceRecord>(0) else { return Self(None) };
        let record = entry.as_mut_ptr();
        if capture(packet, record) && wanted(packet, record, at) {
            // SAFETY: the kernel has reserved the record for us.
            unsafe {
                (*record).time = now();
                (*record).program = at as u32;
                (*record).interface = packet.interface();
                (*record).length = packet.length();
            }
            return Self(Some(entry));
        }
        entry.discard(u64::from(BPF_RB_NO_WAKEUP));
        Self(None)
    }

    /// Tells what became of it.
    #[inline(always)]
    pub(super) fn end(self, reason: Option<Counter>, verdict: i32) {
        if let Some(mut entry) = self.0 {
            let record = entry.as_mut_ptr();
            // SAFETY: as above.
            unsafe {
                (*record).reason = match reason {
                    Some(counter) => counter.slot(),
                    None => TRACE_NOTHING,
                };
                (*record).verdict = verdict;
            }
            entry.submit(0);
        }
    }
}

/// As much of the packet as there is, in steps: IPv6, IPv4 and nothing in the tunnel.
#[inline(always)]
fn capture(packet: Packet, record: *mut TraceRecord) -> bool {
    // SAFETY: the kernel has reserved the record for us.
    let octets = unsafe { (&raw mut (*record).octets).cast::<u8>() };
    let captured = if packet.copy(octets, 128) {
        128
    } else if packet.copy(octets, 92) {
        92
    } else if packet.copy(octets, 42) {
        42
    } else {
        return false;
    };
    // SAFETY: as above.
    unsafe { (*record).captured = captured };
    true
}

#[inline(always)]
fn wanted(packet: Packet, record: *const TraceRecord, at: At) -> bool {
    const IP: usize = ETHERNET as usize;
    const TUNNELLED_V4: usize = IP + 20 + 8 + 8 + 14;
    const TUNNELLED_V6: usize = IP + 40 + 8 + 8 + 14;
    let tunnel = matches!(at, At::UplinkIngress | At::UplinkEgress);
    match (packet.protocol(), tunnel) {
        (IPV4, false) => is_v4::<IP>(record),
        (IPV4, true) => octet(record, IP + 9) == 17 && is_v4::<TUNNELLED_V4>(record),
        (IPV6, false) => is_v6::<IP>(record),
        (IPV6, true) => octet(record, IP + 6) == 17 && is_v6::<TUNNELLED_V6>(record),
        _ => false,
    }
}

#[inline(always)]
fn is_v4<const AT: usize>(record: *const TraceRecord) -> bool {
    let fits = |field: usize, at: usize| asked(field + 2) == MAPPED && asked(field + 3) == word(record, at);
    is_flow(u32::from(octet(record, AT + 9)), word(record, AT + 20)) && addresses_fit(AT + 12, AT + 16, fits)
}

#[inline(always)]
fn is_v6<const AT: usize>(record: *const TraceRecord) -> bool {
    let fits = |field: usize, at: usize| (0..4).all(|i| asked(field + i) == word(record, at + 4 * i));
    is_flow(u32::from(octet(record, AT + 6)), word(record, AT + 40)) && addresses_fit(AT + 8, AT + 24, fits)
}

#[inline(always)]
fn is_flow(protocol: u32, ports: u32) -> bool {
    let [a, b, c, d] = ports.to_ne_bytes();
    let port = |one: u8, two: u8| u32::from(u16::from_ne_bytes([one, two])) == asked(PORT);
    (asked(PROTOCOL) == 0 || asked(PROTOCOL) == protocol) && (asked(PORT) == 0 || port(a, b) || port(c, d))
}

#[inline(always)]
fn addresses_fit(source: usize, destination: usize, fits: impl Fn(usize, usize) -> bool) -> bool {
    let asks = |bit| asked(ASK) & bit != 0;
    (!asks(TraceFilter::EITHER) || fits(EITHER, source) || fits(EITHER, destination))
        && (!asks(TraceFilter::SOURCE) || fits(SOURCE, source))
        && (!asks(TraceFilter::DESTINATION) || fits(DESTINATION, destination))
}

/// Which word of [`TraceFilter`] is what.
const ASK: usize = 0;
const PROTOCOL: usize = 1;
const PORT: usize = 2;
const EITHER: usize = 3;
const SOURCE: usize = 7;
const DESTINATION: usize = 11;
/// The third word of an IPv4-mapped address.
const MAPPED: u32 = u32::from_be(0x0000_ffff);

/// A word of the filter, as the loader wrote it.
#[inline(always)]
fn asked(word: usize) -> u32 {
    // SAFETY: inside of a static of ours, which is all words.
    unsafe { ptr::read_volatile((&raw const TRACE_FILTER).cast::<u32>().add(word)) }
}

#[inline(always)]
fn octet(record: *const TraceRecord, at: usize) -> u8 {
    // SAFETY: inside of the record; what was not captured belongs to an older one.
    unsafe { (&raw const (*record).octets).cast::<u8>().add(at).read() }
}

/// Four octets as they lie in memory.
#[inline(always)]
fn word(record: *const TraceRecord, start: usize) -> u32 {
    // SAFETY: as above.
    unsafe { (&raw const (*record).octets).cast::<u8>().add(start).cast::<u32>().read_unaligned() }
}
