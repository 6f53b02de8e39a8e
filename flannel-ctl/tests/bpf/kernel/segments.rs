//! Packets that a pod's stack hands down in one piece, and the kernel cuts where the wire begins: the frames are the same
//! whoever has encapsulated them.

use flannel_common::Counter;
use proptest::prelude::*;

use super::{
    live::count,
    rig::{Rig, attach_all},
    try_all, with_identification_of,
};
use crate::{
    frame::{Checksum, Inner, TCP, UDP, pseudo, sum},
    site::{delivered, net},
    skipped,
};

const CASES: u32 = 300;

/// What is sent in one piece, and the payload of each part.
#[derive(Clone, Debug)]
struct Whole(Inner, usize);

fn whole() -> impl Strategy<Value = Whole> {
    let flow = (any::<bool>(), any::<bool>(), 0..4_u16);
    let ip = (any::<u8>(), 2..=255_u8, any::<u16>(), any::<bool>());
    let parts = (200..1_350_usize, 1..40_usize, 1..200_usize, any::<(u32, u32)>(), any::<bool>(), 0..=3_usize);
    (flow, ip, parts).prop_map(|((v4, tcp, number), (tos, ttl, id, whole), parts)| {
        let (segment, count, rest, sequence, push, tcp_options) = parts;
        let sent = net(v4).sent(if tcp { TCP } else { UDP });
        let size = segment * count + rest;
        let inner = Inner {
            ports: (42_000 + number, 443),
            tos,
            ttl,
            id,
            fragment: if whole { 0x4000 } else { 0 },
            sequence,
            flags: if push { 0x18 } else { 0x10 },
            tcp_options: vec![1; 4 * tcp_options],
            payload: (0..size).map(|at| u8::try_from((at * 7 + at / 251) % 251).unwrap()).collect(),
            checksum: Checksum::Zero,
            ..sent
        };
        Whole(inner, segment)
    })
}

impl Whole {
    /// As a socket hands it down: the checksum is left to whoever cuts.
    fn sent_by(&self, rig: &Rig) {
        const NEEDS_CHECKSUM: u8 = 1;
        let Self(inner, segment) = self;
        let (kind, field) = match (inner.protocol, inner.source.is_ipv4()) {
            (TCP, true) => (1, 16),
            (TCP, false) => (4, 16),
            _ => (5, 6),
        };
        let start = 14 + if inner.source.is_ipv4() { 20 } else { 40 };
        let mut frame = inner.frame();
        let before = pseudo(inner.source, inner.destination, inner.protocol, frame.len() - start);
        frame[start + field..][..2].copy_from_slice(&sum(&before).to_be_bytes());
        let mut header = [NEEDS_CHECKSUM, kind, 0, 0, 0, 0, 0, 0, 0, 0];
        for (at, number) in [14 + inner.headers(), *segment, start, field].into_iter().enumerate() {
            header[2 + 2 * at..][..2].copy_from_slice(&u16::try_from(number).unwrap().to_ne_bytes());
        }
        rig.pod_sends_in_one_piece(header, &frame);
    }

    fn on_the_wire(&self, rig: &Rig) -> Vec<Vec<u8>> {
        let Self(inner, segment) = self;
        self.sent_by(rig);
        (0..inner.payload.len().div_ceil(*segment)).map(|_| rig.on_the_wire()).collect()
    }
}

#[test]
fn what_the_kernel_cuts_is_the_same_by_either_path() {
    if skipped(&["ip", "bridge", "ethtool"]) {
        return;
    }
    let rig = Rig::new("bpfgso");
    rig.cut_on_the_wire();
    rig.inside(|site| {
        attach_all(site);
        let site = std::cell::RefCell::new(site);
        try_all(CASES, &whole(), |whole| {
            let site = &mut **site.borrow_mut();
            let Whole(inner, _) = &whole;
            site.set(|settings| settings.enabled = 1);
            let known = site.trial.egress(inner.tuple()).unwrap();
            if known.is_none_or(|flow| flow.dscp != u16::from(inner.tos & !3)) {
                let plain = super::generate::plain(inner);
                let net = net(inner.source.is_ipv4());
                rig.through_the_tunnel(&plain.frame());
                let answer = rig.out_of_the_tunnel(&net.inward().around(&plain.reversed()));
                prop_assert_eq!(answer, delivered(&plain.reversed().forwarded()).frame());
                rig.through_the_tunnel(&plain.frame());
            }
            site.set(|settings| settings.enabled = 0);
            let kernels = whole.on_the_wire(&rig);
            site.set(|settings| settings.enabled = 1);
            let before = count(site, Counter::EgressFast);
            let ours = whole.on_the_wire(&rig);
            prop_assert_eq!(count(site, Counter::EgressFast), before + 1);
            for (kernels, ours) in kernels.iter().zip(&ours) {
                prop_assert_eq!(&with_identification_of(kernels, ours), ours);
            }
            if inner.source.is_ipv4() {
                let ids: Vec<_> = ours.iter().map(|frame| u16::from_be_bytes([frame[18], frame[19]])).collect();
                prop_assert!(ids.windows(2).all(|pair| pair[1] == pair[0].wrapping_add(1)), "{:?}", ids);
            }
            Ok(())
        });
    });
}
