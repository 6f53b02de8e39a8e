//! What the kernel path lets through becomes known; what it does not, does not.

use flannel_common::{Address, Counter, Peer, state};
use flannel_ctl::kernel::fastpath::Hook;

use crate::{
    counters::{BOTH, Case, Packet, V4, V6},
    frame::{Inner, Outer, TCP, UDP},
    site::{Net, Site, delivered, net},
    skipped,
};

pub(crate) fn cases() -> Vec<Case> {
    let out = |name, counter, families, packet| Case { name, counter, families, hook: Hook::UplinkEgress, packet };
    let back = |name, counter, families, packet| Case { name, counter, families, hook: Hook::PodEgress, packet };
    vec![
        out("into the tunnel", Counter::LearnedEgress, BOTH, |site, net| sent(site, net, |_| {}, |_| {})),
        out("into the tunnel again", Counter::LearnedEgress, BOTH, |site, net| {
            let sent = net.sent(TCP);
            site.prove_egress(&sent, &sent, &net.outward());
            self::sent(site, net, |_| {}, |_| {})
        }),
        out("into the tunnel with another address", Counter::LearnedEgress, BOTH, |site, net| {
            let service = Inner::new(net.pod, net.service, TCP);
            site.run(Hook::PodIngress, &service.frame());
            let wire = service.translated(net.local, net.far_pod, (1, 2)).forwarded();
            net.outward().around(&wire).into()
        }),
        out("another identification or label", Counter::LearnOther, BOTH, |site, net| {
            sent(
                site,
                net,
                |inner| {
                    inner.id += 1;
                    inner.label += 1;
                },
                |_| {},
            )
        }),
        out("another length", Counter::LearnOther, BOTH, |site, net| {
            sent(site, net, |inner| inner.payload.push(0), |_| {})
        }),
        out("another sequence number", Counter::LearnOther, BOTH, |site, net| {
            sent(site, net, |inner| inner.sequence.0 += 1, |_| {})
        }),
        out("another acknowledgement", Counter::LearnOther, BOTH, |site, net| {
            sent(site, net, |inner| inner.sequence.1 += 1, |_| {})
        }),
        out("another payload", Counter::LearnOther, BOTH, |site, net| {
            let datagram = net.sent(UDP);
            site.run(Hook::PodIngress, &datagram.frame());
            let other = Inner { payload: b"hellO, other side".to_vec(), ..datagram };
            net.outward().around(&other.forwarded()).into()
        }),
        out("another protocol", Counter::LearnOther, BOTH, |site, net| {
            site.run(Hook::PodIngress, &net.sent(UDP).frame());
            net.outward().around(&net.sent(TCP).forwarded()).into()
        }),
        out("another network identifier", Counter::LearnOther, BOTH, |site, net| {
            sent(site, net, |_| {}, |outer| outer.vni = 2)
        }),
        out("something else in the tunnel", Counter::LearnOther, BOTH, |site, net| {
            site.run(Hook::PodIngress, &net.sent(UDP).frame());
            let ping = Inner { protocol: 1, payload: vec![8; 64], ..net.sent(UDP) };
            net.outward().around(&ping).into()
        }),
        out("nothing whole in the tunnel", Counter::LearnOther, BOTH, |site, net| {
            site.run(Hook::PodIngress, &net.sent(UDP).frame());
            net.outward().around_frame(&[0; 20]).into()
        }),
        out("not routed", Counter::LearnChanged, BOTH, |site, net| sent(site, net, |inner| inner.ttl += 1, |_| {})),
        out("routed twice", Counter::LearnChanged, BOTH, |site, net| sent(site, net, |inner| inner.ttl -= 1, |_| {})),
        out("another type of service", Counter::LearnChanged, BOTH, |site, net| {
            sent(site, net, |inner| inner.tos = 0xb8, |_| {})
        }),
        out("to another node", Counter::LearnPeer, BOTH, |site, net| {
            sent(site, net, |_| {}, |outer| outer.destination = outer.source)
        }),
        out("to a subnet that nobody leased", Counter::LearnPeer, BOTH, |site, net| {
            site.trial.remove_peer(net.far_subnet.into()).unwrap();
            sent(site, net, |_| {}, |_| {})
        }),
        out("to a node that wants a checksum", Counter::LearnChecksum, V6, |site, net| {
            site.trial.put_peer(net.far_subnet.into(), Peer { outer: net.remote.into(), flags: 0 }).unwrap();
            sent(site, net, |_| {}, |_| {})
        }),
        out("too many this second", Counter::LearnRate, BOTH, |site, net| {
            site.set(|settings| settings.pod_rate = 0);
            sent(site, net, |_| {}, |_| {})
        }),
        out("not from a pod", Counter::LearnPod, BOTH, |site, net| {
            site.trial.remove_pod(site.pod).unwrap();
            sent(site, net, |_| {}, |_| {})
        }),
        back("to the pod", Counter::LearnedIngress, BOTH, |site, net| arriving(site, net, |_| {})),
        back("to the pod again", Counter::LearnedIngress, BOTH, |site, net| {
            let wire = net.sent(TCP).reversed();
            site.prove_ingress(&wire, &delivered(&wire), &net.inward());
            arriving(site, net, |_| {})
        }),
        back("to the pod from another address", Counter::LearnedIngress, BOTH, |site, net| {
            arriving(site, net, |inner| {
                inner.source = inner.destination;
                inner.ports = (7, 8);
            })
        }),
        back("neither IPv4 nor IPv6", Counter::LearnOther, V4, |site, net| {
            let mut frame = arriving(site, net, |_| {}).frame;
            frame[12..14].copy_from_slice(&[0x08, 0x06]);
            frame.into()
        }),
        back("half a header", Counter::LearnOther, BOTH, |site, net| {
            arriving(site, net, |_| {}).frame[..54].to_vec().into()
        }),
        back("a packet that is no flow's", Counter::LearnOther, BOTH, |site, net| {
            arriving(site, net, |inner| inner.flags = 4)
        }),
        back("another packet", Counter::LearnOther, BOTH, |site, net| {
            arriving(site, net, |inner| inner.sequence.0 += 1)
        }),
        back("not routed", Counter::LearnChanged, BOTH, |site, net| arriving(site, net, |inner| inner.ttl += 1)),
        back("another type of service", Counter::LearnChanged, BOTH, |site, net| {
            arriving(site, net, |inner| inner.tos = 3)
        }),
        back("from a subnet that nobody leased", Counter::LearnPeer, BOTH, |site, net| {
            site.trial.remove_peer(net.far_subnet.into()).unwrap();
            arriving(site, net, |_| {})
        }),
        back("too many this second", Counter::LearnRate, BOTH, |site, net| {
            site.set(|settings| settings.pod_rate = 0);
            arriving(site, net, |_| {})
        }),
        back("to an interface that leads to no pod", Counter::LearnPod, BOTH, |site, net| {
            site.trial.remove_pod(site.pod).unwrap();
            arriving(site, net, |_| {})
        }),
    ]
}

