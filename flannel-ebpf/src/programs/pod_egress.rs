//! The host's stack delivers a packet to a pod: if it is the one that just came out of the tunnel, its flow is proved.

use flannel_common::{Counter, FamilySettings, IngressFlow, Settings, Use, state};
use flannel_ebpf::inner::{self, ETHERNET, IPV4, IPV6, Inner, Mark};

use super::{Lesson, are_datagrams_in_one_piece, expiry, is_deserted, now, until, within_rate};
use crate::{
    maps::{Pending, Way, ingress_flow, insert_ingress, pair_egress, peer_of, pod, settings},
    packet::{Frame, Packet},
};

#[inline(always)]
pub(super) fn learn(packet: Packet) -> Lesson {
    let Some((pending, flow)) = Way::Ingress.take() else { return Ok(None) };
    let Some(settings) = settings() else { return Ok(None) };
    let lesson = look(packet, settings, pending, flow);
    if lesson.is_err() {
        Way::Ingress.looked_at(lesson, pending.why());
    }
    lesson
}

/// A packet that is none to learn from: counted if it came out of our tunnel.
#[inline(always)]
fn only_count(pending: &Pending, header: [u32; 2]) {
    if pending.had(header) {
        Way::Ingress.tunnelled(pending.why());
    }
}

#[inline(always)]
fn look(packet: Packet, settings: &Settings, pending: &Pending, flow: bool) -> Lesson {
    let length = packet.length().wrapping_sub(ETHERNET);
    match packet.protocol() {
        IPV4 => {
            let frame: Frame<5> = packet.frame(0).ok_or(Counter::LearnOther)?;
            if !flow {
                only_count(pending, Mark::of_ipv4(&frame.ip, length));
                return Ok(None);
            }
            let inner = inner::ipv4(&frame.ip, &frame.transport, length).map_err(|_| Counter::LearnOther)?;
            prove(packet, settings, &settings.v4, pending, &inner, &frame.ethernet)
        }
        IPV6 => {
            let frame: Frame<10> = packet.frame(0).ok_or(Counter::LearnOther)?;
            if !flow {
                only_count(pending, Mark::of_ipv6(&frame.ip, length));
                return Ok(None);
            }
            let inner = inner::ipv6(&frame.ip, &frame.transport, length).map_err(|_| Counter::LearnOther)?;
            prove(packet, settings, &settings.v6, pending, &inner, &frame.ethernet)
        }
        _ => Err(Counter::LearnOther),
    }
}

#[inline(always)]
fn prove(
    packet: Packet,
    settings: &Settings,
    family: &FamilySettings,
    pending: &Pending,
    inner: &Inner,
    ethernet: &[u16; 7],
) -> Lesson {
    pending.is(inner, packet.segment())?;
    let wire = pending.tuple();
    let interface = packet.interface();
    let pod = pod(interface).ok_or(Counter::LearnPod)?;
    let outer = peer_of(&wire.source, family).ok_or(Counter::LearnPeer)?.outer;
    let now = now();
    if is_deserted(settings, now) {
        return Err(Counter::IngressDeserted);
    }
    let oldest = now.saturating_sub(settings.memory);
    let mut state = pair_egress(&inner.tuple, wire, interface, oldest);
    if inner.tuple != *wire {
        state |= state::TRANSLATED;
    }
    // SAFETY: the memory lives as long as the map; each field is one aligned word.
    let (mtu, known) = unsafe { ((*pod).mtu, ingress_flow(wire).map(|flow| &mut *flow)) };
    let ethernet = [0, ethernet[0], ethernet[1], ethernet[2], ethernet[3], ethernet[4], ethernet[5], 0];
    let segment = packet.segment();
    let why = why_not_fast(known.as_deref(), segment, inner, mtu, settings.epoch, now);
    let dscp = inner.dscp().into();
    let mut used = Use { created: now, proved: now, packets: 0, bytes: 0 };
    if let Some(flow) = known {
        if flow.pod == interface
            && flow.outer == outer
            && flow.delivered == inner.tuple
            && flow.ethernet == ethernet
            && flow.mtu == mtu
        {
            flow.dscp = dscp;
            flow.left = 0;
            flow.used.proved = now;
            flow.state = state;
            flow.epoch = settings.epoch;
            flow.expires = expiry(settings, now);
            flow.until = until(settings, flow.expires, now);
            Way::Ingress.tunnelled(why);
            return Ok(Some(Counter::LearnedIngress));
        }
        used.created = flow.used.created;
        used.packets = flow.used.packets;
        used.bytes = flow.used.bytes;
    } else {
        within_rate(pod, Way::Ingress, settings, now)?;
    }
    let expires = expiry(settings, now);
    let flow = IngressFlow {
        arriving: *wire,
        filled: now,
        filled_too: now,
        expires,
        until: until(settings, expires, now),
        epoch: settings.epoch,
        pod: interface,
        mtu,
        state,
        dscp,
        left: 0,
        outer,
        delivered: inner.tuple,
        ethernet,
        used,
    };
    insert_ingress(wire, &flow)?;
    Way::Ingress.tunnelled(why);
    Ok(Some(Counter::LearnedIngress))
}

/// What `uplink_ingress` had against a packet that the stack has just delivered: it sees the same flow a moment earlier.
#[inline(always)]
fn why_not_fast(known: Option<&IngressFlow>, segment: u32, inner: &Inner, mtu: u32, epoch: u32, now: u64) -> Counter {
    match known {
        None => Counter::IngressUnknown,
        Some(flow) if flow.epoch != epoch || flow.expires < now => Counter::IngressExpired,
        Some(flow) if flow.state & state::PAIRED == 0 => Counter::IngressUnpaired,
        Some(_) if are_datagrams_in_one_piece(&inner.tuple, segment) => Counter::IngressRefused,
        Some(flow) if flow.dscp != u32::from(inner.dscp()) => Counter::IngressDscp,
        Some(_) if inner.largest(segment) > mtu => Counter::IngressTooBig,
        Some(flow) if flow.left == Counter::IngressChecksum.slot() => Counter::IngressChecksum,
        Some(flow) if flow.left == Counter::IngressEcn.slot() => Counter::IngressEcn,
        // Nothing but the outer headers is left.
        Some(_) => Counter::IngressOuter,
    }
}
