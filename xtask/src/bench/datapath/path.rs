//! Which way did the packets go? A mode that the kernel's counters contradict is void.

use std::fs;

use anyhow::{Context as _, Result};
use xtask::lab::Netns;

use super::mode::{Metric, Mode};

/// What a device has counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Traffic {
    pub(super) received_bytes: u64,
    pub(super) received_packets: u64,
    pub(super) sent_bytes: u64,
    pub(super) sent_packets: u64,
}

/// The devices of one node on a packet's way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct NodeTraffic {
    /// The pod's own `eth0`
    pub(super) pod: Traffic,
    /// `flannel.1`
    pub(super) tunnel: Traffic,
    pub(super) wire: Traffic,
}

/// Both nodes, the client's first: since boot, or between two moments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counters {
    pub(super) client: NodeTraffic,
    pub(super) server: NodeTraffic,
}

/// Share of a pod's bytes that a device must have seen to count as on the way. Less than 1: the tail of what was sent in
/// a run without flow control is lost between the devices.
const ALL: f64 = 0.8;
/// Share that learning and looking again from time to time may cost. Other traffic on a node counts in it too.
const ALMOST_NOTHING: f64 = 0.1;
/// A direction with fewer bytes is not judged.
const TOO_FEW: u64 = 20_000;
const ETHERNET: u64 = 14;

impl Traffic {
    fn since(self, before: Self) -> Self {
        Self {
            received_bytes: self.received_bytes.saturating_sub(before.received_bytes),
            received_packets: self.received_packets.saturating_sub(before.received_packets),
            sent_bytes: self.sent_bytes.saturating_sub(before.sent_bytes),
            sent_packets: self.sent_packets.saturating_sub(before.sent_packets),
        }
    }

    /// VXLAN devices count without the Ethernet header that a pod's device counts, and so does a veth device that coalesces.
    fn with_ethernet(self) -> Self {
        Self {
            received_bytes: self.received_bytes + ETHERNET * self.received_packets,
            sent_bytes: self.sent_bytes + ETHERNET * self.sent_packets,
            ..self
        }
    }

    /// Of the device with this name, or nothing if there is none.
    fn read(table: &str, device: &str) -> Self {
        let line = table.lines().find_map(|line| {
            let (name, counters) = line.split_once(':')?;
            (name.trim() == device).then_some(counters)
        });
        let counters: Vec<u64> =
            line.unwrap_or_default().split_whitespace().filter_map(|field| field.parse().ok()).collect();
        match counters[..] {
            [received_bytes, received_packets, _, _, _, _, _, _, sent_bytes, sent_packets, ..] => {
                Self { received_bytes, received_packets, sent_bytes, sent_packets }
            }
            _ => Self::default(),
        }
    }
}

impl NodeTraffic {
    pub(super) fn read(node: &Netns, pod: &Netns, wire: &str) -> Result<Self> {
        let table = |netns: &Netns| -> Result<String> {
            netns.enter(|| fs::read_to_string("/proc/thread-self/net/dev"))?.context("reading the devices' counters")
        };
        let of_node = table(node)?;
        Ok(Self {
            pod: Traffic::read(&table(pod)?, "eth0"),
            tunnel: Traffic::read(&of_node, "flannel.1").with_ethernet(),
            wire: Traffic::read(&of_node, wire).with_ethernet(),
        })
    }

    fn since(self, before: Self) -> Self {
        Self {
            pod: self.pod.since(before.pod),
            tunnel: self.tunnel.since(before.tunnel),
            wire: self.wire.since(before.wire),
        }
    }
}

impl Counters {
    pub(super) fn since(self, before: Self) -> Self {
        Self { client: self.client.since(before.client), server: self.server.since(before.server) }
    }

    /// Client's pod and flannel.1 out, server's in; and back.
    pub(super) fn packets(&self) -> [u64; 8] {
        let (client, server) = (self.client, self.server);
        [
            client.pod.sent_packets,
            client.tunnel.sent_packets,
            server.tunnel.received_packets,
            server.pod.received_packets,
            server.pod.sent_packets,
            server.tunnel.sent_packets,
            client.tunnel.received_packets,
            client.pod.received_packets,
        ]
    }

    /// Mean size of what the server's pod got. A wire counts before it coalesces, so without pods this is unknown.
    pub(super) fn packet_size(&self, mode: Mode) -> Option<f64> {
        let pod = self.server.pod;
        (mode != Mode::Host).then(|| share(pod.received_bytes, pod.received_packets))
    }

    /// Why these counters cannot be those of that mode under that load.
    pub(super) fn contradict(&self, mode: Mode, metric: Metric) -> Option<String> {
        let there = one_way("to the server", self.client, self.server, mode, metric);
        there.or_else(|| one_way("to the client", self.server, self.client, mode, metric))
    }
}

