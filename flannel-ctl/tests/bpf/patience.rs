//! What is over soon is not learned, and costs no more than looking at it once.

use flannel_common::state;
use flannel_ctl::kernel::fastpath::Hook;

use crate::{
    frame::{Inner, TCP, UDP},
    site::{Site, delivered, net},
    skipped,
};

#[test]
fn a_flow_that_is_over_soon_is_not_learned() {
    if skipped(&[]) {
        return;
    }
    let mut site = Site::new();
    for (net, port) in [(net(true), 40_001), (net(false), 40_002)] {
        site.set(|settings| settings.patience = 3);
        // A port of its own: how often a flow was seen outlives the other cases.
        let sent = Inner::new(net.pod, net.far_pod, UDP).translated(net.pod, net.far_pod, (port, 53));
        let answer = delivered(&sent.reversed());
        for packet in 0..3 {
            site.prove_egress(&sent, &sent, &net.outward());
            site.prove_ingress(&sent.reversed(), &answer, &net.inward());
            assert!(site.trial.egress(sent.tuple()).unwrap().is_none(), "after {packet} packets before it");
        }
        site.prove_egress(&sent, &sent, &net.outward());
        site.prove_ingress(&sent.reversed(), &answer, &net.inward());
        let flow = site.trial.egress(sent.tuple()).unwrap().expect("the fourth packet is learned from");
        assert_eq!(flow.state & state::PAIRED, state::PAIRED, "so is the fourth answer");
    }
}

/// As clients use their ports again: each connection is short, though their addresses and ports are seen for ever.
#[test]
fn short_connections_on_one_port_are_not_learned() {
    if skipped(&[]) {
        return;
    }
    let mut site = Site::new();
    for (net, port) in [(net(true), 40_003), (net(false), 40_004)] {
        site.set(|settings| settings.patience = 3);
        let plain = Inner::new(net.pod, net.far_pod, TCP).translated(net.pod, net.far_pod, (port, 80));
        for connection in 0..5 {
            for flags in [0x02, 0x10, 0x18, 0x10, 0x11, 0x10] {
                let sent = Inner { flags, ..plain.clone() };
                // The other side answers with the same flags, and acknowledges.
                let answer = Inner { flags: flags | 0x10, ..plain.reversed() };
                site.prove_egress(&sent, &sent, &net.outward());
                site.run(Hook::UplinkIngress, &net.inward().around(&answer));
                site.prove_ingress(&answer, &delivered(&answer), &net.inward());
                let known = (site.trial.egress(sent.tuple()).unwrap(), site.trial.ingress(answer.tuple()).unwrap());
                assert!(known.0.is_none() && known.1.is_none(), "connection {connection}, flags {flags:#x}: {known:?}");
            }
        }
    }
}

/// `uplink_ingress` says of some packets that they need not be looked at again when they come out of the tunnel.
#[test]
fn a_packet_that_was_looked_at_already_teaches_no_sooner_and_no_later() {
    if skipped(&[]) {
        return;
    }
    let mut site = Site::new();
    for (net, port) in [(net(true), 40_005), (net(false), 40_006)] {
        site.set(|settings| settings.patience = 3);
        let answer = Inner::new(net.far_pod, net.pod, UDP).translated(net.far_pod, net.pod, (53, port));
        for packet in 0..4 {
            site.run(Hook::UplinkIngress, &net.inward().around(&answer));
            let known = site.trial.ingress(answer.tuple()).unwrap();
            assert!(known.is_none(), "after {packet} packets: {known:?}");
            site.prove_ingress(&answer, &delivered(&answer), &net.inward());
        }
        assert!(site.trial.ingress(answer.tuple()).unwrap().is_some(), "the fourth packet is learned from");
        // What was said of one packet is not said of the next.
        site.set(|settings| settings.patience = 0);
        let end = Inner { flags: 0x11, ..Inner::new(net.far_pod, net.pod, TCP) };
        site.run(Hook::UplinkIngress, &net.inward().around(&end));
        let other = Inner { payload: vec![1, 2, 3], flags: 0x10, ..end };
        site.prove_ingress(&other, &delivered(&other), &net.inward());
        assert!(site.trial.ingress(other.tuple()).unwrap().is_some(), "another packet is learned from");
    }
}
