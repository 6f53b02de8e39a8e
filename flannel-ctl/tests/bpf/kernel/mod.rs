//! The same packets through the running kernel's VXLAN device and through the fast path: the frames that come out are
//! the same, but for the outer identification, which is random, or the fast path leaves the packet alone.

mod generate;
mod live;
mod rig;
mod segments;

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
};

use flannel_common::{EgressFlow, IngressFlow, state};
use flannel_ctl::kernel::fastpath::Hook;
use proptest::{
    strategy::Strategy,
    test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner},
};

use crate::{
    frame::{Inner, right_outer_checksum, sum},
    kernel::{
        generate::{Arriving, Leaving},
        rig::Rig,
    },
    site::{NEXT, REDIRECT, Site, delivered, net},
    skipped,
};

/// Packets of each direction, unless `PROPTEST_CASES` says otherwise.
const CASES: u32 = 3_000;
/// One of so many must take the fast path, of each kind: one that declines nearly everything is none, however right the
/// rest is. With the usual seed it is one of twenty of the rarest kind.
const RARE: u32 = 40;
/// Where the generator begins, unless `FLANNEL_SEED` says otherwise.
const SEED: u64 = 0x0f1a_22e1;

/// Tries so much of what `strategy` makes up, shrinks what fails, and says by which seed it comes again.
fn try_all<S: Strategy>(usually: u32, strategy: &S, test: impl Fn(S::Value) -> Result<(), TestCaseError>) {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let seed = number("FLANNEL_SEED").unwrap_or(SEED);
    let cases = number("PROPTEST_CASES").map_or(usually, |cases| u32::try_from(cases).unwrap());
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 2_000, ..Config::default() };
    let mut octets = [0; 32];
    octets[..8].copy_from_slice(&seed.to_le_bytes());
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &octets));
    if let Err(failure) = runner.run(strategy, test) {
        panic!("FLANNEL_SEED={seed}: {failure}");
    }
}

/// How many packets took the fast path, by family and protocol.
#[derive(Default)]
struct Taken {
    tried: Cell<u32>,
    taken: RefCell<BTreeMap<(bool, u8), u32>>,
}

impl Taken {
    fn note(&self, inner: &Inner) {
        *self.taken.borrow_mut().entry((inner.source.is_ipv4(), inner.protocol)).or_default() += 1;
    }

    /// Otherwise next to nothing has been compared.
    fn assert_enough(&self) {
        let (tried, taken) = (self.tried.get(), self.taken.borrow());
        println!("of {tried} took the fast path: {taken:?}");
        assert_eq!(taken.len(), 4, "both families, TCP and UDP: {taken:?}");
        assert!(taken.values().all(|count| *count >= tried / RARE), "{taken:?} of {tried}");
    }
}

/// The kernel's frame as the fast path may have it.
fn with_identification_of(frame: &[u8], ours: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    if frame[12..14] == [0x08, 0x00] && ours.len() == frame.len() {
        frame[18..20].copy_from_slice(&ours[18..20]);
        right_outer_checksum(&mut frame);
    }
    frame
}

/// Has the kernel send a plain packet of the flow, so that it is learned; the answers are made up.
fn learn_egress(rig: &Rig, site: &mut Site, inner: &Inner) {
    let known = site.trial.egress(inner.tuple()).unwrap();
    let same = |flow: EgressFlow| flow.state & state::PAIRED != 0 && flow.dscp == u16::from(inner.tos & !3);
    if known.is_some_and(same) {
        return;
    }
    let net = net(inner.source.is_ipv4());
    let plain = generate::plain(inner);
    site.run(Hook::PodIngress, &plain.frame());
    let encapsulated = rig.through_the_tunnel(&plain.frame());
    site.run(Hook::UplinkEgress, &encapsulated);
    let answer = plain.reversed();
    site.prove_ingress(&answer, &delivered(&answer), &net.inward());
    let flow = site.trial.egress(inner.tuple()).unwrap().expect("the kernel's frame teaches the flow");
    assert_eq!(flow.state, state::PAIRED);
}

/// The same for a flow that arrives; what the pod sends is made up.
fn learn_ingress(rig: &Rig, site: &mut Site, inner: &Inner) {
    let known = site.trial.ingress(inner.tuple()).unwrap();
    let same = |flow: IngressFlow| flow.state & state::PAIRED != 0 && flow.dscp == u32::from(inner.tos & !3);
    if known.is_some_and(same) {
        return;
    }
    let net = net(inner.source.is_ipv4());
    let plain = generate::plain(inner);
    site.run(Hook::VtepIngress, &Inner { ethernet: net.inward().inner_ethernet, ..plain.clone() }.frame());
    let delivered = rig.out_of_the_tunnel(&net.inward().around(&plain));
    site.run(Hook::PodEgress, &delivered);
    let sent = Inner { ethernet: net.sent(plain.protocol).ethernet, ..plain.reversed() };
    site.prove_egress(&sent, &sent, &net.outward());
    let flow = site.trial.ingress(inner.tuple()).unwrap().expect("the kernel's frame teaches the flow");
    assert_eq!(flow.state, state::PAIRED);
}

#[test]
fn what_the_fast_path_sends_is_what_the_kernels_device_sends() {
    if skipped(&["ip", "bridge"]) {
        return;
    }
    let rig = Rig::new("bpfenc");
    rig.inside(|site| {
        let site = RefCell::new(site);
        let taken = Taken::default();
        try_all(CASES, &generate::leaving(), |Leaving(inner)| {
            let site = &mut **site.borrow_mut();
            taken.tried.set(taken.tried.get() + 1);
            learn_egress(&rig, site, &inner);
            let frame = inner.frame();
            let outcome = site.run(Hook::PodIngress, &frame);
            if outcome.verdict == NEXT {
                proptest::prop_assert_eq!(outcome.packet, frame);
                return Ok(());
            }
            proptest::prop_assert_eq!(outcome.verdict, REDIRECT);
            let kernels = rig.through_the_tunnel(&frame);
            proptest::prop_assert_eq!(with_identification_of(&kernels, &outcome.packet), outcome.packet.clone());
            if frame[12] == 0x08 {
                proptest::prop_assert_eq!(sum(&outcome.packet[14..34]), 0xffff);
            }
            taken.note(&inner);
            Ok(())
        });
        taken.assert_enough();
    });
}

#[test]
fn what_the_fast_path_delivers_is_what_the_kernel_delivers() {
    if skipped(&["ip", "bridge"]) {
        return;
    }
    let rig = Rig::new("bpfdec");
    rig.inside(|site| {
        let site = RefCell::new(site);
        let taken = Taken::default();
        try_all(CASES, &generate::arriving(), |Arriving(inner, outer)| {
            let site = &mut **site.borrow_mut();
            taken.tried.set(taken.tried.get() + 1);
            learn_ingress(&rig, site, &inner);
            let frame = outer.around(&inner);
            let outcome = site.run(Hook::UplinkIngress, &frame);
            if outcome.verdict == NEXT {
                proptest::prop_assert_eq!(outcome.packet, frame);
                return Ok(());
            }
            proptest::prop_assert_eq!(outcome.verdict, REDIRECT);
            proptest::prop_assert_eq!(rig.out_of_the_tunnel(&frame), outcome.packet);
            taken.note(&inner);
            Ok(())
        });
        taken.assert_enough();
    });
}
