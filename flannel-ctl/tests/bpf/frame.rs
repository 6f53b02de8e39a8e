//! Frames as containers and the kernel's VXLAN device make them, written without a look at the programs.

use std::net::IpAddr;

use flannel_common::{Address, Tuple};

pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;

/// What a checksum field holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Checksum {
    Right,
    /// UDP: none.
    Zero,
    Wrong,
}

/// One packet of a container, and the Ethernet header before it.
#[derive(Clone, Debug)]
pub(crate) struct Inner {
    pub(crate) ethernet: ([u8; 6], [u8; 6]),
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    pub(crate) ports: (u16, u16),
    pub(crate) protocol: u8,
    pub(crate) tos: u8,
    pub(crate) ttl: u8,
    pub(crate) id: u16,
    /// IPv4's flags and fragment offset.
    pub(crate) fragment: u16,
    pub(crate) label: u32,
    /// IPv4's, a multiple of four.
    pub(crate) options: Vec<u8>,
    /// An IPv6 extension header of eight octets of this type.
    pub(crate) extension: Option<u8>,
    pub(crate) sequence: (u32, u32),
    pub(crate) flags: u8,
    pub(crate) tcp_options: Vec<u8>,
    pub(crate) payload: Vec<u8>,
    pub(crate) checksum: Checksum,
    pub(crate) header_checksum: Checksum,
    /// Added to what the IP header says of the length.
    pub(crate) lie: i16,
    /// Added to what the UDP header says of the length.
    pub(crate) udp_lie: i16,
}

impl Inner {
    pub(crate) fn new(source: IpAddr, destination: IpAddr, protocol: u8) -> Self {
        Self {
            ethernet: ([2, 0, 0, 0, 9, 1], [2, 0, 0, 0, 9, 7]),
            source,
            destination,
            ports: (40_000, 5_201),
            protocol,
            tos: 0,
            ttl: 64,
            id: 0x1234,
            fragment: 0x4000,
            label: 0,
            options: Vec::new(),
            extension: None,
            sequence: (1_000, 2_000),
            flags: 0x10,
            tcp_options: Vec::new(),
            payload: b"hello, other side".to_vec(),
            checksum: Checksum::Right,
            header_checksum: Checksum::Right,
            lie: 0,
            udp_lie: 0,
        }
    }

    pub(crate) fn tuple(&self) -> Tuple {
        Tuple {
            source: Address::from(self.source),
            destination: Address::from(self.destination),
            source_port: self.ports.0.to_be(),
            destination_port: self.ports.1.to_be(),
            protocol: self.protocol.into(),
        }
    }

    /// One router later.
    pub(crate) fn forwarded(&self) -> Self {
        Self { ttl: self.ttl - 1, ..self.clone() }
    }

    /// With other addresses and ports.
    pub(crate) fn translated(&self, source: IpAddr, destination: IpAddr, ports: (u16, u16)) -> Self {
        Self { source, destination, ports, ..self.clone() }
    }

    /// The answer to it.
    pub(crate) fn reversed(&self) -> Self {
        self.translated(self.destination, self.source, (self.ports.1, self.ports.0))
    }

    /// Octets before the payload, from IP on.
    pub(crate) fn headers(&self) -> usize {
        let transport = match self.protocol {
            TCP => 20 + self.tcp_options.len(),
            UDP => 8,
            _ => 0,
        };
        let extension = if self.extension.is_some() { 8 } else { 0 };
        transport + if self.source.is_ipv4() { 20 + self.options.len() } else { 40 + extension }
    }

    pub(crate) fn frame(&self) -> Vec<u8> {
        let kind: [u8; 2] = if self.source.is_ipv4() { [0x08, 0x00] } else { [0x86, 0xdd] };
        [&self.ethernet.0[..], &self.ethernet.1, &kind, &self.packet()].concat()
    }

