//! What is around them in the tunnel: outer Ethernet, IP, UDP and VXLAN (RFC 7348).

use flannel_common::Address;

use crate::checksum;

/// Octets of UDP and VXLAN header.
pub const UDP_VXLAN: u32 = 16;
/// Octets that encapsulation adds over IPv4: IP, UDP, VXLAN, inner Ethernet.
pub const ROOM_V4: u32 = 20 + UDP_VXLAN + 14;
/// Octets that encapsulation adds over IPv6.
pub const ROOM_V6: u32 = 40 + UDP_VXLAN + 14;

/// VXLAN flags that say "there is a network identifier" and nothing else.
const PLAIN: u32 = 0x0800_0000;

/// The outer headers of a tunnel packet, in host byte order except for the address and the ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outer {
    pub source: Address,
    pub destination: Address,
    /// Both UDP ports as they lie in memory.
    pub ports: u32,
    pub tos: u8,
    pub vni: u32,
    /// The UDP checksum is not zero.
    pub checksummed: bool,
}

/// Why a packet is no plain tunnel packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotPlain {
    /// Not UDP to the tunnel's port.
    Other,
    /// Options, fragments, lengths: the kernel shall see to it.
    Odd,
    /// Group policy, GPE, reserved bits.
    Flags,
}

/// Reads IPv4, UDP and VXLAN of a packet of `length` octets to `port`, which is in network byte order.
#[inline(always)]
#[expect(clippy::inline_always, reason = "a BPF-to-BPF call costs stack that the programs do not have")]
pub fn ipv4(ip: &[u32; 5], rest: &[u32; 4], port: u16, length: u32) -> Result<Outer, NotPlain> {
    let first = u32::from_be(ip[0]);
    let second = u32::from_be(ip[1]);
    if u32::from_be(ip[2]) >> 16 & 0xff != 17 {
        return Err(NotPlain::Other);
    }
    if first >> 24 != 0x45 || second & 0xbfff != 0 {
        return Err(NotPlain::Odd);
    }
    let outer = Outer {
        source: Address::v4(ip[3]),
        destination: Address::v4(ip[4]),
        ports: rest[0],
        tos: (first >> 16 & 0xff) as u8,
        vni: u32::from_be(rest[3]) >> 8,
        checksummed: u32::from_be(rest[1]) & 0xffff != 0,
    };
    let lengths_fit = first & 0xffff == length && checksum::fold(checksum::sum(ip)) == 0xffff;
    udp_vxlan(outer, rest, port, length.wrapping_sub(20), lengths_fit)
}

/// The same for IPv6.
#[inline(always)]
#[expect(clippy::inline_always, reason = "a BPF-to-BPF call costs stack that the programs do not have")]
pub fn ipv6(ip: &[u32; 10], rest: &[u32; 4], port: u16, length: u32) -> Result<Outer, NotPlain> {
    let first = u32::from_be(ip[0]);
    let second = u32::from_be(ip[1]);
    if second >> 8 & 0xff != 17 {
        return Err(NotPlain::Other);
    }
    let outer = Outer {
        source: Address([ip[2], ip[3], ip[4], ip[5]]),
        destination: Address([ip[6], ip[7], ip[8], ip[9]]),
        ports: rest[0],
        tos: (first >> 20 & 0xff) as u8,
        vni: u32::from_be(rest[3]) >> 8,
        checksummed: u32::from_be(rest[1]) & 0xffff != 0,
    };
    let lengths_fit = first >> 28 == 6 && (second >> 16) + 40 == length;
    udp_vxlan(outer, rest, port, length.wrapping_sub(40), lengths_fit)
}

#[inline(always)]
#[expect(clippy::inline_always, reason = "a BPF-to-BPF call costs stack that the programs do not have")]
fn udp_vxlan(outer: Outer, rest: &[u32; 4], port: u16, length: u32, lengths_fit: bool) -> Result<Outer, NotPlain> {
    let [_, _, high, low] = outer.ports.to_ne_bytes();
    if u16::from_ne_bytes([high, low]) != port {
        return Err(NotPlain::Other);
    }
    if !lengths_fit || u32::from_be(rest[1]) >> 16 != length {
        return Err(NotPlain::Odd);
    }
    if u32::from_be(rest[2]) != PLAIN || u32::from_be(rest[3]) & 0xff != 0 {
        return Err(NotPlain::Flags);
    }
    Ok(outer)
}

/// The network identifier of what this node itself sends: that much is enough to count a packet that its kernel has made.
#[inline(always)]
#[expect(clippy::inline_always, reason = "a BPF-to-BPF call costs stack that the programs do not have")]
pub fn network_ipv4(ip: &[u32; 5], rest: &[u32; 4], port: u16) -> Option<u32> {
    network(u32::from_be(ip[2]) >> 16 & 0xff, rest, port)
}

/// The same over IPv6.
#[inline(always)]
#[expect(clippy::inline_always, reason = "a BPF-to-BPF call costs stack that the programs do not have")]
pub fn network_ipv6(ip: &[u32; 10], rest: &[u32; 4], port: u16) -> Option<u32> {
    network(u32::from_be(ip[1]) >> 8 & 0xff, rest, port)
}

#[inline(always)]
#[expect(clippy::inline_always, reason = "a BPF-to-BPF call costs stack that the programs do not have")]
fn network(protocol: u32, rest: &[u32; 4], port: u16) -> Option<u32> {
    let [_, _, high, low] = rest[0].to_ne_bytes();
    (protocol == 17 && u16::from_ne_bytes([high, low]) == port && u32::from_be(rest[2]) == PLAIN)
        .then(|| u32::from_be(rest[3]) >> 8)
}

/// UDP source port for a flow hash, host byte order: the recipe of `udp_flow_src_port`
/// (`include/net/udp.h`, 6.18).
#[inline(always)]
#[expect(clippy::inline_always, reason = "a BPF-to-BPF call costs stack that the programs do not have")]
pub const fn source_port(hash: u32, first: u32, ports: u32) -> u16 {
    let spread = hash ^ (hash << 16);
    #[expect(clippy::cast_possible_truncation, reason = "first + ports is at most 65536")]
    return ((((spread as u64) * (ports as u64)) >> 32) as u32 + first) as u16;
}

#[cfg(test)]
mod tests;
