//! A filter at a receiving socket, while very much comes that is not for this node.
//!
//! What the thread refuses has had it woken, has taken room in the socket's buffer, and has kept the trains among it apart. A filter has
//! it dropped where it comes in. It does not say why, and it knows no peers: so it is there only during such a flood, and every second
//! the thread sees for itself whether that goes on.

use std::time::{Duration, Instant};

use socket2::SockFilter;

use super::Wire;

/// So many refused datagrams within so long are a flood.
const MANY: u32 = 1000;
const WINDOW: Duration = Duration::from_millis(50);
/// How long the filter stays.
pub(super) const WHILE: Duration = Duration::from_secs(1);

/// When a socket has its filter.
#[derive(Debug)]
pub(super) struct Sieve {
    /// Where it is there.
    until: Option<Instant>,
    begin: Instant,
    refused: u32,
}

impl Sieve {
    pub(super) const fn new(now: Instant) -> Self {
        Self { until: None, begin: now, refused: 0 }
    }

    pub(super) const fn is_in(&self) -> bool {
        self.until.is_some()
    }

    /// After so many were refused: whether the filter has to come, or to go.
    pub(super) fn refused(&mut self, now: Instant, many: u32) -> Option<bool> {
        if let Some(until) = self.until {
            if now < until {
                return None;
            }
            *self = Self::new(now);
            return Some(false);
        }
        if now.saturating_duration_since(self.begin) > WINDOW {
            *self = Self::new(now);
        }
        self.refused += many;
        (self.refused >= MANY).then(|| {
            self.until = Some(now + WHILE);
            true
        })
    }
}

/// Octets of the UDP header, with which a filter's datagram begins.
const UDP: u32 = 8;
const DROP: SockFilter = SockFilter::new(RETURN, 0, 0, 0);
const TAKE: SockFilter = SockFilter::new(RETURN, 0, 0, u32::MAX);
// linux/bpf_common.h: class, size and mode, or operation and source.
const LOAD_WORD: u16 = 0x20;
const LOAD_HALF: u16 = 0x28;
const LOAD_OCTET: u16 = 0x30;
const LOAD_LENGTH: u16 = 0x80;
const ADD: u16 = 0x04;
const AND: u16 = 0x54;
const TO_X: u16 = 0x07;
const IF_EQUAL: u16 = 0x15;
const IF_AT_LEAST_X: u16 = 0x3d;
const RETURN: u16 = 0x06;

/// Takes whatever [`Wire::strip`] does, unless its IP header says that octets are missing; and nothing else. A load from behind the end
/// drops. Of a train, the first datagram speaks for all.
pub(super) fn program(wire: &Wire) -> Vec<SockFilter> {
    match *wire {
        Wire::Raw { .. } => packet(UDP, 0x40, 2, 0).into(),
        Wire::Vxlan { vni, mac, .. } => {
            const ETHERNET: u32 = UDP + 8;
            const INNER: u32 = ETHERNET + 14;
            let [m0, m1, m2, m3, m4, m5] = mac.0;
            let headers = [
                equal(LOAD_WORD, UDP, 0x0800_0000),
                equal(LOAD_WORD, UDP + 4, vni << 8),
                equal(LOAD_WORD, ETHERNET, u32::from_be_bytes([m0, m1, m2, m3])),
                equal(LOAD_HALF, ETHERNET + 4, u16::from_be_bytes([m4, m5]).into()),
            ];
            let v4 = packet(INNER, 0x40, 2, 0);
            let mut program: Vec<_> = headers.into_iter().flatten().collect();
            program.push(SockFilter::new(LOAD_HALF, 0, 0, ETHERNET + 12));
            program.push(SockFilter::new(IF_EQUAL, 0, v4.len().to_le_bytes()[0], 0x0800));
            program.extend(v4);
            program.extend(equal(LOAD_HALF, ETHERNET + 12, 0x86dd));
            program.extend(packet(INNER, 0x60, 4, 40));
            program
        }
    }
}

/// Drops what has something else there.
const fn equal(load: u16, at: u32, value: u32) -> [SockFilter; 3] {
    [SockFilter::new(load, 0, 0, at), SockFilter::new(IF_EQUAL, 1, 0, value), DROP]
}