fn one_way(way: &str, from: NodeTraffic, to: NodeTraffic, mode: Mode, metric: Metric) -> Option<String> {
    let wire = from.wire.sent_bytes;
    let (base, name) = if mode == Mode::Host { (wire, "wire") } else { (from.pod.sent_bytes, "pod") };
    if base < TOO_FEW {
        let first = way == "to the server";
        return first.then(|| format!("{way}: the {name} sent only {base} bytes"));
    }
    let received = if mode == Mode::Host { to.wire.received_bytes } else { to.pod.received_bytes };
    let (tunnel_sent, tunnel_received) = (from.tunnel.sent_bytes, to.tunnel.received_bytes);
    let on_the_kernels_way = || {
        vec![
            at_least("flannel.1", tunnel_sent, ALL, name, base),
            at_least("the other flannel.1", tunnel_received, ALL, "other pod", received),
        ]
    };
    let rules = match mode {
        Mode::Host => vec![
            at_most("pod", from.pod.sent_bytes, ALMOST_NOTHING, name, base),
            at_most("flannel.1", tunnel_sent, ALMOST_NOTHING, name, base),
        ],
        Mode::HostGw => {
            vec![at_least("wire", wire, ALL, name, base), at_most("flannel.1", tunnel_sent, ALMOST_NOTHING, name, base)]
        }
        // What is never answered is never fast.
        Mode::Ebpf | Mode::EbpfService if metric == Metric::Udp64OneWay => on_the_kernels_way(),
        Mode::Vxlan | Mode::VxlanService | Mode::VxlanBare | Mode::EbpfOff => on_the_kernels_way(),
        // A TUN device of the same name stands in the VXLAN device's place. It drops what its reader is too slow for; what it has
        // sent is on the wire.
        Mode::Userspace | Mode::UserspacePlain | Mode::Blocking => vec![
            at_least("wire", wire, ALL, "flannel.1", tunnel_sent),
            at_least("the other flannel.1", tunnel_received, ALL, "other pod", received),
        ],
        // Every connection begins and ends on the kernel's path.
        Mode::Ebpf | Mode::EbpfService if metric == Metric::Crr => {
            vec![at_least("wire", wire, ALL, name, base)]
        }
        Mode::Ebpf | Mode::EbpfService => vec![
            at_least("wire", wire, ALL, name, base),
            at_most("flannel.1", tunnel_sent, ALMOST_NOTHING, name, base),
            at_most("the other flannel.1", tunnel_received, ALMOST_NOTHING, "other pod", received),
        ],
    };
    let broken: Vec<String> = rules.into_iter().flatten().collect();
    (!broken.is_empty()).then(|| format!("{way}: {}", broken.join(", ")))
}

fn at_least(device: &str, bytes: u64, wanted: f64, of: &str, whole: u64) -> Option<String> {
    let got = share(bytes, whole);
    (got < wanted).then(|| format!("{device} saw {got:.3} of what the {of} did, less than {wanted}"))
}

fn at_most(device: &str, bytes: u64, wanted: f64, of: &str, whole: u64) -> Option<String> {
    let got = share(bytes, whole);
    (got > wanted).then(|| format!("{device} saw {got:.3} of what the {of} did, more than {wanted}"))
}

#[expect(clippy::cast_precision_loss, reason = "counters of seconds are far below 2^52")]
fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn traffic(bytes: u64) -> Traffic {
        Traffic { received_bytes: bytes, received_packets: bytes / 100, sent_bytes: bytes, sent_packets: bytes / 100 }
    }

    /// Everything symmetric: so much through pods, tunnel and wire.
    fn counters(pod: u64, tunnel: u64, wire: u64) -> Counters {
        let node = NodeTraffic { pod: traffic(pod), tunnel: traffic(tunnel), wire: traffic(wire) };
        Counters { client: node, server: node }
    }

    #[test]
    fn each_mode_has_counters_that_no_other_mode_may_have() {
        let (host, routed) = (counters(0, 0, 1_000_000), counters(1_000_000, 0, 1_010_000));
        let (tunnelled, fast) = (counters(1_000_000, 999_000, 1_050_000), counters(1_000_000, 300, 1_050_000));
        let fits = |counters: Counters, mode| counters.contradict(mode, Metric::TcpRr1).is_none();
        for (mode, own) in [
            (Mode::Host, host),
            (Mode::HostGw, routed),
            (Mode::Vxlan, tunnelled),
            (Mode::VxlanService, tunnelled),
            (Mode::EbpfOff, tunnelled),
            (Mode::Ebpf, fast),
            (Mode::EbpfService, fast),
        ] {
            assert!(fits(own, mode), "{mode:?}: {:?}", own.contradict(mode, Metric::TcpRr1));
            assert!(fits(tunnelled, mode) == (own == tunnelled), "{mode:?}");
            assert!(fits(host, mode) == (own == host), "{mode:?}");
        }
        let one_way = |counters: Counters| counters.contradict(Mode::Ebpf, Metric::Udp64OneWay);
        assert_eq!(one_way(tunnelled), None);
        assert!(one_way(fast).is_some(), "what is never answered is never fast");
        assert!(!fits(counters(0, 0, 0), Mode::Host), "a run without traffic proves nothing");
    }

    #[test]
    fn a_fast_path_in_one_direction_only_is_none() {
        let mut counters = counters(1_000_000, 0, 1_050_000);
        counters.server.tunnel.sent_bytes = 900_000;
        let why = counters.contradict(Mode::Ebpf, Metric::Stream1).unwrap_or_default();
        assert!(why.starts_with("to the client: flannel.1 saw 0.900"), "{why}");
        assert_eq!(counters.contradict(Mode::Ebpf, Metric::Crr), None, "connections are made on the kernel's path");
    }

    #[test]
    fn a_devices_line_is_read_by_its_name() {
        let table =
            "Inter-| Receive\n eth0: 10 2 0 0 0 0 0 0 30 4 0 0 0 0 0 0\neth01: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n";
        let read = Traffic { received_bytes: 10, received_packets: 2, sent_bytes: 30, sent_packets: 4 };
        assert_eq!(Traffic::read(table, "eth0"), read);
        let small = Traffic { received_bytes: 38, sent_bytes: 86, ..read };
        assert_eq!(Traffic::read(table, "eth0").with_ethernet(), small);
        assert_eq!(Traffic::read(table, "flannel.1"), Traffic::default());
    }
}
