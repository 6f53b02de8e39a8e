//! What a sender is told when its packet cannot go on (RFC 792, RFC 1191, RFC 4443), and how often.
//!
//! Time is an argument: since any fixed moment.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use super::{
    checksum,
    layout::{self, ICMP, ICMPV6, Layout},
};
use crate::model::Family;

/// The longest message: IPv6 quotes as much as fits its smallest MTU.
pub const MAX: usize = 1280;
/// RFC 1812, 4.3.2.3: as much as fits what every host takes.
const MAX_V4: usize = 576;
const ICMP_HEADER: usize = 8;
const HOPS: u8 = 64;
/// Precedence "internetwork control", as the kernel's errors have.
const TOS: u8 = 0xc0;

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Problem {
    /// Longer than the tunnel takes, and not to be fragmented.
    TooBig {
        /// What it takes.
        mtu: u16,
    },
    /// No node has the destination.
    NoRoute,
    /// Its time to live is over.
    TimeExceeded,
}

/// Writes the message about `packet`, from our address `from`, to the beginning of `out`: its octets. None: the packet is
/// of a kind that is not answered (RFC 1122, 3.2.2; RFC 4443, 2.4), or `from` of the other family.
pub fn write(problem: Problem, packet: &[u8], from: IpAddr, out: &mut [u8; MAX]) -> Option<usize> {
    let layout = Layout::of(packet).ok()?;
    let packet = packet.get(..layout.total)?;
    let (source, destination) =
        layout.addresses(packet).split_at_checked(layout::addresses(layout.family).len() / 2)?;
    if !answers_reach(source) || refers_to_many(destination, problem) || is_error(&layout, packet) {
        return None;
    }
    let header_len = layout::header_len(layout.family);
    let most = match layout.family {
        Family::V4 => MAX_V4,
        Family::V6 => MAX,
    };
    let quoted = packet.get(..packet.len().min(most - header_len - ICMP_HEADER))?;
    let total = header_len + ICMP_HEADER + quoted.len();
    let message = out.get_mut(..total)?;
    let (header, body) = message.split_at_mut(header_len);
    let (kind, code, rest) = numbers(problem, layout.family);
    let (icmp, quote) = body.split_at_mut(ICMP_HEADER);
    quote.copy_from_slice(quoted);
    icmp.copy_from_slice(&[kind, code, 0, 0, rest[0], rest[1], rest[2], rest[3]]);
    let length = u16::try_from(total).ok()?;
    let covered = match (layout.family, from) {
        (Family::V4, IpAddr::V4(from)) => {
            let [l0, l1] = length.to_be_bytes();
            header[..12].copy_from_slice(&[0x45, TOS, l0, l1, 0, 0, 0x40, 0, HOPS, ICMP, 0, 0]);
            header[12..16].copy_from_slice(&from.octets());
            header[16..].copy_from_slice(source);
            let complete = checksum::finish(checksum::sum(header, 0));
            header[10..12].copy_from_slice(&complete);
            0
        }
        (Family::V6, IpAddr::V6(from)) => {
            let [l0, l1] = (length - 40).to_be_bytes();
            header[..8].copy_from_slice(&[0x60, 0, 0, 0, l0, l1, ICMPV6, HOPS]);
            header[8..24].copy_from_slice(&from.octets());
            header[24..].copy_from_slice(source);
            checksum::pseudo(&header[8..40], ICMPV6) + checksum::length(total - 40)
        }
        (Family::V4 | Family::V6, _) => return None,
    };
    let complete = checksum::finish(checksum::sum(body, covered));
    body[2..4].copy_from_slice(&complete);
    Some(total)
}

/// Type, code, and what comes behind the checksum.
fn numbers(problem: Problem, family: Family) -> (u8, u8, [u8; 4]) {
    let mtu = |mtu: u16| {
        let [high, low] = mtu.to_be_bytes();
        [0, 0, high, low]
    };
    match (problem, family) {
        (Problem::TooBig { mtu: size }, Family::V4) => (3, 4, mtu(size)),
        (Problem::TooBig { mtu: size }, Family::V6) => (2, 0, mtu(size.max(1280))),
        (Problem::NoRoute, Family::V6) => (1, 0, [0; 4]),
        (Problem::TimeExceeded, Family::V4) => (11, 0, [0; 4]),
        (Problem::NoRoute, Family::V4) | (Problem::TimeExceeded, Family::V6) => (3, 0, [0; 4]),
    }
}

