//! What comes out of the tunnel.

use flannel_common::Counter;
use flannel_ctl::kernel::fastpath::Hook;

use crate::{
    counters::{BOTH, Case, Packet, V4, V6},
    frame::{Checksum, Inner, Outer, TCP, UDP, right_outer_checksum},
    site::{NEXT, Net, REDIRECT, Site, delivered, net},
    skipped,
};

pub(crate) fn cases() -> Vec<Case> {
    let case = |name, counter, families, packet| Case { name, counter, families, hook: Hook::UplinkIngress, packet };
    vec![
        case("a datagram of a known flow", Counter::IngressFast, BOTH, |site, net| known(site, net, UDP, |_, _| {})),
        case("a segment of a known flow", Counter::IngressFast, BOTH, |site, net| known(site, net, TCP, |_, _| {})),
        case("the largest packet", Counter::IngressFast, BOTH, |site, net| {
            known(site, net, UDP, |inner, _| inner.payload = vec![7; 1450 - inner.headers()])
        }),
        case("the smallest packet", Counter::IngressFast, BOTH, |site, net| {
            known(site, net, UDP, |inner, _| inner.payload.clear())
        }),
        case("a changed outer source port", Counter::IngressFast, BOTH, |site, net| {
            known(site, net, UDP, |_, outer| outer.ports.0 = 1)
        }),
        case("nobody has said anything", Counter::IngressDisabled, BOTH, |site, net| {
            let packet = known(site, net, TCP, |_, _| {});
            site.set(|settings| settings.enabled = 0);
            packet
        }),
        case("neither IPv4 nor IPv6", Counter::IngressOther, V4, |_, net| {
            let mut frame = net.inward().around(&net.sent(TCP));
            frame[12..14].copy_from_slice(&[0x08, 0x06]);
            frame.into()
        }),
        case("a family without an overlay", Counter::IngressOther, BOTH, |site, net| {
            let packet = known(site, net, TCP, |_, _| {});
            let v4 = net.v4;
            site.set(|settings| if v4 { settings.v4.enabled = 0 } else { settings.v6.enabled = 0 });
            packet
        }),
        case("too short for a tunnel", Counter::IngressOther, BOTH, |_, net| {
            let frame = net.inward().around(&net.sent(TCP));
            frame[..net.inward().room() - 15].to_vec().into()
        }),
        case("TCP", Counter::IngressOther, BOTH, |_, net| {
            Inner { payload: vec![0; 80], ..Inner::new(net.remote, net.local, TCP) }.frame().into()
        }),
        case("another UDP port", Counter::IngressOther, BOTH, |site, net| {
            known(site, net, TCP, |_, outer| outer.ports.1 = 4789)
        }),
        case("for another host", Counter::IngressOther, BOTH, |site, net| {
            known(site, net, TCP, |_, outer| outer.destination = outer.source)
        }),
        case("outer options", Counter::IngressOuter, V4, |site, net| {
            let mut frame = known(site, net, TCP, |_, _| {}).frame;
            frame[14] = 0x46;
            right_outer_checksum(&mut frame);
            frame.into()
        }),
        case("an outer fragment", Counter::IngressOuter, V4, |site, net| {
            let mut frame = known(site, net, TCP, |_, _| {}).frame;
            frame[20] = 0x20;
            right_outer_checksum(&mut frame);
            frame.into()
        }),
        case("a wrong outer header checksum", Counter::IngressOuter, V4, |site, net| {
            let mut frame = known(site, net, TCP, |_, _| {}).frame;
            frame[25] ^= 1;
            frame.into()
        }),
        case("an outer packet shorter than its frame", Counter::IngressOuter, BOTH, |site, net| {
            let mut frame = known(site, net, TCP, |_, _| {}).frame;
            frame.extend([0; 2]);
            frame.into()
        }),
        case("an outer packet longer than its frame", Counter::IngressOuter, BOTH, |site, net| {
            let mut frame = known(site, net, TCP, |_, _| {}).frame;
            frame.pop();
            frame.into()
        }),
        case("an outer datagram of another length", Counter::IngressOuter, BOTH, |site, net| {
            let mut frame = known(site, net, TCP, |_, _| {}).frame;
            let at = net.inward().room() - 14 - 16 + 5;
            frame[at] ^= 1;
            frame.into()
        }),
        case("an outer checksum that nobody has verified", Counter::IngressChecksum, BOTH, |site, net| {
            known(site, net, TCP, |_, outer| outer.udp_checksum = 0x1234)
        }),
        case("group policy", Counter::IngressFlags, BOTH, |site, net| {
            known(site, net, TCP, |_, outer| outer.flags = 0x8800_0005)
        }),
        case("no network identifier", Counter::IngressFlags, BOTH, |site, net| {
            known(site, net, TCP, |_, outer| outer.flags = 0)
        }),
        case("a reserved bit", Counter::IngressFlags, BOTH, |site, net| {
            known(site, net, TCP, |_, outer| outer.flags = 0x0800_0001)
        }),
        case("the last reserved octet", Counter::IngressFlags, BOTH, |site, net| {
            let mut frame = known(site, net, TCP, |_, _| {}).frame;
            frame[net.inward().room() - 15] = 1;
            frame.into()
        }),
        case("another network identifier", Counter::IngressVni, BOTH, |site, net| {
            known(site, net, TCP, |_, outer| outer.vni = 2)
        }),
        case("a network identifier with more bits", Counter::IngressVni, BOTH, |site, net| {
            known(site, net, TCP, |_, outer| outer.vni = 0x80_0001)
        }),
        case("for another VTEP", Counter::IngressMac, BOTH, |site, net| {
            known(site, net, TCP, |_, outer| outer.inner_ethernet.0[5] ^= 1)
        }),
        case("for everybody", Counter::IngressMac, BOTH, |site, net| {
            known(site, net, TCP, |_, outer| outer.inner_ethernet.0 = [0xff; 6])
        }),
        case("the other family inside", Counter::IngressFamily, BOTH, |_, outside| {
            let inside = net(!outside.v4);
            let inner = Inner { payload: vec![7; 100], ..inside.sent(UDP).reversed() };
            outside.inward().around(&inner).into()
        }),
        case("ARP inside", Counter::IngressFamily, BOTH, |site, net| {
            let mut frame = known(site, net, TCP, |inner, _| inner.payload = vec![7; 100]).frame;
            let at = net.inward().room() - 2;
            frame[at..at + 2].copy_from_slice(&[0x08, 0x06]);
            frame.into()
        }),
        case("an inner packet cut off", Counter::IngressMalformed, BOTH, |_, net| {
            let frame = Inner { ethernet: net.inward().inner_ethernet, ..net.sent(TCP).reversed() }.frame();
            net.inward().around_frame(&frame[..30]).into()
        }),
        case("an inner frame longer than its packet", Counter::IngressMalformed, BOTH, |site, net| {
            known(site, net, UDP, |inner, _| inner.lie = -1)
        }),
        case("a wrong inner header checksum", Counter::IngressMalformed, V4, |site, net| {
            known(site, net, UDP, |inner, _| inner.header_checksum = Checksum::Wrong)
        }),
        case("a wrong datagram length", Counter::IngressMalformed, BOTH, |site, net| {
            known(site, net, UDP, |inner, _| inner.udp_lie = 4)
        }),
        case("inner options", Counter::IngressOptions, V4, |site, net| {
            known(site, net, TCP, |inner, _| inner.options = vec![1, 1, 1, 0])
        }),
        case("an inner extension header", Counter::IngressOptions, V6, |site, net| {
            known(site, net, TCP, |inner, _| inner.extension = Some(0))
        }),
        case("an inner fragment", Counter::IngressFragment, V4, |site, net| {
            known(site, net, UDP, |inner, _| inner.fragment = 0x2000)
        }),
        case("an inner fragment header", Counter::IngressFragment, V6, |site, net| {
            known(site, net, UDP, |inner, _| inner.extension = Some(44))
        }),
        case("ICMP", Counter::IngressProtocol, BOTH, |_, net| {
            let protocol = if net.v4 { 1 } else { 58 };
            net.inward().around(&Inner { protocol, payload: vec![0; 64], ..net.sent(UDP).reversed() }).into()
        }),
        case("one hop to go", Counter::IngressTtl, BOTH, |site, net| known(site, net, TCP, |inner, _| inner.ttl = 1)),
        case("SYN", Counter::IngressControl, BOTH, |site, net| known(site, net, TCP, |inner, _| inner.flags = 0x12)),
        case("FIN", Counter::IngressControl, BOTH, |site, net| known(site, net, TCP, |inner, _| inner.flags = 0x11)),
        case("RST", Counter::IngressControl, BOTH, |site, net| known(site, net, TCP, |inner, _| inner.flags = 0x14)),
        case("RST in a packet that the kernel has to verify", Counter::IngressControl, BOTH, |site, net| {
            known(site, net, TCP, |inner, outer| (inner.flags, outer.udp_checksum) = (0x14, 0x1234))
        }),
        case("an unknown flow", Counter::IngressUnknown, BOTH, |site, net| {
            known(site, net, TCP, |inner, _| inner.ports.1 ^= 1)
        }),
        case("from a subnet that nobody leased", Counter::IngressUnknown, BOTH, |site, net| {
            known(site, net, TCP, |inner, outer| {
                inner.source = outer.source;
                outer.source = outer.destination;
            })
        }),
        case("another epoch", Counter::IngressExpired, BOTH, |site, net| {
            let packet = known(site, net, TCP, |_, _| {});
            site.set(|settings| settings.epoch += 1);
            packet
        }),
        case("a proof too old", Counter::IngressExpired, BOTH, |site, net| {
            site.set(|settings| settings.validity = 0);
            known(site, net, TCP, |_, _| {})
        }),
        case("another DSCP", Counter::IngressDscp, BOTH, |site, net| {
            known(site, net, UDP, |inner, _| inner.tos = 0xb8)
        }),
        case("a segment that acknowledges nothing", Counter::IngressMalformed, BOTH, |site, net| {
            known(site, net, TCP, |inner, _| inner.flags = 0x08)
        }),
        case("nothing was sent yet", Counter::IngressUnpaired, BOTH, |site, net| {
            let wire = net.sent(TCP).reversed();
            site.prove_ingress(&wire, &delivered(&wire), &net.inward());
            net.inward().around(&wire).into()
        }),
        case("one octet too many", Counter::IngressTooBig, BOTH, |site, net| {
            known(site, net, UDP, |inner, _| inner.payload = vec![7; 1451 - inner.headers()])
        }),
        case("segments too big", Counter::IngressTooBig, BOTH, |site, net| {
            let packet = known(site, net, TCP, |inner, _| inner.payload = vec![7; 2000]);
            Packet { segment: 1431, ..packet }
        }),
        case("datagrams in one piece", Counter::IngressRefused, BOTH, |site, net| Packet {
            segment: 100,
            ..known(site, net, UDP, |inner, _| inner.payload = vec![7; 1000])
        }),
        case("segments of no known kind", Counter::IngressRefused, BOTH, |site, net| {
            let packet = known(site, net, TCP, |inner, _| inner.payload = vec![7; 2000]);
            Packet { segment: 1000, ..packet }
        }),
        case("congestion that the inner packet knows no mark for", Counter::IngressEcn, BOTH, |site, net| {
            known(site, net, TCP, |_, outer| outer.tos = 3)
        }),
        case("a mark that was not there before", Counter::IngressEcn, BOTH, |site, net| {
            known(site, net, TCP, |inner, outer| {
                inner.tos = 2;
                outer.tos = 1;
            })
        }),
        case("a known flow from another node", Counter::IngressForged, BOTH, |site, net| {
            known(site, net, TCP, |_, outer| outer.source = outer.destination)
        }),
        case("an unknown flow from another node", Counter::IngressForged, BOTH, |_, net| {
            let inner = Inner { ports: (1, 2), ..net.sent(UDP).reversed() };
            Outer { source: net.local, ..net.inward() }.around(&inner).into()
        }),
    ]
}

