//! What pods and strangers on the underlay may try.

use flannel_common::Counter;
use flannel_ctl::kernel::fastpath::Hook;

use crate::{
    counters::{BOTH, Case},
    frame::{Inner, Outer, TCP, UDP},
    site::{REDIRECT, Site, net},
    skipped,
};

pub(crate) fn cases() -> Vec<Case> {
    vec![Case {
        name: "a stranger's reset",
        counter: Counter::IngressControl,
        families: BOTH,
        hook: Hook::UplinkIngress,
        packet: |site, net| {
            let sent = net.sent(TCP);
            site.prove(net, &sent, &sent);
            let reset = Inner { flags: 4, ..sent.reversed() };
            Outer { source: net.service, ..net.inward() }.around(&reset).into()
        },
    }]
}

#[test]
fn a_strangers_reset_does_not_end_a_flow() {
    if skipped(&[]) {
        return;
    }
    let mut site = Site::new();
    for net in [net(true), net(false)] {
        let sent = net.sent(TCP);
        site.prove(&net, &sent, &sent);
        let reset = Inner { flags: 4, ..sent.reversed() };
        site.run(Hook::UplinkIngress, &Outer { source: net.service, ..net.inward() }.around(&reset));
        assert!(site.trial.ingress(sent.reversed().tuple()).unwrap().is_some());
        assert!(site.trial.egress(sent.tuple()).unwrap().is_some());
        // The right node's does.
        site.run(Hook::UplinkIngress, &net.inward().around(&reset));
        assert!(site.trial.ingress(sent.reversed().tuple()).unwrap().is_none());
        assert!(site.trial.egress(sent.tuple()).unwrap().is_none());
    }
}

#[test]
fn a_pod_cannot_end_another_pods_flow() {
    if skipped(&[]) {
        return;
    }
    let mut site = Site::new();
    for net in [net(true), net(false)] {
        let sent = net.sent(TCP);
        site.prove(&net, &sent, &sent);
        let mut flow = site.trial.egress(sent.tuple()).unwrap().unwrap();
        flow.pod += 1;
        site.trial.put_egress(sent.tuple(), flow).unwrap();
        site.run(Hook::PodIngress, &Inner { flags: 4, ..sent.clone() }.frame());
        assert!(site.trial.egress(sent.tuple()).unwrap().is_some());
        assert!(site.trial.ingress(sent.reversed().tuple()).unwrap().is_some());
    }
}

/// The pod sends a packet that a policy drops, and then one of another flow that is fast, made to look like it.
#[test]
fn a_packet_on_the_fast_path_proves_nothing_for_one_that_was_dropped() {
    if skipped(&[]) {
        return;
    }
    let mut site = Site::new();
    for net in [net(true), net(false)] {
        for protocol in [TCP, UDP] {
            site.reset();
            // Allowed to the service, not to the pod behind it.
            let allowed = Inner::new(net.pod, net.service, protocol);
            let denied = allowed.translated(net.pod, net.far_pod, allowed.ports);
            site.prove(&net, &allowed, &denied);
            site.run(Hook::PodIngress, &denied.frame());
            let outcome = site.run(Hook::PodIngress, &allowed.frame());
            assert_eq!(outcome.verdict, REDIRECT);
            let (_, counted) = site.counted(|site| site.run(Hook::UplinkEgress, &outcome.packet));
            assert!(counted.is_empty(), "{counted:?}");
            assert_eq!(site.trial.egress(denied.tuple()).unwrap(), None);
        }
    }
}

/// The same out of the tunnel.
#[test]
fn a_packet_for_a_pod_proves_nothing_for_one_that_was_dropped() {
    if skipped(&[]) {
        return;
    }
    let mut site = Site::new();
    for net in [net(true), net(false)] {
        let dropped = net.sent(UDP).reversed();
        site.run(Hook::VtepIngress, &dropped.frame());
        // From a neighbour on the same node, not routed; from the same, with another life.
        for other in [dropped.clone(), Inner { ttl: 30, ..dropped.clone() }] {
            let (_, counted) = site.counted(|site| site.run(Hook::PodEgress, &other.frame()));
            assert!(!counted.contains_key(&Counter::LearnedIngress), "{counted:?}");
        }
        assert_eq!(site.trial.ingress(dropped.tuple()).unwrap(), None);
    }
}