/// The pod's packet has entered the stack; it leaves the node like this.
fn sent(site: &mut Site, net: &Net, change: fn(&mut Inner), outside: fn(&mut Outer)) -> Packet {
    let sent = net.sent(TCP);
    site.run(Hook::PodIngress, &sent.frame());
    let (mut leaving, mut outer) = (sent.forwarded(), net.outward());
    change(&mut leaving);
    outside(&mut outer);
    outer.around(&leaving).into()
}

/// A packet has come out of the tunnel; the pod gets it like this.
fn arriving(site: &mut Site, net: &Net, change: fn(&mut Inner)) -> Packet {
    let wire = net.sent(TCP).reversed();
    site.run(Hook::VtepIngress, &wire.frame());
    let mut leaving = delivered(&wire.forwarded());
    change(&mut leaving);
    leaving.frame().into()
}

/// Nothing is learned from, nor counted.
fn assert_unheard(site: &mut Site, hook: Hook, frame: &[u8], why: &str) {
    let (outcome, counted) = site.counted(|site| site.run(hook, frame));
    assert!(counted.is_empty(), "{why}: {counted:?}");
    assert_eq!(outcome.packet, frame, "{why}");
}

#[test]
fn what_did_not_come_from_a_pod_teaches_nothing() {
    if skipped(&[]) {
        return;
    }
    let mut site = Site::new();
    for net in [net(true), net(false)] {
        let sent = net.sent(TCP);
        let leaving = net.outward().around(&sent.forwarded());
        assert_unheard(&mut site, Hook::UplinkEgress, &leaving, "nothing has entered");
        assert_unheard(&mut site, Hook::PodEgress, &sent.forwarded().frame(), "nothing has entered");

        site.run(Hook::PodIngress, &sent.frame());
        assert_unheard(&mut site, Hook::UplinkEgress, &sent.forwarded().frame(), "not a tunnel's");
        assert_unheard(&mut site, Hook::UplinkEgress, &leaving, "something else has left in between");

        site.run(Hook::PodIngress, &sent.frame());
        site.set(|settings| settings.enabled = 0);
        assert_unheard(&mut site, Hook::UplinkEgress, &leaving, "switched off");
        site.reset();

        // What declines for what it is leaves no trace.
        for change in [|inner: &mut Inner| inner.ttl = 1, |inner: &mut Inner| inner.flags = 2] {
            let mut closing = sent.clone();
            change(&mut closing);
            site.run(Hook::PodIngress, &closing.frame());
            assert_unheard(&mut site, Hook::UplinkEgress, &leaving, "what entered was no flow's");
            site.run(Hook::VtepIngress, &closing.frame());
            assert_unheard(&mut site, Hook::PodEgress, &leaving, "what arrived was no flow's");
        }
    }
}

