//! Packets of a few flows, in all shapes.

use proptest::prelude::*;

use crate::{
    frame::{Checksum, Inner, Outer, TCP, UDP},
    site::{largest, net},
};

/// A packet that a pod sends.
#[derive(Clone, Debug)]
pub(super) struct Leaving(pub(super) Inner);

/// A packet that comes out of the tunnel.
#[derive(Clone, Debug)]
pub(super) struct Arriving(pub(super) Inner, pub(super) Outer);

/// A packet of the same flow that nobody has anything against.
pub(super) fn plain(inner: &Inner) -> Inner {
    let plain = Inner {
        ethernet: inner.ethernet,
        ports: inner.ports,
        label: inner.label,
        tos: inner.tos & !3,
        ..Inner::new(inner.source, inner.destination, if inner.protocol == TCP { TCP } else { UDP })
    };
    Inner { payload: vec![7; largest(&plain)], ..plain }
}

pub(super) fn leaving() -> impl Strategy<Value = Leaving> {
    inner().prop_map(Leaving)
}

pub(super) fn arriving() -> impl Strategy<Value = Arriving> {
    let outer = (any::<u8>(), any::<u16>(), any::<u16>(), mostly(0_u32, 1..=3_u32));
    (inner(), outer).prop_map(|(inner, (tos, port, id, oddity))| {
        let outer = net(inner.source.is_ipv4()).inward();
        let mut outer = Outer { tos, id, ports: (port, outer.ports.1), ..outer };
        match oddity {
            1 => outer.flags |= 1 << 16,
            2 => outer.vni = 2,
            3 => outer.inner_ethernet.0[5] ^= 1,
            _ => {}
        }
        Arriving(inner.reversed(), outer)
    })
}

/// The first nine times out of ten.
fn mostly<T: Clone + std::fmt::Debug + 'static>(
    usual: T,
    odd: impl Strategy<Value = T> + 'static,
) -> impl Strategy<Value = T> {
    prop_oneof![9 => Just(usual), 1 => odd]
}

fn inner() -> impl Strategy<Value = Inner> {
    let size = prop_oneof![0..20_usize, 0..1_480_usize, 1_360..1_480_usize];
    let flow = (any::<bool>(), any::<bool>(), 0..8_u16);
    let ip = (
        any::<u8>(),
        prop_oneof![2 => 0..4_u8, 8 => any::<u8>()],
        any::<u16>(),
        prop_oneof![6 => Just(0x4000_u16), 3 => Just(0), 1 => any::<u16>()],
        mostly(0, 1..=10_usize),
        mostly(None, prop_oneof![Just(0_u8), Just(43), Just(44), Just(60)].prop_map(Some)),
    );
    let transport = (
        any::<(u32, u32)>(),
        prop_oneof![9 => Just(0x10_u8), 4 => any::<u8>().prop_map(|flags| flags & !7), 1 => any::<u8>()],
        mostly(0, 0..=10_usize),
        prop_oneof![6 => Just(Checksum::Right), 2 => Just(Checksum::Zero), 2 => Just(Checksum::Wrong)],
        mostly(Checksum::Right, Just(Checksum::Wrong)),
        mostly(0, -40..40_i16),
        mostly(0, -40..40_i16),
    );
    (flow, ip, transport, size, any::<u8>()).prop_map(|(flow, ip, transport, size, fill)| {
        let (v4, tcp, number) = flow;
        let (tos, ttl, id, fragment, options, extension) = ip;
        let (sequence, flags, tcp_options, checksum, header_checksum, lie, udp_lie) = transport;
        let sent = net(v4).sent(if tcp { TCP } else { UDP });
        let room = 1_500 - 40 - 20 - 44;
        Inner {
            ports: (40_000 + number, 80),
            tos,
            ttl,
            id,
            fragment,
            // A flow's own.
            label: u32::from(number) * 0x1357,
            options: vec![1; 4 * options],
            extension,
            sequence,
            flags,
            tcp_options: vec![1; 4 * tcp_options],
            payload: (0..size.min(room + 60)).map(|at| fill.wrapping_add(u8::try_from(at % 251).unwrap())).collect(),
            checksum,
            header_checksum,
            lie,
            udp_lie,
            ..sent
        }
    })
}
