//! From an Ethernet frame to the UDP port that it is for.

const ETHERNET: usize = 14;
const ETHERTYPE: usize = 12;
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const IPV6_HEADER: usize = 40;
const UDP: u16 = 17;
const UDP_DESTINATION: usize = 2;

/// The destination port of the frame's outermost UDP header.
///
/// `load` gives two octets at an offset from the start of the frame as they are on the wire, read as
/// a big-endian number, or nothing past the end. `None` for everything that is not plainly UDP: other
/// protocols, later fragments, a second VLAN tag, IPv6 extension headers.
#[inline(always)]
#[expect(clippy::inline_always, reason = "a BPF-to-BPF call costs stack that the programs do not have")]
pub fn udp_destination(load: impl Fn(usize) -> Option<u16>) -> Option<u16> {
    let header = match load(ETHERTYPE)? {
        IPV4 => {
            let version_and_length = load(ETHERNET)? >> 8;
            let length = usize::from(version_and_length & 0xf) * 4;
            let fragment_offset = load(ETHERNET + 6)? & 0x1fff;
            let protocol = load(ETHERNET + 8)? & 0xff;
            if version_and_length >> 4 != 4 || length < 20 || fragment_offset != 0 || protocol != UDP {
                return None;
            }
            length
        }
        IPV6 if load(ETHERNET + 6)? >> 8 == UDP => IPV6_HEADER,
        _ => return None,
    };
    load(ETHERNET + header + UDP_DESTINATION)
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::{vec, vec::Vec};

    fn destination(frame: &[u8]) -> Option<u16> {
        udp_destination(|at| Some(u16::from_be_bytes(frame.get(at..at + 2)?.try_into().ok()?)))
    }

    fn frame(ethertype: u16, ip: &[u8], udp_port: u16) -> Vec<u8> {
        let mut frame = vec![0; ETHERTYPE];
        frame.extend(ethertype.to_be_bytes());
        frame.extend(ip);
        frame.extend([0, 0]);
        frame.extend(udp_port.to_be_bytes());
        frame
    }

    fn ipv4(version_and_length: u8, fragment: u16, protocol: u8) -> Vec<u8> {
        let mut ip = vec![0; usize::from(version_and_length & 0xf) * 4];
        ip[0] = version_and_length;
        ip[6..8].copy_from_slice(&fragment.to_be_bytes());
        ip[9] = protocol;
        ip
    }

    #[test]
    fn udp_is_found_behind_both_ip_headers_and_ipv4_options() {
        assert_eq!(destination(&frame(IPV4, &ipv4(0x45, 0x4000, 17), 8472)), Some(8472));
        assert_eq!(destination(&frame(IPV4, &ipv4(0x47, 0, 17), 4789)), Some(4789));
        let mut ipv6 = [0; 40];
        ipv6[6] = 17;
        assert_eq!(destination(&frame(IPV6, &ipv6, 8472)), Some(8472));
    }

    #[test]
    fn what_is_not_plainly_udp_is_nothing() {
        assert_eq!(destination(&frame(IPV4, &ipv4(0x45, 0, 6), 8472)), None, "TCP");
        assert_eq!(destination(&frame(IPV4, &ipv4(0x45, 0x00b9, 17), 8472)), None, "a later fragment");
        assert_eq!(destination(&frame(IPV4, &ipv4(0x65, 0, 17), 8472)), None, "version 6 under IPv4's type");
        assert_eq!(destination(&frame(0x0806, &[0; 28], 8472)), None, "ARP");
        assert_eq!(destination(&frame(IPV6, &[0; 40], 8472)), None, "hop-by-hop options");
    }

    #[test]
    fn every_truncation_is_nothing() {
        let whole = frame(IPV4, &ipv4(0x46, 0, 17), 8472);
        for length in 0..whole.len() {
            assert_eq!(destination(&whole[..length]), None, "{length} of {} octets", whole.len());
        }
    }
}