#[test]
fn a_flow_is_fast_once_both_directions_have_been_seen() {
    if skipped(&[]) {
        return;
    }
    let mut site = Site::new();
    for net in [net(true), net(false)] {
        for answer_first in [false, true] {
            site.reset();
            let sent = Inner::new(net.pod, net.service, UDP);
            let wire = sent.translated(net.local, net.far_pod, (61_234, 5_353));
            let answer = wire.reversed();
            let egress = |site: &Site| site.trial.egress(sent.tuple()).unwrap().map_or(0, |flow| flow.state);
            let ingress = |site: &Site| site.trial.ingress(answer.tuple()).unwrap().map_or(0, |flow| flow.state);
            if answer_first {
                site.prove_ingress(&answer, &delivered(&sent.reversed()), &net.inward());
                assert_eq!(ingress(&site), state::TRANSLATED);
            }
            site.prove_egress(&sent, &wire, &net.outward());
            if !answer_first {
                assert_eq!(egress(&site), state::TRANSLATED);
                site.prove_ingress(&answer, &delivered(&sent.reversed()), &net.inward());
            }
            assert_eq!(egress(&site), state::TRANSLATED | state::PAIRED);
            assert_eq!(ingress(&site), state::TRANSLATED | state::PAIRED);
        }
    }
}

#[test]
fn directions_that_do_not_answer_each_other_are_no_pair() {
    if skipped(&[]) {
        return;
    }
    let mut site = Site::new();
    for net in [net(true), net(false)] {
        let sent = Inner::new(net.pod, net.service, UDP);
        let wire = sent.translated(net.pod, net.far_pod, (sent.ports.0, 5_353));
        // The answer is delivered as if from somebody else.
        site.reset();
        site.prove_egress(&sent, &wire, &net.outward());
        site.prove_ingress(&wire.reversed(), &delivered(&wire.reversed()), &net.inward());
        assert_eq!(site.trial.egress(sent.tuple()).unwrap().unwrap().state, state::TRANSLATED);
        assert_eq!(site.trial.ingress(wire.reversed().tuple()).unwrap().unwrap().state, 0);

        // The answer is so late that it may be to something else.
        site.reset();
        site.set(|settings| settings.memory = 0);
        site.prove_egress(&sent, &wire, &net.outward());
        site.prove_ingress(&wire.reversed(), &delivered(&sent.reversed()), &net.inward());
        assert_eq!(site.trial.egress(sent.tuple()).unwrap().unwrap().state, state::TRANSLATED);
    }
}