/// Takes an IP packet of this version; where its length is, and what is not counted in it.
const fn packet(at: u32, version: u32, length: u32, besides: u32) -> [SockFilter; 11] {
    [
        SockFilter::new(LOAD_OCTET, 0, 0, at),
        SockFilter::new(AND, 0, 0, 0xf0),
        SockFilter::new(IF_EQUAL, 1, 0, version),
        DROP,
        SockFilter::new(LOAD_HALF, 0, 0, at + length),
        SockFilter::new(ADD, 0, 0, at + besides),
        SockFilter::new(TO_X, 0, 0, 0),
        SockFilter::new(LOAD_LENGTH, 0, 0, 0),
        SockFilter::new(IF_AT_LEAST_X, 0, 1, 0),
        TAKE,
        DROP,
    ]
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use socket2::SockRef;

    use super::*;
    use crate::model::{Family, Mac};

    const VXLAN: Wire = Wire::Vxlan { vni: 0x01_02_03, port: 8472, mac: Mac([2, 0x80, 3, 0xf4, 5, 0xc6]) };

    /// With lengths that are right.
    fn good(wire: &Wire, family: Family) -> Vec<u8> {
        let mut datagram = vec![0; wire.room()];
        if let Wire::Vxlan { vni, port, mac } = *wire {
            let peer = Wire::Vxlan { vni, port, mac: Mac([2, 0, 0, 0, 0, 9]) };
            peer.write(&mut datagram, mac, family);
        }
        let mut packet = [0; 60];
        match family {
            Family::V4 => packet[..4].copy_from_slice(&[0x45, 0, 0, 60]),
            Family::V6 => packet[..6].copy_from_slice(&[0x60, 0, 0, 0, 0, 20]),
        }
        datagram.extend(packet);
        datagram
    }

    #[test]
    fn the_filter_takes_what_the_thread_takes() {
        let (here, there) = (UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
        here.connect(there.local_addr().unwrap()).unwrap();
        there.set_nonblocking(true).unwrap();
        for wire in [VXLAN, Wire::Raw { port: 8285 }] {
            SockRef::from(&there).attach_filter(&program(&wire)).unwrap();
            let mut taken = 0;
            for family in Family::ALL {
                let good = good(&wire, family);
                let cut = (0..=good.len()).map(|octets| good[..octets].to_vec());
                // The first header octets of the packet as well: version and length.
                let bent = (0..(wire.room() + 6) * 8).map(|bit| {
                    let mut bad = good.clone();
                    bad[bit / 8] ^= 1 << (bit % 8);
                    bad
                });
                for datagram in cut.chain(bent) {
                    let whole = |packet: &&[u8]| {
                        let length =
                            |at: usize| Some(usize::from(u16::from_be_bytes([*packet.get(at)?, *packet.get(at + 1)?])));
                        let says = if packet[0] >> 4 == 4 { length(2) } else { length(4).map(|octets| octets + 40) };
                        says.is_some_and(|octets| octets <= packet.len())
                    };
                    let wanted = wire.strip(&datagram).ok().as_ref().is_some_and(whole);
                    here.send(&datagram).unwrap();
                    // Over the loopback a datagram has come when its send returns.
                    let came = there.recv(&mut [0; 100]).is_ok();
                    assert_eq!(came, wanted, "{wire}: {datagram:02x?}");
                    taken += usize::from(came);
                }
            }
            assert!(taken > 10, "{wire}: {taken}");
        }
    }

    #[test]
    fn it_comes_with_a_flood_and_goes_to_see_whether_that_is_over() {
        let start = Instant::now();
        let mut sieve = Sieve::new(start);
        // Now and then a few: many, but not within a short time.
        for at in 0..100 {
            assert_eq!(sieve.refused(start + WINDOW * 2 * at, MANY - 1), None);
        }
        let begin = start + WINDOW * 200;
        assert_eq!(sieve.refused(begin, MANY / 2), None);
        assert_eq!(sieve.refused(begin + WINDOW / 2, MANY / 2), Some(true));
        assert!(sieve.is_in());
        assert_eq!(sieve.refused(begin + WHILE, 0), None);
        let end = begin + WINDOW / 2 + WHILE;
        assert_eq!(sieve.refused(end, 1), Some(false));
        assert!(!sieve.is_in());
        assert_eq!(sieve.refused(end, MANY), Some(true), "it goes on");
    }
}
