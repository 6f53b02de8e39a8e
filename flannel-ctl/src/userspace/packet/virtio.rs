//! The header before every packet of a TUN device with `IFF_VNET_HDR` (`struct virtio_net_hdr`,
//! `include/uapi/linux/virtio_net.h`): which checksum is still to be completed, and how to cut a packet that is longer than the MTU.
//!
//! Its 16-bit fields are in the host's byte order, as long as nobody asks the device for another (`TUNSETVNETLE`).

use std::num::NonZeroU16;

/// Octets of the header (`TUNGETVNETHDRSZ` says so, until somebody sets another size).
pub const LEN: usize = 10;

const NEEDS_CSUM: u8 = 1;
const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
const GSO_ECN: u8 = 0x80;

/// What is said about one packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VirtioHeader {
    /// The checksum that is to be completed; none: it is as it shall be.
    pub checksum: Option<PartialChecksum>,
    /// How to cut it; none: not at all.
    pub gso: Option<Gso>,
    /// Octets of headers, a hint. The kernel gives the length of the packet's linear part, which for forwarded packets may be all of it.
    pub header_len: u16,
}

/// Where a checksum is to be put: its field holds the sum of the pseudo header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartialChecksum {
    /// The first octet that is summed, from the packet's beginning.
    pub start: u16,
    /// The checksum's place, from `start`.
    pub offset: u16,
}

/// How a super-packet is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gso {
    /// By which protocol.
    pub kind: GsoKind,
    /// Octets of payload in every segment but the last.
    pub size: NonZeroU16,
    /// The packet's CWR flag belongs to its first segment alone.
    pub ecn: bool,
}

/// The protocols that can be cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GsoKind {
    /// TCP over IPv4.
    Tcp4,
    /// TCP over IPv6.
    Tcp6,
    /// UDP datagrams of equal size, over either (Linux 6.2 for TUN).
    Udp,
}

/// A header that says nothing usable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VirtioError {
    /// Fewer octets than a header.
    #[error("{0} octets are no virtio header")]
    Short(usize),
    /// A way of cutting that was not asked for when the device was set up.
    #[error("cutting of type {0:#04x} is not known")]
    GsoType(u8),
    /// Segments of nothing.
    #[error("segments of size zero")]
    GsoSize,
}

impl VirtioHeader {
    /// Reads the header in front of a packet.
    pub fn parse(octets: &[u8]) -> Result<Self, VirtioError> {
        let Some(&[flags, gso_type, h0, h1, g0, g1, s0, s1, o0, o1]) = octets.first_chunk::<LEN>() else {
            return Err(VirtioError::Short(octets.len()));
        };
        let kind = match gso_type & !GSO_ECN {
            GSO_NONE => None,
            GSO_TCPV4 => Some(GsoKind::Tcp4),
            GSO_TCPV6 => Some(GsoKind::Tcp6),
            GSO_UDP_L4 => Some(GsoKind::Udp),
            _ => return Err(VirtioError::GsoType(gso_type)),
        };
        let gso = kind
            .map(|kind| {
                let size = NonZeroU16::new(u16::from_ne_bytes([g0, g1])).ok_or(VirtioError::GsoSize)?;
                Ok(Gso { kind, size, ecn: gso_type & GSO_ECN != 0 })
            })
            .transpose()?;
        let checksum = (flags & NEEDS_CSUM != 0)
            .then(|| PartialChecksum { start: u16::from_ne_bytes([s0, s1]), offset: u16::from_ne_bytes([o0, o1]) });
        Ok(Self { checksum, gso, header_len: u16::from_ne_bytes([h0, h1]) })
    }

    /// The header as the device wants it.
    pub fn encode(&self) -> [u8; LEN] {
        let [h0, h1] = self.header_len.to_ne_bytes();
        let (flags, checksum) = match self.checksum {
            Some(PartialChecksum { start, offset }) => (NEEDS_CSUM, [start.to_ne_bytes(), offset.to_ne_bytes()]),
            None => (0, [[0; 2]; 2]),
        };
        let (gso_type, [g0, g1]) = match self.gso {
            Some(Gso { kind, size, ecn }) => {
                let kind = match kind {
                    GsoKind::Tcp4 => GSO_TCPV4,
                    GsoKind::Tcp6 => GSO_TCPV6,
                    GsoKind::Udp => GSO_UDP_L4,
                };
                (if ecn { kind | GSO_ECN } else { kind }, size.get().to_ne_bytes())
            }
            None => (GSO_NONE, [0; 2]),
        };
        let [[s0, s1], [o0, o1]] = checksum;
        [flags, gso_type, h0, h1, g0, g1, s0, s1, o0, o1]
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_understood_is_written_again_as_it_was(octets: [u8; LEN]) {
            if let Ok(header) = VirtioHeader::parse(&octets) {
                prop_assert_eq!(VirtioHeader::parse(&header.encode()), Ok(header));
            }
        }
    }

    #[test]
    fn a_plain_packet_has_a_header_of_zeroes() {
        assert_eq!(VirtioHeader::default().encode(), [0; LEN]);
        assert_eq!(VirtioHeader::parse(&[0; LEN]), Ok(VirtioHeader::default()));
        // VIRTIO_NET_HDR_F_DATA_VALID says that nothing is left to do.
        assert_eq!(VirtioHeader::parse(&[2, 0, 0, 0, 0, 0, 0, 0, 0, 0]), Ok(VirtioHeader::default()));
    }

    #[test]
    fn what_was_not_asked_for_is_refused_by_name() {
        assert_eq!(VirtioHeader::parse(&[0; 9]), Err(VirtioError::Short(9)));
        assert_eq!(VirtioHeader::parse(&[0, 3, 0, 0, 8, 8, 0, 0, 0, 0]), Err(VirtioError::GsoType(3)), "UFO");
        assert_eq!(VirtioHeader::parse(&[1, 1, 0, 0, 0, 0, 0, 0, 0, 0]), Err(VirtioError::GsoSize));
    }
}