/// A packet of a flow that may take the fast path, changed a little.
fn known(site: &mut Site, net: &Net, protocol: u8, change: fn(&mut Inner, &mut Outer)) -> Packet {
    let sent = net.sent(protocol);
    site.prove(net, &sent, &sent);
    let (mut arriving, mut outer) = (sent.reversed(), net.inward());
    change(&mut arriving, &mut outer);
    outer.around(&arriving).into()
}

#[test]
fn a_known_flow_arrives_as_the_kernel_would_have_delivered_it() {
    if skipped(&[]) {
        return;
    }
    let mut site = Site::new();
    for net in [net(true), net(false)] {
        for protocol in [TCP, UDP] {
            let sent = Inner { tos: 0xb8, ..net.sent(protocol) };
            site.prove(&net, &sent, &sent);
            for marks in 0..16 {
                let (outside, inside) = (marks >> 2, marks & 3);
                let wire = Inner { tos: 0xb8 | inside, ttl: 2 + marks, sequence: (9, 9), ..sent.reversed() };
                let outcome =
                    site.run(Hook::UplinkIngress, &Outer { tos: 0x28 | outside, ..net.inward() }.around(&wire));
                // RFC 6040, 4.2. What not every kernel does alike is the kernel's.
                let mark = match (outside, inside) {
                    (0, _) | (2, 2 | 3) | (1, 1) | (3, 3) => inside,
                    (3, 1 | 2) => 3,
                    _ => {
                        assert_eq!(outcome.verdict, NEXT, "{outside} {inside}");
                        continue;
                    }
                };
                assert_eq!(outcome.verdict, REDIRECT, "{outside} {inside}");
                let expected = delivered(&Inner { tos: 0xb8 | mark, ..wire.forwarded() });
                assert_eq!(outcome.packet, expected.frame(), "{net:?} {outside} {inside}");
            }
        }
    }
}