/// Whether a source is one host's address.
fn answers_reach(source: &[u8]) -> bool {
    match address(source) {
        Some(IpAddr::V4(source)) => {
            !(source.octets()[0] == 0 || source.is_loopback() || source.is_multicast() || source.octets()[0] >= 240)
        }
        Some(IpAddr::V6(source)) => !(source.is_unspecified() || source.is_loopback() || source.is_multicast()),
        None => false,
    }
}

/// Groups are told of nothing, but IPv6's that packets are too big.
fn refers_to_many(destination: &[u8], problem: Problem) -> bool {
    match address(destination) {
        Some(IpAddr::V4(destination)) => destination.is_multicast() || destination.is_broadcast(),
        Some(IpAddr::V6(destination)) => destination.is_multicast() && !matches!(problem, Problem::TooBig { .. }),
        None => true,
    }
}

/// Whether it is about an error itself, or a fragment of which nobody knows.
fn is_error(layout: &Layout, packet: &[u8]) -> bool {
    let kind = packet.get(layout.transport).copied();
    match layout.family {
        Family::V4 => {
            let not_first = packet.get(6..8).is_none_or(|offset| (offset[0] & 0x1f, offset[1]) != (0, 0));
            not_first || layout.protocol == ICMP && matches!(kind, None | Some(3 | 4 | 5 | 11 | 12))
        }
        Family::V6 => layout.protocol == ICMPV6 && (layout.fragment || kind.is_none_or(|kind| kind < 128)),
    }
}

fn address(octets: &[u8]) -> Option<IpAddr> {
    match octets.len() {
        4 => octets.first_chunk::<4>().map(|octets| Ipv4Addr::from(*octets).into()),
        16 => octets.first_chunk::<16>().map(|octets| Ipv6Addr::from(*octets).into()),
        _ => None,
    }
}

/// Keeps messages few: in all, and to each sender. Of fixed size.
#[derive(Debug)]
pub struct Limiter {
    all: Bucket,
    senders: Box<[Bucket]>,
}

/// In all: the kernel's own limits since 6.2 or so (`net.ipv4.icmp_msgs_per_sec`, `icmp_msgs_burst`).
const ALL: Rate = Rate { interval: Duration::from_millis(1), burst: 50 };
/// To one sender: enough for every connection to learn its MTU within moments.
const SENDER: Rate = Rate { interval: Duration::from_millis(50), burst: 10 };
const SENDERS: usize = 256;

#[derive(Clone, Copy, Debug)]
struct Rate {
    interval: Duration,
    burst: u32,
}

/// When all tokens will be back; the generic cell rate algorithm of ITU-T I.371.
#[derive(Clone, Copy, Debug, Default)]
struct Bucket(Duration);

impl Bucket {
    fn has_some(self, rate: Rate, now: Duration) -> bool {
        self.0.saturating_sub(now) <= rate.interval * (rate.burst - 1)
    }

    fn take(&mut self, rate: Rate, now: Duration) {
        self.0 = self.0.max(now) + rate.interval;
    }
}

impl Default for Limiter {
    fn default() -> Self {
        Self { all: Bucket::default(), senders: vec![Bucket::default(); SENDERS].into() }
    }
}

impl Limiter {
    /// Whether the sender of `packet` may be told something now. Senders may share a limit, by chance.
    pub fn allows(&mut self, packet: &[u8], now: Duration) -> bool {
        let source = match packet.first().map(|first| first >> 4) {
            Some(4) => packet.get(12..16),
            Some(6) => packet.get(8..24),
            _ => None,
        };
        let Some(source) = source else { return false };
        let hash =
            source.iter().fold(0x811c_9dc5_u32, |hash, octet| (hash ^ u32::from(*octet)).wrapping_mul(0x0100_0193));
        let Some(sender) = self.senders.get_mut((hash ^ hash >> 16) as usize % SENDERS) else { return false };
        let allowed = self.all.has_some(ALL, now) && sender.has_some(SENDER, now);
        if allowed {
            self.all.take(ALL, now);
            sender.take(SENDER, now);
        }
        allowed
    }
}

#[cfg(test)]
#[path = "icmp_tests.rs"]
mod tests;
