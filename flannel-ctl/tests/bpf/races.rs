//! Several CPUs at once on one entry.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use flannel_common::{Peer, PodInterface};
use flannel_ctl::kernel::fastpath::{
    Hook, Sizes,
    trial::{Context, Trial},
};
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};

use crate::{
    frame::{Inner, Outer, UDP, right_outer_checksum},
    site::{LOOPBACK, Net, REDIRECT, delivered, net, settings},
    skipped,
};

const ROUNDS: u32 = 60_000;

/// A map with room for one flow: whoever is learned takes the memory of whoever was there, while others may be
/// reading it.
fn crowded() -> Trial {
    let mut trial = Trial::load(Sizes { flows: 1, peers: 16, pods: 16 }).unwrap();
    trial.set(settings()).unwrap();
    for net in [net(true), net(false)] {
        trial.put_peer(net.far_subnet.into(), Peer { outer: net.remote.into(), flags: 1 }).unwrap();
    }
    trial.put_pod(LOOPBACK, PodInterface::new(1450)).unwrap();
    trial
}

/// Runs `reader` on one CPU until it has had its rounds, and `writer` on another meanwhile.
fn side_by_side(writer: impl Fn() + Send, reader: impl Fn() + Send) {
    let allowed = sched_getaffinity(Pid::from_raw(0)).unwrap();
    let cpus: Vec<_> = (0..CpuSet::count()).filter(|cpu| allowed.is_set(*cpu).unwrap()).collect();
    let [one, other, ..] = cpus[..] else {
        println!("SKIPPED: one CPU has nobody to share with");
        return;
    };
    let stay = |cpu| {
        let mut here = CpuSet::new();
        here.set(cpu).unwrap();
        sched_setaffinity(Pid::from_raw(0), &here).unwrap();
    };
    let over = AtomicBool::new(false);
    let over = &over;
    thread::scope(|scope| {
        scope.spawn(move || {
            stay(other);
            while !over.load(Ordering::Relaxed) {
                writer();
            }
        });
        let reader = scope.spawn(move || {
            stay(one);
            for _ in 0..ROUNDS {
                reader();
            }
        });
        let outcome = reader.join();
        over.store(true, Ordering::Relaxed);
        outcome.unwrap();
    });
}

fn run(trial: &Trial, hook: Hook, frame: &[u8]) -> (i32, Vec<u8>) {
    let outcome = trial.run(hook, frame, Context::default()).unwrap();
    (outcome.verdict, outcome.packet)
}

fn prove_egress(trial: &Trial, sent: &Inner, wire: &Inner, outer: &Outer) {
    run(trial, Hook::PodIngress, &sent.frame());
    run(trial, Hook::UplinkEgress, &outer.around(&wire.forwarded()));
}

fn prove_ingress(trial: &Trial, wire: &Inner, to_pod: &Inner) {
    run(trial, Hook::VtepIngress, &wire.frame());
    run(trial, Hook::PodEgress, &to_pod.forwarded().frame());
}

/// Two flows of one pod with nothing in common but it: what is sent, and what is on the wire.
fn flows(net: &Net) -> [(Inner, Inner); 2] {
    let one = Inner::new(net.pod, net.service, UDP);
    let other = Inner { ports: (1, 2), ..one.clone() };
    let wire = |sent: &Inner, ports| sent.translated(net.pod, net.far_pod, ports);
    [(one.clone(), wire(&one, (40_000, 53))), (other.clone(), wire(&other, (0x1111, 0x2222)))]
}

#[test]
fn a_flow_that_takes_anothers_place_does_not_lend_it_its_headers() {
    if skipped(&[]) {
        return;
    }
    for net in [net(true), net(false)] {
        let trial = &crowded();
        let [(sent, wire), (other, other_wire)] = &flows(&net);
        let gateway = Outer { ethernet: ([2, 0, 0, 0, 0, 0x77], net.outward().ethernet.1), ..net.outward() };
        prove_ingress(trial, &wire.reversed(), &delivered(&sent.reversed()));
        let expected = net.outward().around(&wire.forwarded());
        side_by_side(
            || {
                prove_egress(trial, other, other_wire, &gateway);
                prove_egress(trial, sent, wire, &net.outward());
            },
            || {
                let (verdict, mut out) = run(trial, Hook::PodIngress, &sent.frame());
                if verdict == REDIRECT {
                    if net.v4 {
                        out[18..20].copy_from_slice(&expected[18..20]);
                        right_outer_checksum(&mut out);
                    }
                    assert_eq!(out, expected);
                }
            },
        );
    }
}

#[test]
fn a_flow_that_takes_anothers_place_does_not_get_its_packets() {
    if skipped(&[]) {
        return;
    }
    for net in [net(true), net(false)] {
        let trial = &crowded();
        let [(sent, wire), (other, other_wire)] = &flows(&net);
        prove_egress(trial, sent, wire, &net.outward());
        let arriving = net.inward().around(&wire.reversed());
        let to_pod = delivered(&sent.reversed());
        let to_other = Inner { ethernet: ([2, 0x77, 0, 0, 0, 0], to_pod.ethernet.1), ..other.reversed() };
        let expected = to_pod.forwarded().frame();
        side_by_side(
            || {
                prove_ingress(trial, &other_wire.reversed(), &to_other);
                prove_ingress(trial, &wire.reversed(), &to_pod);
            },
            || {
                let (verdict, out) = run(trial, Hook::UplinkIngress, &arriving);
                if verdict == REDIRECT {
                    assert_eq!(out, expected);
                }
            },
        );
    }
}
