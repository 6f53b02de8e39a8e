//! What a pod sends.

use flannel_common::Counter;
use flannel_ctl::kernel::fastpath::Hook;

use crate::{
    counters::{BOTH, Case, Packet, V4, V6},
    frame::{Checksum, Inner, TCP, UDP, right_outer_checksum, sum},
    site::{NEXT, Net, REDIRECT, Site, delivered, largest, net},
    skipped,
};

pub(crate) fn cases() -> Vec<Case> {
    let case = |name, counter, families, packet| Case { name, counter, families, hook: Hook::PodIngress, packet };
    vec![
        case("a datagram of a known flow", Counter::EgressFast, BOTH, |site, net| known(site, net, UDP, |_| {})),
        case("a segment of a known flow", Counter::EgressFast, BOTH, |site, net| known(site, net, TCP, |_| {})),
        case("the largest packet", Counter::EgressFast, BOTH, |site, net| {
            known(site, net, UDP, |inner| inner.payload = vec![7; largest(inner)])
        }),
        case("the smallest packet", Counter::EgressFast, BOTH, |site, net| {
            known(site, net, UDP, |inner| inner.payload.clear())
        }),
        case("TCP with all the options there can be", Counter::EgressFast, BOTH, |site, net| {
            known(site, net, TCP, |inner| inner.tcp_options = vec![1; 40])
        }),
        case("two hops to go", Counter::EgressFast, BOTH, |site, net| known(site, net, TCP, |inner| inner.ttl = 2)),
        case("another DSCP", Counter::EgressDscp, BOTH, |site, net| known(site, net, UDP, |inner| inner.tos = 0xb8)),
        case("to somebody else on the bridge", Counter::EgressGateway, BOTH, |site, net| {
            known(site, net, TCP, |inner| inner.ethernet.0[5] ^= 1)
        }),
        case("larger than what was let through", Counter::EgressLarger, BOTH, |site, net| {
            prove_little(site, net).into()
        }),
        case("segments larger than what was let through", Counter::EgressLarger, BOTH, |site, net| Packet {
            frame: prove_little(site, net),
            segment: 18,
        }),
        case("a segment that acknowledges nothing", Counter::EgressMalformed, BOTH, |site, net| {
            known(site, net, TCP, |inner| inner.flags = 0x08)
        }),
        case("nobody has said anything", Counter::EgressDisabled, BOTH, |site, net| {
            let packet = known(site, net, TCP, |_| {});
            site.set(|settings| settings.enabled = 0);
            packet
        }),
        case("neither IPv4 nor IPv6", Counter::EgressFamily, V4, |_, net| {
            let mut frame = net.sent(TCP).frame();
            frame[12..14].copy_from_slice(&[0x08, 0x06]);
            frame.into()
        }),
        case("a tag in the packet", Counter::EgressFamily, BOTH, |site, net| {
            let mut frame = known(site, net, TCP, |_| {}).frame;
            frame.splice(12..12, [0x81, 0x00, 0, 5]);
            frame.into()
        }),
        case("a family without an overlay", Counter::EgressFamily, BOTH, |site, net| {
            let packet = known(site, net, TCP, |_| {});
            let v4 = net.v4;
            site.set(|settings| if v4 { settings.v4.enabled = 0 } else { settings.v6.enabled = 0 });
            packet
        }),
        // Less than an IP header is refused by the test run itself.
        case("nothing after IP", Counter::EgressMalformed, BOTH, |site, net| known(site, net, UDP, |_| {}).up_to(0)),
        case("half a UDP header", Counter::EgressMalformed, BOTH, |site, net| known(site, net, UDP, |_| {}).up_to(4)),
        case("UDP's worth of TCP", Counter::EgressMalformed, BOTH, |site, net| known(site, net, TCP, |_| {}).up_to(8)),
        case("an octet too few of TCP", Counter::EgressMalformed, BOTH, |site, net| {
            known(site, net, TCP, |_| {}).up_to(19)
        }),
        case("a frame longer than the packet", Counter::EgressMalformed, BOTH, |site, net| {
            let mut frame = known(site, net, TCP, |_| {}).frame;
            frame.extend([0; 6]);
            frame.into()
        }),
        case("a frame shorter than the packet", Counter::EgressMalformed, BOTH, |site, net| {
            known(site, net, UDP, |inner| inner.lie = 1)
        }),
        case("a datagram longer than its packet", Counter::EgressMalformed, BOTH, |site, net| {
            known(site, net, UDP, |inner| inner.udp_lie = 1)
        }),
        case("a datagram shorter than its packet", Counter::EgressMalformed, BOTH, |site, net| {
            known(site, net, UDP, |inner| inner.udp_lie = -1)
        }),
        case("TCP options that are not there", Counter::EgressMalformed, BOTH, |site, net| {
            known(site, net, TCP, |inner| inner.payload.clear()).changed_transport(12, 0xf0)
        }),
        case("a TCP header shorter than itself", Counter::EgressMalformed, BOTH, |site, net| {
            known(site, net, TCP, |_| {}).changed_transport(12, 0x40)
        }),
        case("a wrong header checksum", Counter::EgressMalformed, V4, |site, net| {
            known(site, net, TCP, |inner| inner.header_checksum = Checksum::Wrong)
        }),
        case("IP version 5", Counter::EgressMalformed, BOTH, |site, net| {
            let mut frame = known(site, net, TCP, |_| {}).frame;
            frame[14] = 0x55;
            frame.into()
        }),
        case("a header of four words", Counter::EgressMalformed, V4, |site, net| {
            let mut frame = known(site, net, TCP, |_| {}).frame;
            frame[14] = 0x44;
            frame.into()
        }),
        case("IPv4 addresses in IPv6", Counter::EgressMalformed, V6, |site, _| {
            let v4 = net(true);
            let sent = v4.sent(TCP);
            site.prove(&v4, &sent, &sent);
            let mapped = |address: std::net::IpAddr| match address {
                std::net::IpAddr::V4(address) => address.to_ipv6_mapped().into(),
                address @ std::net::IpAddr::V6(_) => address,
            };
            sent.translated(mapped(sent.source), mapped(sent.destination), sent.ports).frame().into()
        }),
        case("IPv4 options", Counter::EgressOptions, V4, |site, net| {
            known(site, net, TCP, |inner| inner.options = vec![1, 1, 1, 0])
        }),
        case("hop by hop options", Counter::EgressOptions, V6, |site, net| {
            known(site, net, TCP, |inner| inner.extension = Some(0))
        }),
        case("a routing header", Counter::EgressOptions, V6, |site, net| {
            known(site, net, TCP, |inner| inner.extension = Some(43))
        }),
        case("destination options", Counter::EgressOptions, V6, |site, net| {
            known(site, net, TCP, |inner| inner.extension = Some(60))
        }),
        case("a first fragment", Counter::EgressFragment, V4, |site, net| {
            known(site, net, UDP, |inner| inner.fragment = 0x2000)
        }),
        case("a last fragment", Counter::EgressFragment, V4, |site, net| {
            known(site, net, UDP, |inner| inner.fragment = 185)
        }),
        case("the evil bit", Counter::EgressFragment, V4, |site, net| {
            known(site, net, UDP, |inner| inner.fragment = 0x8000)
        }),
        case("a fragment header", Counter::EgressFragment, V6, |site, net| {
            known(site, net, UDP, |inner| inner.extension = Some(44))
        }),
        case("ICMP", Counter::EgressProtocol, BOTH, |_, net| {
            Inner { protocol: if net.v4 { 1 } else { 58 }, payload: vec![8; 64], ..net.sent(UDP) }.frame().into()
        }),
        case("SCTP", Counter::EgressProtocol, BOTH, |_, net| {
            Inner { protocol: 132, payload: vec![8; 64], ..net.sent(UDP) }.frame().into()
        }),
        case("one hop to go", Counter::EgressTtl, BOTH, |site, net| known(site, net, TCP, |inner| inner.ttl = 1)),
        case("no hop to go", Counter::EgressTtl, BOTH, |site, net| known(site, net, UDP, |inner| inner.ttl = 0)),
        case("SYN", Counter::EgressControl, BOTH, |site, net| known(site, net, TCP, |inner| inner.flags = 0x02)),
        case("FIN", Counter::EgressControl, BOTH, |site, net| known(site, net, TCP, |inner| inner.flags = 0x11)),
        case("RST", Counter::EgressControl, BOTH, |site, net| known(site, net, TCP, |inner| inner.flags = 0x04)),
        case("another port", Counter::EgressUnknown, BOTH, |site, net| {
            known(site, net, TCP, |inner| inner.ports.0 += 1)
        }),
        case("the other protocol", Counter::EgressUnknown, BOTH, |site, net| {
            let sent = net.sent(TCP);
            site.prove(net, &sent, &sent);
            net.sent(UDP).frame().into()
        }),
        case("another epoch", Counter::EgressExpired, BOTH, |site, net| {
            let packet = known(site, net, TCP, |_| {});
            site.set(|settings| settings.epoch += 1);
            packet
        }),
        case("a proof too old", Counter::EgressExpired, BOTH, |site, net| {
            site.set(|settings| settings.validity = 0);
            known(site, net, TCP, |_| {})
        }),
        case("no answer yet", Counter::EgressUnpaired, BOTH, |site, net| {
            let sent = net.sent(TCP);
            site.prove_egress(&sent, &sent, &net.outward());
            sent.frame().into()
        }),
        case("another pod's flow", Counter::EgressMoved, BOTH, |site, net| {
            let packet = known(site, net, TCP, |_| {});
            let mut flow = site.trial.egress(net.sent(TCP).tuple()).unwrap().unwrap();
            flow.pod += 1;
            site.trial.put_egress(net.sent(TCP).tuple(), flow).unwrap();
            packet
        }),
        case("one octet too many", Counter::EgressTooBig, BOTH, |site, net| {
            known(site, net, UDP, |inner| inner.payload = vec![7; largest(inner) + 1])
        }),
        case("segments too big", Counter::EgressTooBig, BOTH, |site, net| {
            let packet = known(site, net, TCP, |inner| inner.payload = vec![7; 2000]);
            Packet { segment: 1411, ..packet }
        }),
        case("segments of no known kind", Counter::EgressRefused, BOTH, |site, net| {
            let packet = known(site, net, TCP, |inner| inner.payload = vec![7; 2000]);
            Packet { segment: 1000, ..packet }
        }),
    ]
}