#[test]
fn what_netfilter_changed_is_changed_back() {
    if skipped(&[]) {
        return;
    }
    let mut site = Site::new();
    for net in [net(true), net(false)] {
        for (protocol, checksum) in [(TCP, Checksum::Right), (UDP, Checksum::Right), (UDP, Checksum::Zero)] {
            let sent = Inner { ports: (40_000, 53), ..Inner::new(net.pod, net.service, protocol) };
            let wire = sent.translated(net.local, net.far_pod, (61_234, 5_353));
            site.prove(&net, &sent, &wire);
            for payload in 0..64 {
                let change =
                    |inner: &Inner| Inner { checksum, payload: vec![payload; payload.into()], ..inner.clone() };
                let outcome = site.run(Hook::UplinkIngress, &net.inward().around(&change(&wire.reversed())));
                assert_eq!(outcome.verdict, REDIRECT);
                let expected = delivered(&change(&sent.reversed()).forwarded());
                assert_eq!(outcome.packet, expected.frame(), "{net:?} {protocol} {checksum:?} {payload}");
            }
        }
    }
}

#[test]
fn forged_packets_are_only_counted_where_that_is_wanted() {
    if skipped(&[]) {
        return;
    }
    let mut site = Site::new();
    site.set(|settings| settings.drop_forged = 0);
    for net in [net(true), net(false)] {
        let frame = Outer { source: net.local, ..net.inward() }.around(&net.sent(UDP).reversed());
        let (outcome, counted) = site.counted(|site| site.run(Hook::UplinkIngress, &frame));
        assert_eq!((outcome.verdict, outcome.packet), (NEXT, frame));
        assert_eq!(counted.get(&Counter::IngressForged), Some(&1));
    }
}