    /// From IP on.
    pub(crate) fn packet(&self) -> Vec<u8> {
        let transport = self.transport();
        let mut packet = match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let words = 5 + self.options.len() / 4;
                let total = length(4 * words + transport.len(), self.lie);
                let mut header = vec![0x40 | u8::try_from(words).unwrap(), self.tos];
                header.extend(total.to_be_bytes());
                header.extend(self.id.to_be_bytes());
                header.extend(self.fragment.to_be_bytes());
                header.extend([self.ttl, self.protocol, 0, 0]);
                header.extend(source.octets());
                header.extend(destination.octets());
                header.extend(&self.options);
                let sum = !sum(&header) ^ u16::from(self.header_checksum != Checksum::Right);
                header[10..12].copy_from_slice(&sum.to_be_bytes());
                header
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let extension = if self.extension.is_some() { 8 } else { 0 };
                let first = 6 << 28 | u32::from(self.tos) << 20 | self.label;
                let mut header = first.to_be_bytes().to_vec();
                header.extend(length(transport.len() + extension, self.lie).to_be_bytes());
                header.extend([self.extension.unwrap_or(self.protocol), self.ttl]);
                header.extend(source.octets());
                header.extend(destination.octets());
                if self.extension.is_some() {
                    header.extend([self.protocol, 0, 1, 4, 0, 0, 0, 0]);
                }
                header
            }
            _ => panic!("two families in one packet"),
        };
        packet.extend(transport);
        packet
    }

    fn transport(&self) -> Vec<u8> {
        let mut segment = Vec::new();
        let at = match self.protocol {
            TCP => {
                segment.extend(self.ports.0.to_be_bytes());
                segment.extend(self.ports.1.to_be_bytes());
                segment.extend(self.sequence.0.to_be_bytes());
                segment.extend(self.sequence.1.to_be_bytes());
                let words = u8::try_from(5 + self.tcp_options.len() / 4).unwrap();
                segment.extend([words << 4, self.flags, 0x20, 0, 0, 0, 0, 0]);
                segment.extend(&self.tcp_options);
                16
            }
            UDP => {
                segment.extend(self.ports.0.to_be_bytes());
                segment.extend(self.ports.1.to_be_bytes());
                segment.extend(length(8 + self.payload.len(), self.udp_lie).to_be_bytes());
                segment.extend([0, 0]);
                6
            }
            _ => {
                segment.extend(&self.payload);
                return segment;
            }
        };
        segment.extend(&self.payload);
        if self.checksum == Checksum::Zero {
            return segment;
        }
        let mut right =
            !sum(&[pseudo(self.source, self.destination, self.protocol, segment.len()), segment.clone()].concat());
        if self.protocol == UDP && right == 0 {
            right = 0xffff;
        }
        let value = if self.checksum == Checksum::Wrong { right ^ 0x0101 } else { right };
        segment[at..at + 2].copy_from_slice(&value.to_be_bytes());
        segment
    }
}

fn length(real: usize, lie: i16) -> u16 {
    u16::try_from(real).unwrap().wrapping_add_signed(lie)
}

/// What the transport checksum covers before the segment.
pub(crate) fn pseudo(source: IpAddr, destination: IpAddr, protocol: u8, length: usize) -> Vec<u8> {
    let octets = |address: IpAddr| match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    let length = u32::try_from(length).unwrap().to_be_bytes();
    [octets(source), octets(destination), length.to_vec(), vec![0, 0, 0, protocol]].concat()
}

/// RFC 1071, sixteen bits at a time.
pub(crate) fn sum(octets: &[u8]) -> u16 {
    let mut sum = 0_u32;
    for pair in octets.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).unwrap()
}

/// What goes before an inner frame.
#[derive(Clone, Debug)]
pub(crate) struct Outer {
    pub(crate) ethernet: ([u8; 6], [u8; 6]),
    pub(crate) inner_ethernet: ([u8; 6], [u8; 6]),
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    pub(crate) ports: (u16, u16),
    pub(crate) tos: u8,
    pub(crate) id: u16,
    pub(crate) udp_checksum: u16,
    /// The first word of VXLAN.
    pub(crate) flags: u32,
    /// The second.
    pub(crate) vni: u32,
}

impl Outer {
    /// Octets before the inner IP header.
    pub(crate) fn room(&self) -> usize {
        14 + if self.source.is_ipv4() { 20 } else { 40 } + 16 + 14
    }

    pub(crate) fn around(&self, inner: &Inner) -> Vec<u8> {
        let inner = Inner { ethernet: self.inner_ethernet, ..inner.clone() };
        self.around_frame(&inner.frame())
    }

    pub(crate) fn around_frame(&self, inner: &[u8]) -> Vec<u8> {
        let mut datagram = Vec::new();
        datagram.extend(self.ports.0.to_be_bytes());
        datagram.extend(self.ports.1.to_be_bytes());
        datagram.extend(u16::try_from(16 + inner.len()).unwrap().to_be_bytes());
        datagram.extend(self.udp_checksum.to_be_bytes());
        datagram.extend(self.flags.to_be_bytes());
        datagram.extend((self.vni << 8).to_be_bytes());
        datagram.extend(inner);
        let carrier = Inner {
            ethernet: self.ethernet,
            tos: self.tos,
            id: self.id,
            fragment: 0,
            ..Inner::new(self.source, self.destination, UDP)
        };
        // The transport header and all is this carrier's payload, as of a protocol without one.
        let mut frame = Inner { protocol: 0xfd, payload: datagram, ..carrier }.frame();
        let at = if self.source.is_ipv4() { 14 + 9 } else { 14 + 6 };
        frame[at] = UDP;
        right_outer_checksum(&mut frame);
        frame
    }
}

/// After a change to the outer IPv4 header.
pub(crate) fn right_outer_checksum(frame: &mut [u8]) {
    if frame[12..14] == [0x08, 0x00] {
        frame[24..26].fill(0);
        let sum = !sum(&frame[14..34]);
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
    }
}
