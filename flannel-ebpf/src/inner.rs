//! The packets that containers exchange: which of them may take the fast path at all, and what they say.

use flannel_common::{Address, Counter, Tuple};

use crate::checksum;

/// Octets of an Ethernet header.
pub const ETHERNET: u32 = 14;
/// `ETH_P_IP`.
pub const IPV4: u16 = 0x0800;
/// `ETH_P_IPV6`.
pub const IPV6: u16 = 0x86dd;

const TCP: u32 = 6;
const UDP: u32 = 17;

/// Words of the transport header that are looked at: all of TCP's fixed part.
pub const TRANSPORT_WORDS: usize = 5;

/// What a packet says of itself, in host byte order except for [`Tuple`] and [`Mark`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inner {
    pub tuple: Tuple,
    /// Octets from the IP header on.
    pub total: u32,
    /// Octets of IP and transport header.
    pub headers: u32,
    /// Type of service, traffic class.
    pub tos: u8,
    /// Time to live, hop limit.
    pub ttl: u8,
    pub mark: Mark,
}

impl Inner {
    /// DSCP in the type of service's place.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "a BPF-to-BPF call costs stack that the programs do not have")]
    pub const fn dscp(&self) -> u8 {
        self.tos & 0xfc
    }

    /// Octets of the largest packet that it will be cut into, by segments of so much payload; 0: it is not cut.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "a BPF-to-BPF call costs stack that the programs do not have")]
    pub const fn largest(&self, segment: u32) -> u32 {
        if segment == 0 { self.total } else { self.headers + segment }
    }
}

/// By what one packet is known again on its way through the host's stack: fields that nobody rewrites who only
/// translates addresses and ports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Mark(pub [u32; 4]);

impl Mark {
    /// The first two words for an IPv4 packet of `length` octets, whatever it carries.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "a BPF-to-BPF call costs stack that the programs do not have")]
    pub const fn of_ipv4(ip: &[u32; 5], length: u32) -> [u32; 2] {
        [ip[1], length]
    }

    /// The same for IPv6.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "a BPF-to-BPF call costs stack that the programs do not have")]
    pub const fn of_ipv6(ip: &[u32; 10], length: u32) -> [u32; 2] {
        [u32::from_be(ip[0]) & 0xf_ffff, length]
    }
}

/// Why a packet is none for the fast path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decline {
    Malformed,
    Options,
    Fragment,
    Protocol,
    Ttl,
    /// TCP SYN, FIN or RST: what is known of this flow ends here.
    Control(Tuple),
}

impl Decline {
    /// What it counts as on the way into the tunnel.
    pub const fn egress(self) -> Counter {
        match self {
            Self::Malformed => Counter::EgressMalformed,
            Self::Options => Counter::EgressOptions,
            Self::Fragment => Counter::EgressFragment,
            Self::Protocol => Counter::EgressProtocol,
            Self::Ttl => Counter::EgressTtl,
            Self::Control(_) => Counter::EgressControl,
        }
    }

    /// What it counts as on the way out of the tunnel.
    pub const fn ingress(self) -> Counter {
        match self {
            Self::Malformed => Counter::IngressMalformed,
            Self::Options => Counter::IngressOptions,
            Self::Fragment => Counter::IngressFragment,
            Self::Protocol => Counter::IngressProtocol,
            Self::Ttl => Counter::IngressTtl,
            Self::Control(_) => Counter::IngressControl,
        }
    }
}

/// Reads an IPv4 packet of `length` octets.
#[inline(always)]
#[expect(clippy::inline_always, reason = "a BPF-to-BPF call costs stack that the programs do not have")]
pub fn ipv4(ip: &[u32; 5], transport: &[u32; TRANSPORT_WORDS], length: u32) -> Result<Inner, Decline> {
    let first = u32::from_be(ip[0]);
    let second = u32::from_be(ip[1]);
    let third = u32::from_be(ip[2]);
    let total = first & 0xffff;
    if first >> 24 != 0x45 {
        return Err(if first >> 28 == 4 && first >> 24 & 0xf > 5 { Decline::Options } else { Decline::Malformed });
    }
    // Anything but "don't fragment".
    if second & 0xbfff != 0 {
        return Err(Decline::Fragment);
    }
    if total != length || checksum::fold(checksum::sum(ip)) != 0xffff {
        return Err(Decline::Malformed);
    }
    let inner = Inner {
        tuple: tuple(Address::v4(ip[3]), Address::v4(ip[4]), transport[0], third >> 16 & 0xff),
        total,
        headers: 20,
        tos: octet(first >> 16),
        ttl: octet(third >> 24),
        mark: Mark([ip[1], total, 0, 0]),
    };
    with_transport(inner, transport)
}