/// Network cards that sum up each packet (`CHECKSUM_COMPLETE`) spare the pod's kernel the work, if the sum is kept right; else
/// the kernel sums up everything itself and complains of the card.
#[test]
fn the_sum_of_a_whole_packet_stays_right() {
    if skipped(&[]) {
        return;
    }
    let mut site = Site::new();
    for net in [net(true), net(false)] {
        for protocol in [TCP, UDP] {
            let plain = net.sent(protocol);
            let service = Inner { ports: (40_000, 53), ..Inner::new(net.pod, net.service, protocol) };
            let translated = service.translated(net.local, net.far_pod, (61_234, 5_353));
            for (sent, wire) in [(&plain, &plain), (&service, &translated)] {
                site.prove(&net, sent, wire);
                for (marks, ttl) in [(2, 64), (3, 2), (3, 255)] {
                    let outer = Outer { tos: marks, ..net.inward() };
                    let frame = outer.around(&Inner { tos: 2, ttl, ..wire.reversed() });
                    let (kept, counted) =
                        site.counted(|site| site.trial.keeps_sum(Hook::UplinkIngress, &frame).unwrap());
                    let Some(kept) = kept else {
                        println!("SKIPPED: this kernel gives test runs no sum to keep");
                        return;
                    };
                    assert!(kept, "{net:?} {protocol} {ttl}, translated: {}", sent.tuple() != wire.tuple());
                    assert_eq!(counted.get(&Counter::IngressFast), Some(&1));
                }
            }
        }
    }
}
