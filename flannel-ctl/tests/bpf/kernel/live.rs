//! The programs attached to interfaces: what test runs cannot show.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use flannel_common::{Counter, PodInterface};
use flannel_ctl::kernel::fastpath::{
    Hook, Sizes,
    trial::{Context, Trial},
};
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};
use xtask::lab::wait;

use super::{
    rig::{Rig, attach_all},
    with_identification_of,
};
use crate::{
    frame::{Inner, TCP, UDP},
    site::{LOOPBACK, Site, delivered, net, settings},
    skipped,
};

/// What a counter says now.
pub(super) fn count(site: &Site, counter: Counter) -> u64 {
    site.trial.counters().unwrap().into_iter().find(|(known, _)| *known == counter).unwrap().1
}

#[test]
fn a_tagged_packet_is_the_kernels() {
    if skipped(&["ip", "bridge"]) {
        return;
    }
    let rig = Rig::new("bpftag");
    rig.inside(|site| {
        site.trial.attach(Hook::PodIngress, "pod0").unwrap();
        site.trial.attach(Hook::UplinkIngress, "up0").unwrap();
        let tagged = |mut frame: Vec<u8>| {
            frame.splice(12..12, [0x81, 0x00, 0, 5]);
            frame
        };
        let sent = net(true).sent(UDP);
        rig.pod_sends(&tagged(sent.frame()));
        rig.wire_sends(&tagged(net(true).inward().around(&sent.reversed())));
        for counter in [Counter::EgressVlan, Counter::IngressVlan] {
            wait::until("the tag to be counted", wait::SHORT, || (count(site, counter) == 1).then_some(())).unwrap();
        }
    });
}

#[test]
fn packets_in_flight_teach_the_flow_and_then_fly() {
    if skipped(&["ip", "bridge"]) {
        return;
    }
    let rig = Rig::new("bpflive");
    rig.inside(|site| {
        attach_all(site);
        for net in [net(true), net(false)] {
            for protocol in [TCP, UDP] {
                let before = (count(site, Counter::EgressFast), count(site, Counter::IngressFast));
                let sent = net.sent(protocol);
                let answer = net.inward().around(&sent.reversed());
                let slow = rig.through_the_tunnel(&sent.frame());
                assert_eq!(rig.out_of_the_tunnel(&answer), delivered(&sent.reversed().forwarded()).frame());
                assert_eq!((count(site, Counter::EgressFast), count(site, Counter::IngressFast)), before);
                // Out of the uplink, and into the pod, by themselves.
                let fast = rig.through_the_tunnel(&sent.frame());
                assert_eq!(with_identification_of(&slow, &fast), fast);
                assert_eq!(rig.out_of_the_tunnel(&answer), delivered(&sent.reversed().forwarded()).frame());
                let after = (count(site, Counter::EgressFast), count(site, Counter::IngressFast));
                assert_eq!(after, (before.0 + 1, before.1 + 1));
            }
        }
    });
}

/// With room for one flow, CPUs that learn at once take it from each other; one may find none to take.
#[test]
fn a_map_that_all_cpus_fill_at_once_is_full_and_nothing_worse() {
    if skipped(&[]) {
        return;
    }
    let mut trial = Trial::load(Sizes { flows: 1, peers: 16, pods: 16 }).unwrap();
    trial.set(settings()).unwrap();
    let net = net(true);
    trial.put_peer(net.far_subnet.into(), flannel_common::Peer { outer: net.remote.into(), flags: 1 }).unwrap();
    trial.put_pod(LOOPBACK, PodInterface::new(1450)).unwrap();
    let trial = &trial;
    let allowed = sched_getaffinity(Pid::from_raw(0)).unwrap();
    let cpus: Vec<_> = (0..CpuSet::count()).filter(|cpu| allowed.is_set(*cpu).unwrap()).collect();
    if cpus.len() < 2 {
        println!("SKIPPED: one CPU has nobody to share with");
        return;
    }
    let full = AtomicBool::new(false);
    let tries = 200_000_u32;
    thread::scope(|scope| {
        for cpu in cpus {
            let full = &full;
            scope.spawn(move || {
                let mut here = CpuSet::new();
                here.set(cpu).unwrap();
                sched_setaffinity(Pid::from_raw(0), &here).unwrap();
                for number in 0..tries {
                    let port = 1 + u16::try_from(number % 60_000).unwrap();
                    let sent = Inner { ports: (port, u16::try_from(cpu).unwrap()), ..net.sent(UDP) };
                    trial.run(Hook::PodIngress, &sent.frame(), Context::default()).unwrap();
                    let leaving = net.outward().around(&sent.forwarded());
                    trial.run(Hook::UplinkEgress, &leaving, Context::default()).unwrap();
                    if number % 64 == 0 {
                        let counters = trial.counters().unwrap();
                        let seen = counters.iter().any(|(counter, n)| *counter == Counter::LearnFull && *n > 0);
                        full.fetch_or(seen, Ordering::Relaxed);
                    }
                    if full.load(Ordering::Relaxed) {
                        break;
                    }
                }
            });
        }
    });
    assert!(full.into_inner(), "{tries} flows on each CPU, and there was always room");
}