#[test]
fn a_proof_renews_and_another_way_through_the_host_replaces() {
    if skipped(&[]) {
        return;
    }
    let mut site = Site::new();
    for net in [net(true), net(false)] {
        let sent = net.sent(UDP);
        site.prove(&net, &sent, &sent);
        for _ in 0..3 {
            site.run(Hook::PodIngress, &sent.frame());
            site.run(Hook::UplinkIngress, &net.inward().around(&sent.reversed()));
        }
        let before = site.trial.egress(sent.tuple()).unwrap().unwrap();
        assert_eq!((before.used.packets, before.used.bytes), (3, 3 * sent.packet().len() as u64));
        let arriving = site.trial.ingress(sent.reversed().tuple()).unwrap().unwrap();
        assert_eq!((arriving.used.packets, arriving.used.bytes), (3, 3 * sent.packet().len() as u64));

        // The next epoch, by another gateway.
        site.set(|settings| settings.epoch += 1);
        let outer = Outer { ethernet: ([2, 0, 0, 0, 0, 0x77], net.outward().ethernet.1), ..net.outward() };
        site.prove_egress(&sent, &sent, &outer);
        let after = site.trial.egress(sent.tuple()).unwrap().unwrap();
        assert_ne!(before.header, after.header);
        assert_eq!(after.epoch, before.epoch + 1);
        assert_eq!(after.state & state::PAIRED, state::PAIRED, "the answers' old proof is within the memory");
        assert_eq!((after.used.packets, after.used.created), (3, before.used.created), "still the same flow");
        assert!(after.used.proved > before.used.proved);
        assert_eq!(after.wire, sent.tuple());

        // The answers now come from another node's address.
        let moved: std::net::IpAddr = net.service;
        site.trial.put_peer(net.far_subnet.into(), Peer { outer: Address::from(moved), flags: 1 }).unwrap();
        site.prove_ingress(&sent.reversed(), &delivered(&sent.reversed()), &Outer { source: moved, ..net.inward() });
        let flow = site.trial.ingress(sent.reversed().tuple()).unwrap().unwrap();
        assert_eq!((flow.outer, flow.used.packets), (Address::from(moved), 3));
        site.reset();
    }
}

#[test]
fn one_pod_learns_no_more_than_its_share_in_a_second() {
    if skipped(&[]) {
        return;
    }
    let mut site = Site::new();
    site.set(|settings| settings.pod_rate = 10);
    let net = net(true);
    let ((), counted) = site.counted(|site| {
        for port in 0..50 {
            let sent = Inner { ports: (1_000 + port, 53), ..net.sent(UDP) };
            site.prove_egress(&sent, &sent, &net.outward());
        }
    });
    // A second may have begun meanwhile, or more on a busy machine.
    let (learned, refused) = (counted[&Counter::LearnedEgress], counted.get(&Counter::LearnRate).unwrap_or(&0));
    assert_eq!(learned + refused, 50);
    assert!(learned.is_multiple_of(10) || *refused == 0, "{learned}");
}

#[test]
fn what_others_send_a_pod_does_not_use_up_what_it_may_open_itself() {
    if skipped(&[]) {
        return;
    }
    let mut site = Site::new();
    for net in [net(true), net(false)] {
        site.reset();
        site.set(|settings| settings.pod_rate = 10);
        let flow = |port: u16| Inner { ports: (1_000 + port, 53), ..net.sent(UDP) };
        let ((), flood) = site.counted(|site| {
            for port in 0..50 {
                let wire = flow(port).reversed();
                site.prove_ingress(&wire, &delivered(&wire), &net.inward());
            }
        });
        assert!(flood[&Counter::LearnedIngress] >= 10, "{flood:?}");
        let (_, own) = site.counted(|site| site.prove_egress(&flow(99), &flow(99), &net.outward()));
        assert!(own.contains_key(&Counter::LearnedEgress), "{own:?}");
    }
}

/// Without checksum offload the VXLAN device cuts what it gets: the first packet is known again by the others' size.
#[test]
fn the_first_that_is_cut_off_teaches_the_flow() {
    if skipped(&[]) {
        return;
    }
    let mut site = Site::new();
    for net in [net(true), net(false)] {
        let whole = Inner { payload: vec![7; 3_000], ..net.sent(TCP) };
        let first = Inner { payload: vec![7; 1_000], ..net.sent(TCP) };
        site.run_in(Hook::PodIngress, &whole.frame(), 1_000);
        site.run(Hook::UplinkEgress, &net.outward().around(&first.forwarded()));
        let flow = site.trial.egress(whole.tuple()).unwrap().expect("it is the same packet's beginning");
        assert_eq!(usize::try_from(flow.largest).unwrap(), first.headers() + 1_000);
        site.reset();

        site.run_in(Hook::PodIngress, &whole.frame(), 999);
        site.run(Hook::UplinkEgress, &net.outward().around(&first.forwarded()));
        assert_eq!(site.trial.egress(whole.tuple()).unwrap(), None, "another size");
    }
}
