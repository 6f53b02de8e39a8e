//! One node as its programs see it: this pod, that peer.

use std::{collections::BTreeMap, net::IpAddr};

use flannel_common::{Address, Counter, FamilySettings, Mac, Peer, PodInterface, Settings, state};
use flannel_ctl::kernel::fastpath::{
    Hook, Sizes,
    trial::{Context, Outcome, Trial},
};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};

use crate::frame::{Inner, Outer};

pub(crate) const NEXT: i32 = -1;
pub(crate) const DROP: i32 = 2;
pub(crate) const REDIRECT: i32 = 7;

/// Interface of the pod, and of everything else: the kernel's test runs know no other unless it exists.
pub(crate) const LOOPBACK: u32 = 1;
pub(crate) const PORT: u16 = 8472;
pub(crate) const OUR_VTEP: [u8; 6] = [2, 0, 0, 0, 1, 1];
pub(crate) const THEIR_VTEP: [u8; 6] = [2, 0, 0, 0, 1, 2];

/// The addresses of one family.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Net {
    pub(crate) v4: bool,
    pub(crate) local: IpAddr,
    pub(crate) remote: IpAddr,
    pub(crate) pod: IpAddr,
    pub(crate) far_pod: IpAddr,
    pub(crate) far_subnet: IpAddr,
    pub(crate) service: IpAddr,
}

pub(crate) fn net(v4: bool) -> Net {
    let address = |v4_text: &str, v6_text: &str| (if v4 { v4_text } else { v6_text }).parse().unwrap();
    Net {
        v4,
        local: address("192.0.2.1", "2001:db8::1"),
        remote: address("192.0.2.2", "2001:db8::2"),
        pod: address("10.5.1.7", "fd05:0:0:1::7"),
        far_pod: address("10.5.2.7", "fd05:0:0:2::7"),
        far_subnet: address("10.5.2.0", "fd05:0:0:2::"),
        service: address("10.96.0.10", "fd96::10"),
    }
}

impl Net {
    /// What a pod sends to a pod of the peer's.
    pub(crate) fn sent(&self, protocol: u8) -> Inner {
        Inner::new(self.pod, self.far_pod, protocol)
    }

    /// The kernel's encapsulation towards the peer.
    pub(crate) fn outward(&self) -> Outer {
        Outer {
            ethernet: ([2, 0, 0, 0, 0, 2], [2, 0, 0, 0, 0, 1]),
            inner_ethernet: (THEIR_VTEP, OUR_VTEP),
            source: self.local,
            destination: self.remote,
            ports: (45_678, PORT),
            tos: 0,
            id: 0x7777,
            udp_checksum: 0,
            flags: 0x0800_0000,
            vni: 1,
        }
    }

    /// The peer's towards us.
    pub(crate) fn inward(&self) -> Outer {
        let out = self.outward();
        Outer {
            ethernet: (out.ethernet.1, out.ethernet.0),
            inner_ethernet: (OUR_VTEP, THEIR_VTEP),
            source: self.remote,
            destination: self.local,
            ..out
        }
    }
}

pub(crate) struct Site {
    pub(crate) trial: Trial,
    pub(crate) pod: u32,
    pub(crate) uplink: u32,
}

impl Site {
    /// Loads the programs, and keeps this thread on one CPU: what they correlate is kept per CPU.
    pub(crate) fn new() -> Self {
        Self::with(Sizes { flows: 1024, peers: 16, pods: 16 })
    }

    /// The same with room for so many.
    pub(crate) fn with(sizes: Sizes) -> Self {
        stay_on_one_cpu();
        let mut site = Self { trial: Trial::load(sizes).unwrap(), pod: LOOPBACK, uplink: LOOPBACK };
        site.reset();
        site
    }

    /// As it was when new, counters aside.
    pub(crate) fn reset(&mut self) {
        self.trial.set(settings()).unwrap();
        for net in [net(true), net(false)] {
            let peer = Peer { outer: net.remote.into(), flags: Peer::ZERO_CHECKSUM };
            self.trial.put_peer(net.far_subnet.into(), peer).unwrap();
        }
        self.trial.put_pod(self.pod, PodInterface::new(1450)).unwrap();
        self.trial.forget().unwrap();
        // Whatever entered the stack has left it.
        let nothing = [0; 60];
        self.run(Hook::UplinkEgress, &nothing);
        self.run(Hook::PodEgress, &nothing);
    }