/// A packet of a flow that may take the fast path, changed a little.
fn known(site: &mut Site, net: &Net, protocol: u8, change: fn(&mut Inner)) -> Packet {
    let mut sent = net.sent(protocol);
    site.prove(net, &sent, &sent);
    change(&mut sent);
    sent.frame().into()
}

/// The kernel path has let small packets through. One that is an octet larger.
fn prove_little(site: &mut Site, net: &Net) -> Vec<u8> {
    let mut sent = net.sent(TCP);
    site.prove_egress(&sent, &sent, &net.outward());
    let answer = sent.reversed();
    site.prove_ingress(&answer, &delivered(&answer), &net.inward());
    assert_eq!(site.run(Hook::PodIngress, &sent.frame()).verdict, REDIRECT);
    sent.payload.push(0);
    sent.frame()
}

impl Packet {
    /// So much of the transport header, and the IP header says so.
    fn up_to(mut self, octets: usize) -> Self {
        if self.frame[12] == 8 {
            self.frame.truncate(34 + octets);
            let total = u16::try_from(20 + octets).unwrap();
            self.frame[16..18].copy_from_slice(&total.to_be_bytes());
            right_outer_checksum(&mut self.frame);
        } else {
            self.frame.truncate(54 + octets);
            self.frame[18..20].copy_from_slice(&u16::try_from(octets).unwrap().to_be_bytes());
        }
        self
    }