/// Reads an IPv6 packet of `length` octets.
#[inline(always)]
#[expect(clippy::inline_always, reason = "a BPF-to-BPF call costs stack that the programs do not have")]
pub fn ipv6(ip: &[u32; 10], transport: &[u32; TRANSPORT_WORDS], length: u32) -> Result<Inner, Decline> {
    let first = u32::from_be(ip[0]);
    let second = u32::from_be(ip[1]);
    let total = (second >> 16) + 40;
    if first >> 28 != 6 || total != length {
        return Err(Decline::Malformed);
    }
    let protocol = second >> 8 & 0xff;
    match protocol {
        44 => return Err(Decline::Fragment),
        0 | 43 | 51 | 60 | 135 | 139 | 140 => return Err(Decline::Options),
        _ => {}
    }
    let source = Address([ip[2], ip[3], ip[4], ip[5]]);
    // On the wire they are nobody's (RFC 4291, 2.5.5.2), and among the flows they are IPv4's.
    if source.is_v4() {
        return Err(Decline::Malformed);
    }
    let inner = Inner {
        tuple: tuple(source, Address([ip[6], ip[7], ip[8], ip[9]]), transport[0], protocol),
        total,
        headers: 40,
        tos: octet(first >> 20),
        ttl: octet(second),
        mark: Mark([first & 0xf_ffff, total, 0, 0]),
    };
    with_transport(inner, transport)
}

#[inline(always)]
#[expect(clippy::inline_always, reason = "a BPF-to-BPF call costs stack that the programs do not have")]
fn with_transport(mut inner: Inner, transport: &[u32; TRANSPORT_WORDS]) -> Result<Inner, Decline> {
    let rest = inner.total.wrapping_sub(inner.headers);
    if inner.tuple.protocol == TCP {
        let control = u32::from_be(transport[3]);
        let length = (control >> 28) * 4;
        if length < 20 || inner.total < inner.headers || rest < length {
            return Err(Decline::Malformed);
        }
        // Acknowledges, and is no SYN, FIN or RST.
        if control >> 16 & 0b1_0111 != 0b1_0000 {
            let ends = control >> 16 & 0b111 != 0;
            return Err(if ends { Decline::Control(inner.tuple) } else { Decline::Malformed });
        }
        inner.headers += length;
        inner.mark.0[2] = transport[1];
        inner.mark.0[3] = transport[2];
    } else if inner.tuple.protocol == UDP {
        let length = u32::from_be(transport[1]) >> 16;
        if inner.total < inner.headers || rest < 8 || length != rest {
            return Err(Decline::Malformed);
        }
        inner.headers += 8;
        // The payload's first octets: the checksum changes with the addresses.
        inner.mark.0[2] = transport[2];
        inner.mark.0[3] = transport[3];
    } else {
        return Err(Decline::Protocol);
    }
    // Whoever is to be told that a packet's time is over is told by the stack.
    if inner.ttl <= 1 {
        return Err(Decline::Ttl);
    }
    Ok(inner)
}

/// Ports are the first word of both transport headers.
#[inline(always)]
#[expect(clippy::inline_always, reason = "a BPF-to-BPF call costs stack that the programs do not have")]
const fn tuple(source: Address, destination: Address, ports: u32, protocol: u32) -> Tuple {
    let [a, b, c, d] = ports.to_ne_bytes();
    Tuple {
        source,
        destination,
        source_port: u16::from_ne_bytes([a, b]),
        destination_port: u16::from_ne_bytes([c, d]),
        protocol,
    }
}

/// The IPv4 header that leaves: addresses of `tuple`, another type of service, one hop less to go.
#[inline(always)]
#[expect(clippy::inline_always, reason = "a BPF-to-BPF call costs stack that the programs do not have")]
pub fn forwarded_ipv4(ip: &[u32; 5], tuple: &Tuple, tos: u8) -> [u32; 5] {
    let first = (u32::from_be(ip[0]) & 0xff00_ffff) | (u32::from(tos) << 16);
    let third = (u32::from_be(ip[2]) & 0xffff_0000) - 0x0100_0000;
    let (source, destination) = (tuple.source.v4_word(), tuple.destination.v4_word());
    let sum = !checksum::fold(checksum::sum(&[first.to_be(), ip[1], third.to_be(), source, destination]));
    let third = third | u32::from(u16::from_be(sum));
    [first.to_be(), ip[1], third.to_be(), source, destination]
}

/// The same for IPv6, which has no checksum.
#[inline(always)]
#[expect(clippy::inline_always, reason = "a BPF-to-BPF call costs stack that the programs do not have")]
pub fn forwarded_ipv6(ip: &[u32; 10], tuple: &Tuple, tos: u8) -> [u32; 10] {
    let first = (u32::from_be(ip[0]) & 0xf00f_ffff) | (u32::from(tos) << 20);
    let second = u32::from_be(ip[1]) - 1;
    let (from, to) = (tuple.source.0, tuple.destination.0);
    [first.to_be(), second.to_be(), from[0], from[1], from[2], from[3], to[0], to[1], to[2], to[3]]
}

#[expect(clippy::cast_possible_truncation, reason = "the other bits belong to other fields")]
const fn octet(word: u32) -> u8 {
    word as u8
}

#[cfg(test)]
mod tests;
