//! Packets to test with, built the plain way: nothing here uses what is tested but the sum.

use std::num::NonZeroU16;

use super::{
    checksum,
    layout::{
        self, TCP, UDP,
        flags::{ACK, CWR, FIN, PSH},
    },
    virtio::{Gso, GsoKind, PartialChecksum, VirtioHeader},
};
use crate::model::Family;

/// A TCP or UDP packet's fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::userspace) struct Packet {
    pub(in crate::userspace) family: Family,
    pub(in crate::userspace) protocol: u8,
    /// The last octet of either address.
    pub(in crate::userspace) hosts: [u8; 2],
    pub(in crate::userspace) ports: [u16; 2],
    pub(in crate::userspace) tos: u8,
    pub(in crate::userspace) ttl: u8,
    pub(in crate::userspace) id: u16,
    pub(in crate::userspace) df: bool,
    /// IPv4 options or IPv6 extension headers, with their first protocol number.
    pub(in crate::userspace) ip_options: Vec<u8>,
    pub(in crate::userspace) sequence: u32,
    pub(in crate::userspace) acknowledgement: u32,
    pub(in crate::userspace) flags: u8,
    pub(in crate::userspace) window: u16,
    pub(in crate::userspace) options: Vec<u8>,
    pub(in crate::userspace) payload: Vec<u8>,
}

impl Default for Packet {
    fn default() -> Self {
        Self {
            family: Family::V4,
            protocol: TCP,
            hosts: [1, 2],
            ports: [40_000, 5201],
            tos: 0,
            ttl: 63,
            id: 7,
            df: true,
            ip_options: Vec::new(),
            sequence: 1000,
            acknowledgement: 77,
            flags: ACK,
            window: 502,
            options: [1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2].to_vec(),
            payload: vec![0xa5; 100],
        }
    }
}

impl Packet {
    pub(in crate::userspace) fn udp(payload: &[u8]) -> Self {
        Self { protocol: UDP, payload: payload.to_vec(), ..Self::default() }
    }

    pub(in crate::userspace) fn header_len(&self) -> usize {
        self.transport() + if self.protocol == TCP { 20 + self.options.len() } else { 8 }
    }

    pub(in crate::userspace) fn transport(&self) -> usize {
        layout::header_len(self.family) + self.ip_options.len()
    }

    /// The packet with right checksums.
    pub(in crate::userspace) fn octets(&self) -> Vec<u8> {
        let mut octets = self.partial();
        let (transport, field) = (self.transport(), self.field());
        octets[field..field + 2].fill(0);
        let pseudo = checksum::pseudo(&octets[layout::addresses(self.family)], self.protocol);
        let sum = checksum::sum(&octets[transport..], pseudo + checksum::length(octets.len() - transport));
        let complete = if self.protocol == UDP { checksum::finish_udp(sum) } else { checksum::finish(sum) };
        octets[field..field + 2].copy_from_slice(&complete);
        octets
    }

    /// Where the transport's checksum is.
    pub(in crate::userspace) fn field(&self) -> usize {
        self.transport() + if self.protocol == TCP { 16 } else { 6 }
    }

    /// With no more than the pseudo header's sum in the checksum's place.
    pub(in crate::userspace) fn partial(&self) -> Vec<u8> {
        let transport = self.transport();
        let total = self.header_len() + self.payload.len();
        let short = |value: usize| u16::try_from(value).unwrap().to_be_bytes();
        let mut octets = match self.family {
            Family::V4 => {
                let mut header = vec![0x40 | u8::try_from(transport / 4).unwrap(), self.tos];
                header.extend(short(total));
                header.extend(self.id.to_be_bytes());
                header.extend([if self.df { 0x40 } else { 0 }, 0, self.ttl, self.protocol, 0, 0]);
                header.extend([10, 42, 0, self.hosts[0], 10, 42, 1, self.hosts[1]]);
                header.extend(&self.ip_options);
                let sum = checksum::finish(checksum::sum(&header, 0));
                header[10..12].copy_from_slice(&sum);
                header
            }
            Family::V6 => {
                let mut header = vec![0x60 | self.tos >> 4, self.tos << 4 | 1, 2, 3];
                header.extend(short(total - 40));
                // Destination options, where there are any.
                header.extend([if self.ip_options.is_empty() { self.protocol } else { 60 }, self.ttl]);
                for host in self.hosts {
                    header.extend([0xfd, 0, 0, 42, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, host]);
                }
                header.extend(&self.ip_options);
                header
            }
        };
        octets.extend(self.ports[0].to_be_bytes());
        octets.extend(self.ports[1].to_be_bytes());
        if self.protocol == TCP {
            octets.extend(self.sequence.to_be_bytes());
            octets.extend(self.acknowledgement.to_be_bytes());
            octets.extend([u8::try_from((20 + self.options.len()) / 4).unwrap() << 4, self.flags]);
            octets.extend(self.window.to_be_bytes());
            octets.extend([0; 4]);
            octets.extend(&self.options);
        } else {
            octets.extend(short(total - transport));
            octets.extend([0; 2]);
        }
        let pseudo = checksum::pseudo(&octets[layout::addresses(self.family)], self.protocol);
        let sum = checksum::fold(pseudo + checksum::length(total - transport)).to_ne_bytes();
        octets[self.field()..self.field() + 2].copy_from_slice(&sum);
        octets.extend(&self.payload);
        octets
    }

    /// What the device says of it if it is to be cut into segments of `size` octets of payload; 0: not at all.
    pub(in crate::userspace) fn virtio(&self, size: u16) -> VirtioHeader {
        let kind = match (self.protocol, self.family) {
            (TCP, Family::V4) => GsoKind::Tcp4,
            (TCP, Family::V6) => GsoKind::Tcp6,
            _ => GsoKind::Udp,
        };
        let start = u16::try_from(self.transport()).unwrap();
        let offset = u16::try_from(self.field()).unwrap() - start;
        let ecn = self.protocol == TCP && self.flags & CWR != 0;
        VirtioHeader {
            checksum: Some(PartialChecksum { start, offset }),
            gso: NonZeroU16::new(size).map(|size| Gso { kind, size, ecn }),
            header_len: u16::try_from(self.header_len()).unwrap(),
        }
    }

    /// The train that this packet stands for, by what the protocols' definitions say.
    pub(in crate::userspace) fn train(&self, size: usize) -> Vec<Vec<u8>> {
        let chunks: Vec<&[u8]> = self.payload.chunks(size).collect();
        let mut packets = Vec::new();
        for (at, chunk) in chunks.iter().enumerate() {
            let mut packet = self.clone();
            packet.payload = chunk.to_vec();
            packet.id = self.id.wrapping_add(u16::try_from(at).unwrap());
            packet.sequence = self.sequence.wrapping_add(u32::try_from(at * size).unwrap());
            if at != 0 {
                packet.flags &= !CWR;
            }
            if at + 1 != chunks.len() {
                packet.flags &= !(FIN | PSH);
            }
            packets.push(packet.octets());
        }
        packets
    }
}
