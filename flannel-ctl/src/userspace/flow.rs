//! What the way of an inner packet depends on.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use flannel_common::ecn;

use super::packet::layout::{self, Layout};
use crate::model::Family;

/// The parts of a packet that decide where it goes, and by which port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Flow {
    pub(super) family: Family,
    pub(super) destination: IpAddr,
    /// Of addresses, and of ports where there are some: the same for all packets of a flow.
    pub(super) hash: u32,
    /// The outer packet's type of service: the congestion mark, and nothing else.
    pub(super) outer_tos: u8,
    /// Does not leave in a train with others. What one train brings, a peer's kernel takes through connection tracking step by step for all
    /// together, so each is the first of its flow. It makes one of them for TCP and UDP (`nf_ct_resolve_clash`,
    /// `net/netfilter/nf_conntrack_core.c`, 6.18), but of echo requests it drops all but one.
    pub(super) alone: bool,
}

impl Flow {
    /// Of a packet with a whole IP header.
    #[inline]
    pub(super) fn of(packet: &[u8]) -> Option<Self> {
        let (family, destination, tos, seed) = match packet.first()? >> 4 {
            4 => {
                let header = packet.first_chunk::<20>()?;
                let (source, destination) = (word(header, 12), word(header, 16));
                let seed = mix(u64::from(source) << 32 | u64::from(destination), u64::from(header[9]));
                (Family::V4, Ipv4Addr::from_bits(destination).into(), header[1], seed)
            }
            6 => {
                let header = packet.first_chunk::<40>()?;
                let (source, destination) = (wide(header, 8), wide(header, 24));
                let seed = mix(halves(source), halves(destination));
                (Family::V6, Ipv6Addr::from_bits(destination).into(), header[0] << 4 | header[1] >> 4, seed)
            }
            _ => return None,
        };
        let (protocol, ports) = transport(packet);
        let hash = (mix(seed, ports) >> 32) as u32;
        let alone = matches!(protocol, layout::ICMP | layout::ICMPV6);
        Some(Self { family, destination, hash, outer_tos: ecn::encapsulate(tos), alone })
    }
}

/// The source address of a packet with a whole IP header.
#[inline]
pub(super) fn source(packet: &[u8]) -> Option<IpAddr> {
    match packet.first()? >> 4 {
        4 => packet.first_chunk::<20>().map(|header| Ipv4Addr::from_bits(word(header, 12)).into()),
        6 => packet.first_chunk::<40>().map(|header| Ipv6Addr::from_bits(wide(header, 8)).into()),
        _ => None,
    }
}

/// Protocol and ports. Those of the first fragment only would part it from the others.
fn transport(packet: &[u8]) -> (u8, u64) {
    match Layout::of(packet) {
        Ok(Layout { protocol: protocol @ (layout::TCP | layout::UDP), fragment: false, transport, .. }) => {
            (protocol, packet.get(transport..transport + 4).map_or(0, |ports| u64::from(word(ports, 0))))
        }
        Ok(Layout { protocol, .. }) => (protocol, 0),
        Err(_) => (0, 0),
    }
}

/// A multiplication spreads the bits upwards, the fold brings them back down.
const fn mix(a: u64, b: u64) -> u64 {
    let product = (a ^ b.rotate_left(29)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    product ^ product >> 32
}

#[expect(clippy::cast_possible_truncation, reason = "both halves are used")]
const fn halves(value: u128) -> u64 {
    (value >> 64) as u64 ^ (value as u64).rotate_left(17)
}

fn word(octets: &[u8], at: usize) -> u32 {
    octets.get(at..).and_then(<[u8]>::first_chunk).copied().map_or(0, u32::from_be_bytes)
}

fn wide(octets: &[u8], at: usize) -> u128 {
    octets.get(at..).and_then(<[u8]>::first_chunk).copied().map_or(0, u128::from_be_bytes)
}
