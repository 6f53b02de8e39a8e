//! What stands before an inner packet in a datagram.

use std::fmt;

use crate::model::{Family, Mac, Wire};

/// Octets of VXLAN header and inner Ethernet header.
const VXLAN_ROOM: usize = VXLAN + ETHERNET;
const VXLAN: usize = 8;
const ETHERNET: usize = 14;
/// RFC 7348: a network identifier is there. Linux takes no other flag unless told to (`vxlan_rcv`, `drivers/net/vxlan/vxlan_core.c`).
const HAS_VNI: u8 = 0x08;
const IPV4: [u8; 2] = 0x0800_u16.to_be_bytes();
const IPV6: [u8; 2] = 0x86dd_u16.to_be_bytes();

/// Why a datagram is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WireFault {
    /// Shorter than its headers say.
    Short,
    /// VXLAN flags or reserved bits that Linux does not take either.
    Flags,
    /// Another network's.
    Vni,
    /// The inner frame is for another address.
    Mac,
    /// Neither IPv4 nor IPv6 inside, or not what the frame says.
    Protocol,
}

impl Wire {
    pub fn port(&self) -> u16 {
        match *self {
            Self::Vxlan { port, .. } | Self::Raw { port } => port,
        }
    }

    /// Whether each side takes one from the time to live.
    pub const fn is_hop(&self) -> bool {
        matches!(self, Self::Raw { .. })
    }

    /// Octets before the inner packet.
    pub const fn room(&self) -> usize {
        match self {
            Self::Vxlan { .. } => VXLAN_ROOM,
            Self::Raw { .. } => 0,
        }
    }

    /// Octets that the tunnel adds to an inner packet, outer headers of this family included.
    pub const fn overhead(&self, outer: Family) -> u32 {
        match self {
            Self::Vxlan { .. } => outer.vxlan_overhead(),
            Self::Raw { .. } => outer.udp_overhead(),
        }
    }

    /// Fills the room before a packet of this family to a peer.
    ///
    /// # Panics
    /// If there is less room than [`Wire::room`].
    pub fn write(&self, room: &mut [u8], peer: Mac, inner: Family) {
        if let Self::Vxlan { vni, mac, .. } = self {
            let [_, high, middle, low] = vni.to_be_bytes();
            room[..VXLAN].copy_from_slice(&[HAS_VNI, 0, 0, 0, high, middle, low, 0]);
            room[VXLAN..VXLAN + 6].copy_from_slice(&peer.0);
            room[VXLAN + 6..VXLAN + 12].copy_from_slice(&mac.0);
            room[VXLAN + 12..VXLAN_ROOM].copy_from_slice(match inner {
                Family::V4 => &IPV4,
                Family::V6 => &IPV6,
            });
        }
    }

    /// The inner packet, if the datagram is one for us.
    pub fn strip<'a>(&self, datagram: &'a [u8]) -> Result<&'a [u8], WireFault> {
        let family = |packet: &[u8]| match packet.first() {
            Some(first) if first >> 4 == 4 => Ok(Family::V4),
            Some(first) if first >> 4 == 6 => Ok(Family::V6),
            Some(_) => Err(WireFault::Protocol),
            None => Err(WireFault::Short),
        };
        match self {
            Self::Raw { .. } => match family(datagram)? {
                Family::V4 => Ok(datagram),
                Family::V6 => Err(WireFault::Protocol),
            },
            Self::Vxlan { vni, mac, .. } => {
                let Some((headers, packet)) = datagram.split_first_chunk::<VXLAN_ROOM>() else {
                    return Err(WireFault::Short);
                };
                if headers[..4] != [HAS_VNI, 0, 0, 0] || headers[7] != 0 {
                    return Err(WireFault::Flags);
                }
                if headers[4..7] != vni.to_be_bytes()[1..] {
                    return Err(WireFault::Vni);
                }
                if headers[VXLAN..VXLAN + 6] != mac.0 {
                    return Err(WireFault::Mac);
                }
                match (&headers[VXLAN + 12..], family(packet)?) {
                    (kind, Family::V4) if *kind == IPV4 => Ok(packet),
                    (kind, Family::V6) if *kind == IPV6 => Ok(packet),
                    _ => Err(WireFault::Protocol),
                }
            }
        }
    }
}

impl fmt::Display for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vxlan { vni, port, .. } => write!(f, "VXLAN network {vni}, UDP port {port}"),
            Self::Raw { port } => write!(f, "raw IPv4, UDP port {port}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WIRE: Wire = Wire::Vxlan { vni: 0x01_02_03, port: 8472, mac: Mac([2, 0, 0, 0, 0, 1]) };
    const PEER: Wire = Wire::Vxlan { vni: 0x01_02_03, port: 8472, mac: Mac([2, 0, 0, 0, 0, 9]) };

    fn datagram(first: u8, family: Family) -> Vec<u8> {
        let mut datagram = vec![0; VXLAN_ROOM + 20];
        PEER.write(&mut datagram, Mac([2, 0, 0, 0, 0, 1]), family);
        datagram[VXLAN_ROOM] = first;
        datagram
    }

    #[test]
    fn what_one_side_writes_the_other_takes() {
        for (first, family) in [(0x45, Family::V4), (0x60, Family::V6)] {
            let sent = datagram(first, family);
            assert_eq!(WIRE.strip(&sent), Ok(&sent[VXLAN_ROOM..]));
        }
        let sent = datagram(0x45, Family::V4);
        assert_eq!(sent[..8], [8, 0, 0, 0, 1, 2, 3, 0], "RFC 7348's header");
        assert_eq!(sent[8..22], [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 9, 8, 0]);
    }

    #[test]
    fn every_octet_that_is_checked_is_checked() {
        let good = datagram(0x45, Family::V4);
        for (octet, fault) in [
            (0, WireFault::Flags),
            (1, WireFault::Flags),
            (3, WireFault::Flags),
            (4, WireFault::Vni),
            (6, WireFault::Vni),
            (7, WireFault::Flags),
            (8, WireFault::Mac),
            (13, WireFault::Mac),
            (20, WireFault::Protocol),
            (21, WireFault::Protocol),
            (22, WireFault::Protocol),
        ] {
            let mut bad = good.clone();
            bad[octet] ^= 0x20;
            assert_eq!(WIRE.strip(&bad), Err(fault), "octet {octet}");
        }
        assert_eq!(WIRE.strip(&good[..VXLAN_ROOM]), Err(WireFault::Short));
        assert_eq!(WIRE.strip(&good[..5]), Err(WireFault::Short));
    }

    #[test]
    fn raw_is_ipv4_and_nothing_else() {
        let raw = Wire::Raw { port: 8285 };
        assert_eq!(raw.strip(&[0x45, 1]), Ok(&[0x45, 1][..]));
        assert_eq!(raw.strip(&[0x60, 1]), Err(WireFault::Protocol));
        assert_eq!(raw.strip(&[]), Err(WireFault::Short));
        assert_eq!((raw.room(), raw.overhead(Family::V4)), (0, 28));
    }
}
