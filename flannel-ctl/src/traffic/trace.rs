//! A traced packet in words.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use flannel_common::{Counter, TraceRecord};
use serde::Serialize;

use super::protocol;
use crate::model::Family;

/// The programs by [`TraceRecord::program`], and whether they meet tunnel packets.
const PROGRAMS: [(&str, bool); 5] = [
    ("pod_ingress", false),
    ("pod_egress", false),
    ("uplink_ingress", true),
    ("uplink_egress", true),
    ("vtep_ingress", false),
];

/// One packet at one program. Field names are an interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Told {
    /// Nanoseconds of the monotonic clock.
    pub time: u64,
    pub program: &'static str,
    pub interface: String,
    /// IP protocol number.
    pub protocol: u8,
    pub source: IpAddr,
    /// TCP and UDP only.
    pub source_port: Option<u16>,
    pub destination: IpAddr,
    pub destination_port: Option<u16>,
    /// From the Ethernet header on, as the program got it.
    pub length: u32,
    /// `next`: left to whoever comes next, in the end the stack; `redirect`, `drop`.
    pub verdict: &'static str,
    /// A counter's name; `None`: there was nothing to decide or learn.
    pub reason: Option<&'static str>,
}

impl Told {
    /// `None`: not a packet that the programs tell of.
    pub fn of(record: &TraceRecord, name: impl Fn(u32) -> Option<String>) -> Option<Self> {
        let (program, tunnel) = *PROGRAMS.get(record.program as usize)?;
        let octets = record.octets.get(..record.captured as usize)?;
        let v4 = octets.get(12..14)? == [8, 0];
        // A family's tunnel carries that family.
        let family = if v4 { Family::V4 } else { Family::V6 };
        let ip = octets.get(14 + if tunnel { family.vxlan_overhead() as usize } else { 0 }..)?;
        let (protocol, source, destination, ports): (u8, IpAddr, IpAddr, _) = if v4 {
            let address = |at: usize| Some(Ipv4Addr::from(<[u8; 4]>::try_from(ip.get(at..at + 4)?).ok()?));
            (*ip.get(9)?, address(12)?.into(), address(16)?.into(), ip.get(20..24)?)
        } else {
            let address = |at: usize| Some(Ipv6Addr::from(<[u8; 16]>::try_from(ip.get(at..at + 16)?).ok()?));
            (*ip.get(6)?, address(8)?.into(), address(24)?.into(), ip.get(40..44)?)
        };
        let port = |at: usize| matches!(protocol, 6 | 17).then(|| u16::from_be_bytes([ports[at], ports[at + 1]]));
        Some(Self {
            time: record.time,
            program,
            interface: name(record.interface).unwrap_or_else(|| record.interface.to_string()),
            protocol,
            source,
            source_port: port(0),
            destination,
            destination_port: port(2),
            length: record.length,
            verdict: match record.verdict {
                2 => "drop",
                7 => "redirect",
                _ => "next",
            },
            reason: Counter::ALL.get(record.reason as usize).map(|counter| counter.label()),
        })
    }

    /// One line.
    pub fn line(&self) -> String {
        let end = |ip: IpAddr, port: Option<u16>| {
            port.map_or_else(|| ip.to_string(), |port| SocketAddr::new(ip, port).to_string())
        };
        let number = self.protocol;
        let protocol = protocol::name(number).map_or_else(|| format!("protocol {number}"), str::to_owned);
        let (seconds, rest) = (self.time / 1_000_000_000, self.time / 1000 % 1_000_000);
        format!(
            "{seconds}.{rest:06} {} {}: {protocol} {} > {}, {} bytes: {}, {}",
            self.interface,
            self.program,
            end(self.source, self.source_port),
            end(self.destination, self.destination_port),
            self.length,
            self.verdict,
            self.reason.unwrap_or("nothing to learn"),
        )
    }
}

#[cfg(test)]
mod tests {
    use bytemuck::Zeroable as _;
    use flannel_common::TRACE_NOTHING;

    use super::*;

    /// At `program`, with an IPv4 packet at `ip`.
    fn record(program: u32, ip: usize, reason: u32) -> TraceRecord {
        let mut record = TraceRecord {
            time: 12_345_678_901,
            program,
            interface: 7,
            length: 110,
            captured: 92,
            reason,
            verdict: -1,
            ..TraceRecord::zeroed()
        };
        record.octets[12] = 8;
        record.octets[ip + 9] = 17;
        record.octets[ip + 12..ip + 20].copy_from_slice(&[10, 5, 1, 2, 10, 5, 2, 9]);
        record.octets[ip + 20..ip + 24].copy_from_slice(&[0x0f, 0xa0, 0, 53]);
        record
    }

    fn line(record: &TraceRecord) -> Option<String> {
        Told::of(record, |index| (index == 7).then(|| "veth7".to_owned())).map(|told| told.line())
    }

    #[test]
    fn packets_are_told_with_program_and_reason() {
        let at_pod = record(0, 14, Counter::EgressUnpaired.slot());
        let wanted = "12.345678 veth7 pod_ingress: udp 10.5.1.2:4000 > 10.5.2.9:53, 110 bytes: next, egress_one_way";
        assert_eq!(line(&at_pod).as_deref(), Some(wanted));
        let at_uplink = TraceRecord { verdict: 7, ..record(3, 64, TRACE_NOTHING) };
        let wanted =
            "12.345678 veth7 uplink_egress: udp 10.5.1.2:4000 > 10.5.2.9:53, 110 bytes: redirect, nothing to learn";
        assert_eq!(line(&at_uplink).as_deref(), Some(wanted));
    }

    #[test]
    fn what_cannot_be_read_is_not_told() {
        let good = record(3, 64, 0);
        for bad in [
            TraceRecord { program: 5, ..good },
            TraceRecord { captured: 42, ..good },
            TraceRecord { captured: 4000, ..good },
        ] {
            assert_eq!(line(&bad), None);
        }
    }
}