    fn changed_transport(mut self, at: usize, value: u8) -> Self {
        let transport = if self.frame[12] == 8 { 34 } else { 54 };
        self.frame[transport + at] = value;
        self
    }
}

/// The frame that must come out, but for the identification, which is random.
fn assert_encapsulated(out: &[u8], expected: &[u8], name: &str) {
    let mut expected = expected.to_vec();
    if expected[12] == 8 {
        expected[18..20].copy_from_slice(&out[18..20]);
        right_outer_checksum(&mut expected);
        assert_eq!(sum(&out[14..34]), 0xffff, "{name}: the outer header's checksum");
    }
    assert_eq!(out, expected, "{name}");
}

#[test]
fn a_known_flow_leaves_in_the_kernels_own_headers() {
    if skipped(&[]) {
        return;
    }
    let mut site = Site::new();
    for net in [net(true), net(false)] {
        for protocol in [TCP, UDP] {
            let sent = net.sent(protocol);
            for tos in 0..=255 {
                let proved = Inner { tos: tos & !3, ..sent.clone() };
                site.prove(&net, &proved, &proved);
                let sent = Inner { tos, ttl: 2 + tos % 200, id: u16::from(tos) * 77, sequence: (3, 4), ..sent.clone() };
                let outcome = site.run(Hook::PodIngress, &sent.frame());
                assert_eq!(outcome.verdict, REDIRECT);
                // RFC 6040's mark in the kernel's way, and DSCP 0.
                let mark = if tos & 3 == 3 { 2 } else { tos & 3 };
                let expected = crate::frame::Outer { tos: mark, ..net.outward() }.around(&sent.forwarded());
                assert_encapsulated(&outcome.packet, &expected, &format!("{net:?} {protocol} {tos:#x}"));
            }
        }
    }
}

