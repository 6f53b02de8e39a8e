//! No daemon puts off the deadline any more.

use flannel_common::{Counter, Peer, Settings};
use flannel_ctl::kernel::fastpath::Hook;

use crate::{
    counters::{BOTH, Case},
    frame::{Outer, TCP},
    site::{NEXT, Net, Site, delivered, net},
    skipped,
};

pub(crate) fn cases() -> Vec<Case> {
    let case = |name, counter, hook, packet| Case { name, counter, families: BOTH, hook, packet };
    vec![
        case("of a flow that was fast", Counter::EgressDeserted, Hook::PodIngress, |site, net| {
            known(site, net);
            net.sent(TCP).frame().into()
        }),
        case(
            "of a flow that came out of the tunnel fast",
            Counter::IngressDeserted,
            Hook::UplinkIngress,
            |site, net| {
                known(site, net);
                net.inward().around(&net.sent(TCP).reversed()).into()
            },
        ),
        case("from a subnet that another node may have leased since", Counter::IngressDeserted, Hook::UplinkIngress, {
            |site, net| {
                site.set(over);
                Outer { source: net.service, ..net.inward() }.around(&net.sent(TCP).reversed()).into()
            }
        }),
        case("what would be learned into the tunnel", Counter::EgressDeserted, Hook::UplinkEgress, |site, net| {
            site.set(over);
            site.run(Hook::PodIngress, &net.sent(TCP).frame());
            net.outward().around(&net.sent(TCP).forwarded()).into()
        }),
        case("what would be learned out of the tunnel", Counter::IngressDeserted, Hook::PodEgress, |site, net| {
            site.set(over);
            let wire = net.sent(TCP).reversed();
            site.run(
                Hook::VtepIngress,
                &crate::frame::Inner { ethernet: net.inward().inner_ethernet, ..wire.clone() }.frame(),
            );
            delivered(&wire).forwarded().frame().into()
        }),
    ]
}

fn over(settings: &mut Settings) {
    settings.deadline = 1;
}

/// A flow both of whose directions were fast until the deadline, which is over now.
fn known(site: &mut Site, net: &Net) {
    let sent = net.sent(TCP);
    site.prove(net, &sent, &sent);
    let (answers, deadline) = (sent.reversed().tuple(), 1);
    let mut egress = site.trial.egress(sent.tuple()).unwrap().unwrap();
    (egress.expires, egress.until) = (deadline, 1);
    site.trial.put_egress(sent.tuple(), egress).unwrap();
    let mut ingress = site.trial.ingress(answers).unwrap().unwrap();
    (ingress.expires, ingress.until) = (deadline, 1);
    site.trial.put_ingress(answers, ingress).unwrap();
    site.set(over);
}

#[test]
fn no_proof_outlasts_the_deadline() {
    if skipped(&[]) {
        return;
    }
    let mut site = Site::new();
    for net in [net(true), net(false)] {
        let (sent, hour) = (net.sent(TCP), 3_600_000_000_000);
        site.reset();
        site.prove(&net, &sent, &sent);
        let proved = |site: &Site| {
            let egress = site.trial.egress(sent.tuple()).unwrap().unwrap();
            let ingress = site.trial.ingress(sent.reversed().tuple()).unwrap().unwrap();
            [(egress.expires, egress.used.proved), (ingress.expires, ingress.used.proved)]
        };
        let first = proved(&site);
        for (expires, proved) in first {
            assert_eq!(expires, proved + hour, "the whole validity");
        }
        // Known flows that are proved again, and new ones.
        let deadline = first[0].1 + hour / 2;
        site.set(|settings| settings.deadline = deadline);
        for forgotten in [false, true] {
            site.set(|settings| settings.epoch += 1);
            if forgotten {
                site.trial.forget().unwrap();
            }
            site.prove(&net, &sent, &sent);
            for (expires, _) in proved(&site) {
                assert_eq!(expires, deadline, "no longer than anybody vouches for what is known");
            }
        }
    }
}

#[test]
fn a_deserted_node_drops_nothing_and_goes_on_when_a_daemon_is_back() {
    if skipped(&[]) {
        return;
    }
    let mut site = Site::new();
    for net in [net(true), net(false)] {
        site.reset();
        let sent = net.sent(TCP);
        known(&mut site, &net);
        // The subnet went to another node meanwhile, whose packets come now.
        let moved = Outer { source: net.service, ..net.inward() };
        let packet = moved.around(&sent.reversed());
        assert_eq!(site.run(Hook::UplinkIngress, &packet).verdict, NEXT);
        let peer = Peer { outer: net.service.into(), flags: Peer::ZERO_CHECKSUM };
        site.trial.put_peer(net.far_subnet.into(), peer).unwrap();
        site.set(|settings| settings.deadline = u64::MAX);
        site.prove_egress(&sent, &sent, &Outer { destination: net.service, ..net.outward() });
        site.prove_ingress(&sent.reversed(), &delivered(&sent.reversed()), &moved);
        let (_, counted) = site.counted(|site| site.run(Hook::UplinkIngress, &packet));
        assert_eq!(counted.get(&Counter::IngressFast), Some(&1), "{counted:?}");
    }
}