    pub(crate) fn run(&mut self, hook: Hook, packet: &[u8]) -> Outcome {
        self.run_in(hook, packet, 0)
    }

    pub(crate) fn run_in(&mut self, hook: Hook, packet: &[u8], segment: u32) -> Outcome {
        let interface = if matches!(hook, Hook::PodIngress | Hook::PodEgress) { self.pod } else { self.uplink };
        let interface = if interface == LOOPBACK { 0 } else { interface };
        self.trial.run(hook, packet, Context { interface, segment }).unwrap()
    }

    /// A change to the settings.
    pub(crate) fn set(&mut self, change: impl FnOnce(&mut Settings)) {
        let mut settings = self.trial.settings().unwrap();
        change(&mut settings);
        self.trial.set(settings).unwrap();
    }

    /// The kernel path lets `sent` through, on the wire as `wire`: one direction is proved.
    pub(crate) fn prove_egress(&mut self, sent: &Inner, wire: &Inner, outer: &Outer) -> Outcome {
        self.run(Hook::PodIngress, &sent.frame());
        self.run(Hook::UplinkEgress, &outer.around(&wire.forwarded()))
    }

    /// The same for a packet that arrives as `wire` and is delivered as `delivered`.
    pub(crate) fn prove_ingress(&mut self, wire: &Inner, delivered: &Inner, outer: &Outer) -> Outcome {
        let arriving = Inner { ethernet: outer.inner_ethernet, ..wire.clone() };
        self.run(Hook::VtepIngress, &arriving.frame());
        self.run(Hook::PodEgress, &delivered.forwarded().frame())
    }

    /// Both directions of what the pod sends as `sent` and the wire carries as `wire`.
    pub(crate) fn prove(&mut self, net: &Net, sent: &Inner, wire: &Inner) {
        let plain = |inner: &Inner| Inner { flags: 0x10, payload: vec![7; largest(inner)], ..inner.clone() };
        let (sent, wire) = (plain(sent), plain(wire));
        self.prove_egress(&sent, &wire, &net.outward());
        self.prove_ingress(&wire.reversed(), &delivered(&sent.reversed()), &net.inward());
        let flow = self.trial.egress(sent.tuple()).unwrap().expect("an egress flow was learned");
        assert_eq!(flow.state & state::PAIRED, state::PAIRED, "the ingress flow was learned");
    }

    /// The counters that moved while `act` ran.
    pub(crate) fn counted<T>(&mut self, act: impl FnOnce(&mut Self) -> T) -> (T, BTreeMap<Counter, u64>) {
        let before = self.trial.counters().unwrap();
        let outcome = act(self);
        let after = self.trial.counters().unwrap();
        let moved = before.into_iter().zip(after).filter(|(before, after)| before.1 != after.1);
        (outcome, moved.map(|(before, after)| (after.0, after.1 - before.1)).collect())
    }
}

/// How much payload fits through the tunnel.
pub(crate) fn largest(inner: &Inner) -> usize {
    let mtu = if inner.source.is_ipv4() { settings().v4.mtu } else { settings().v6.mtu };
    usize::try_from(mtu).unwrap() - inner.headers()
}

/// As the pod gets it from its gateway.
pub(crate) fn delivered(inner: &Inner) -> Inner {
    Inner { ethernet: ([2, 0, 0, 0, 9, 7], [2, 0, 0, 0, 9, 1]), ..inner.clone() }
}

pub(crate) fn stay_on_one_cpu() {
    let mut cpus = CpuSet::new();
    let here = nix::sched::sched_getcpu().unwrap();
    cpus.set(here).unwrap();
    sched_setaffinity(Pid::from_raw(0), &cpus).unwrap();
}

pub(crate) fn settings() -> Settings {
    let family = |net: Net| FamilySettings {
        local: net.local.into(),
        mask: Address::mask(net.v4, if net.v4 { 24 } else { 64 }),
        mtu: 1450 - if net.v4 { 0 } else { 20 },
        mac: Mac(OUR_VTEP),
        enabled: 1,
    };
    Settings {
        validity: 3_600_000_000_000,
        memory: 3_600_000_000_000,
        deadline: u64::MAX,
        tick: 10_000_000,
        epoch: 7,
        enabled: 1,
        vni: 1,
        first_port: 32_768,
        ports: 28_231,
        drop_forged: 1,
        pod_rate: 1_000_000,
        port: PORT.to_be(),
        patience: 0,
        v4: family(net(true)),
        v6: family(net(false)),
    }
}