#[test]
fn what_netfilter_changed_is_changed_again() {
    if skipped(&[]) {
        return;
    }
    let mut site = Site::new();
    for net in [net(true), net(false)] {
        for (protocol, checksum) in
            [(TCP, Checksum::Right), (UDP, Checksum::Right), (UDP, Checksum::Zero), (TCP, Checksum::Wrong)]
        {
            let sent = Inner { ports: (40_000, 53), ..Inner::new(net.pod, net.service, protocol) };
            // Destination and source, addresses and ports.
            let wire = sent.translated(net.local, net.far_pod, (61_234, 5_353));
            site.prove(&net, &sent, &wire);
            for payload in 0..64 {
                let sent = Inner { checksum, payload: vec![payload; payload.into()], ..sent.clone() };
                let wire = Inner { checksum, payload: sent.payload.clone(), ..wire.clone() };
                let outcome = site.run(Hook::PodIngress, &sent.frame());
                assert_eq!(outcome.verdict, REDIRECT);
                let mut expected = net.outward().around(&wire.forwarded());
                let mut out = outcome.packet;
                if checksum == Checksum::Wrong {
                    // As wrong as it was, in its own way.
                    let at = net.outward().room() + wire.headers() - 4;
                    let right = Inner { checksum: Checksum::Right, ..wire.forwarded() };
                    assert_ne!(out[at..at + 2], net.outward().around(&right)[at..at + 2]);
                    expected[at..at + 2].fill(0);
                    out[at..at + 2].fill(0);
                }
                assert_encapsulated(&out, &expected, &format!("{net:?} {protocol} {checksum:?} {payload}"));
            }
        }
    }
}

#[test]
fn a_closing_segment_ends_what_is_known_both_ways() {
    if skipped(&[]) {
        return;
    }
    let mut site = Site::new();
    for net in [net(true), net(false)] {
        for flags in [0x02, 0x12, 0x11, 0x01, 0x04, 0x14] {
            let sent = Inner::new(net.pod, net.service, TCP);
            let wire = sent.translated(net.pod, net.far_pod, (sent.ports.0, 8080));
            site.prove(&net, &sent, &wire);
            let closing = Inner { flags, ..sent.clone() };
            assert_eq!(site.run(Hook::PodIngress, &closing.frame()).verdict, NEXT);
            assert_eq!(site.trial.egress(sent.tuple()).unwrap(), None, "{flags:#x}");
            assert_eq!(site.trial.ingress(wire.reversed().tuple()).unwrap(), None, "{flags:#x}");
        }
    }
}

/// A path may be narrower than the uplink, which only the kernel knows (a route's MTU, `fragmentation needed`): what it has
/// not let through since it was asked last is not sent past it.
#[test]
fn sizes_are_proved_as_flows_are() {
    if skipped(&[]) {
        return;
    }
    let mut site = Site::new();
    for net in [net(true), net(false)] {
        let large = prove_little(&mut site, &net);
        let small = net.sent(TCP);
        let sent = Inner { payload: [&small.payload[..], &[0]].concat(), ..small.clone() };
        let outcome = |site: &mut Site, frame: &[u8]| site.run(Hook::PodIngress, frame).verdict;
        // Let through, it may pass, and so may what is smaller.
        site.prove_egress(&sent, &sent, &net.outward());
        assert_eq!(outcome(&mut site, &large), REDIRECT);
        site.prove_egress(&small, &small, &net.outward());
        assert_eq!(outcome(&mut site, &large), REDIRECT, "nothing has been doubted meanwhile");
        // After a doubt, small packets prove themselves alone.
        site.set(|settings| settings.epoch += 1);
        assert_eq!(outcome(&mut site, &large), NEXT);
        site.prove_egress(&small, &small, &net.outward());
        assert_eq!(outcome(&mut site, &small.frame()), REDIRECT);
        assert_eq!(outcome(&mut site, &large), NEXT);
        site.reset();
    }
}
