//! Single packets as programs saw them, for whoever asked.

use bytemuck::{Pod, Zeroable};

use crate::Address;

/// Name of the ring buffer of [`TraceRecord`]s.
pub const TRACE_MAP: &str = "TRACE";

/// Name of the read-only variable that holds the [`TraceFilter`]. It is set before the programs are loaded: with tracing off,
/// the verifier takes all of it out of them.
pub const TRACE_FILTER: &str = "TRACE_FILTER";

/// Which packets to tell of. All of it are words, which the programs read one by one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct TraceFilter {
    /// 0: tell of none; else what has to fit, as bits.
    pub ask: u32,
    /// IP protocol number; 0: any.
    pub protocol: u32,
    /// Of either end, network byte order; 0: any.
    pub port: u32,
    /// Of either end.
    pub either: Address,
    /// Who sends.
    pub source: Address,
    /// Who receives.
    pub destination: Address,
}

impl TraceFilter {
    /// In [`Self::ask`]: tell of packets at all.
    pub const ON: u32 = 1;
    /// In [`Self::ask`]: [`Self::either`] counts.
    pub const EITHER: u32 = 2;
    /// In [`Self::ask`]: [`Self::source`] counts.
    pub const SOURCE: u32 = 4;
    /// In [`Self::ask`]: [`Self::destination`] counts.
    pub const DESTINATION: u32 = 8;
}

/// How much of a packet is told, at most.
pub const TRACE_OCTETS: usize = 128;

/// Reason of a [`TraceRecord`] where a program saw nothing to decide.
pub const TRACE_NOTHING: u32 = u32::MAX;

/// One packet at one program.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct TraceRecord {
    /// Nanoseconds of the monotonic clock.
    pub time: u64,
    /// Which program, by the order in which `flannel-ebpf` lists them.
    pub program: u32,
    /// Interface index.
    pub interface: u32,
    /// Octets of the packet from the Ethernet header on.
    pub length: u32,
    /// Octets of it below.
    pub captured: u32,
    /// [`crate::Counter`] by slot, or [`TRACE_NOTHING`].
    pub reason: u32,
    /// What the program returned.
    pub verdict: i32,
    /// The packet's first octets, before the program changed it.
    pub octets: [u8; TRACE_OCTETS],
}
