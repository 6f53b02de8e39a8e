//! A packet leaves the node: if it is the one that a pod just sent, now in the tunnel, its flow is proved, and the
//! headers that the kernel put before it are those that the fast path will put before the next.

use flannel_common::{Counter, EgressFlow, FamilySettings, HEADER_WORDS, Peer, Settings, Use, state};
use flannel_ebpf::{
    checksum,
    inner::{self, ETHERNET, IPV4, IPV6, Inner, Mark},
    outer::{self, Outer},
};

use super::{Lesson, expiry, is_deserted, now, until, within_rate};
use crate::{
    maps::{Pending, Way, egress_draft, egress_flow, insert_egress, pair_ingress, peer_of, pod, settings},
    packet::{Frame, Packet},
};

#[inline(always)]
pub(super) fn learn(packet: Packet) -> Lesson {
    let Some((pending, flow)) = Way::Egress.take() else { return Ok(None) };
    let Some(settings) = settings() else { return Ok(None) };
    let lesson = match packet.protocol() {
        IPV4 => v4(packet, settings, pending, flow),
        IPV6 => v6(packet, settings, pending, flow),
        _ => Ok(None),
    };
    Way::Egress.looked_at(lesson, pending.why());
    lesson
}

/// A packet that is none to learn from: counted if it is in our tunnel now.
#[inline(always)]
fn only_count(settings: &Settings, pending: &Pending, network: Option<u32>, header: [u32; 2]) {
    if network == Some(settings.vni) && pending.had(header) {
        Way::Egress.tunnelled(pending.why());
    }
}

#[inline(always)]
fn v4(packet: Packet, settings: &Settings, pending: &Pending, flow: bool) -> Lesson {
    let family = &settings.v4;
    let length = packet.length().wrapping_sub(ETHERNET);
    let Some(tunnel) = packet.tunnel::<5>() else { return Ok(None) };
    if !flow {
        let Some(frame) = packet.frame::<5>(outer::ROOM_V4) else { return Ok(None) };
        let network = outer::network_ipv4(&tunnel.ip, &tunnel.udp_vxlan, settings.port);
        only_count(settings, pending, network, Mark::of_ipv4(&frame.ip, length.wrapping_sub(outer::ROOM_V4)));
        return Ok(None);
    }
    let Ok(outer) = outer::ipv4(&tunnel.ip, &tunnel.udp_vxlan, settings.port, length) else { return Ok(None) };
    let frame: Frame<5> = packet.frame(outer::ROOM_V4).ok_or(Counter::LearnOther)?;
    let length = length.wrapping_sub(outer::ROOM_V4);
    let inner = inner::ipv4(&frame.ip, &frame.transport, length).map_err(|_| Counter::LearnOther)?;
    same(packet, settings, family, pending, &outer, &inner)?;

    let draft = egress_draft().ok_or(Counter::LearnFull)?;
    // SAFETY: this CPU's slot, which no other program writes while this one runs.
    let draft = unsafe { &mut *draft };
    let first = u32::from_be(tunnel.ip[0]) & 0xff00_0000;
    let third = u32::from_be(tunnel.ip[2]) & 0xffff_0000;
    let header = &mut draft.header;
    ethernet(header, &tunnel.ethernet, first >> 16);
    header[4] = 0;
    // Flags and fragment offset, time to live and protocol; checksum to come, source.
    header[5] = join(halves(tunnel.ip[1])[1], halves(third.to_be())[0]);
    header[6] = join(0, halves(tunnel.ip[3])[0]);
    header[7] = join(halves(tunnel.ip[3])[1], halves(tunnel.ip[4])[0]);
    header[8] = join(halves(tunnel.ip[4])[1], halves(tunnel.udp_vxlan[0])[0]);
    header[9] = join(halves(tunnel.udp_vxlan[0])[1], 0);
    vxlan(header, 10, &tunnel.udp_vxlan, &frame.ethernet);
    clear(header, 16);
    let fixed = [first.to_be(), join(0, halves(tunnel.ip[1])[1]), third.to_be(), tunnel.ip[3], tunnel.ip[4]];
    draft.outer_sum = u32::from(checksum::fold(checksum::sum(&fixed)));
    prove(packet, settings, pending, &inner, draft)
}

#[inline(always)]
fn v6(packet: Packet, settings: &Settings, pending: &Pending, flow: bool) -> Lesson {
    let family = &settings.v6;
    let length = packet.length().wrapping_sub(ETHERNET);
    let Some(tunnel) = packet.tunnel::<10>() else { return Ok(None) };
    if !flow {
        let Some(frame) = packet.frame::<10>(outer::ROOM_V6) else { return Ok(None) };
        let network = outer::network_ipv6(&tunnel.ip, &tunnel.udp_vxlan, settings.port);
        only_count(settings, pending, network, Mark::of_ipv6(&frame.ip, length.wrapping_sub(outer::ROOM_V6)));
        return Ok(None);
    }
    let Ok(outer) = outer::ipv6(&tunnel.ip, &tunnel.udp_vxlan, settings.port, length) else { return Ok(None) };
    let frame: Frame<10> = packet.frame(outer::ROOM_V6).ok_or(Counter::LearnOther)?;
    let length = length.wrapping_sub(outer::ROOM_V6);
    let inner = inner::ipv6(&frame.ip, &frame.transport, length).map_err(|_| Counter::LearnOther)?;
    let peer = same(packet, settings, family, pending, &outer, &inner)?;
    // The kernel's packets have a checksum, which we cannot make; over IPv6, only peers that say so take one of zero.
    if peer.flags & Peer::ZERO_CHECKSUM == 0 {
        return Err(Counter::LearnChecksum);
    }

    let draft = egress_draft().ok_or(Counter::LearnFull)?;
    // SAFETY: this CPU's slot, which no other program writes while this one runs.
    let draft = unsafe { &mut *draft };
    let first = u32::from_be(tunnel.ip[0]) & 0xf00f_ffff;
    let header = &mut draft.header;
    ethernet(header, &tunnel.ethernet, first >> 16);
    header[4] = join(halves(first.to_be())[1], 0);
    header[5] = join(halves(tunnel.ip[1])[1], halves(tunnel.ip[2])[0]);
    for word in 0..7 {
        header[6 + word] = join(halves(tunnel.ip[2 + word])[1], halves(tunnel.ip[3 + word])[0]);
    }
    header[13] = join(halves(tunnel.ip[9])[1], halves(tunnel.udp_vxlan[0])[0]);
    header[14] = join(halves(tunnel.udp_vxlan[0])[1], 0);
    vxlan(header, 15, &tunnel.udp_vxlan, &frame.ethernet);
    clear(header, 21);
    draft.outer_sum = 0;
    prove(packet, settings, pending, &inner, draft)
}

/// Is it the packet that a pod just sent, on its way to whoever leased the subnet that it is for?
#[inline(always)]
fn same(
    packet: Packet,
    settings: &Settings,
    family: &FamilySettings,
    pending: &Pending,
    outer: &Outer,
    inner: &Inner,
) -> Result<&'static Peer, Counter> {
    pending.is(inner, packet.segment())?;
    if outer.vni != settings.vni {
        return Err(Counter::LearnOther);
    }
    peer_of(&inner.tuple.destination, family).filter(|peer| peer.outer == outer.destination).ok_or(Counter::LearnPeer)
}

/// The first four words: outer Ethernet, and the first half of the first word of IP.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "the upper half of a word, shifted down")]
fn ethernet(header: &mut [u32; HEADER_WORDS], ethernet: &[u16; 7], ip: u32) {
    header[0] = join(ethernet[0], ethernet[1]);
    header[1] = join(ethernet[2], ethernet[3]);
    header[2] = join(ethernet[4], ethernet[5]);
    header[3] = join(ethernet[6], (ip as u16).to_be());
}

/// From the UDP checksum, which is zero, to the end of inner Ethernet.
#[inline(always)]
fn vxlan(header: &mut [u32; HEADER_WORDS], at: usize, udp_vxlan: &[u32; 4], ethernet: &[u16; 7]) {
    header[at] = join(0, halves(udp_vxlan[2])[0]);
    header[at + 1] = join(halves(udp_vxlan[2])[1], halves(udp_vxlan[3])[0]);
    header[at + 2] = join(halves(udp_vxlan[3])[1], ethernet[0]);
    header[at + 3] = join(ethernet[1], ethernet[2]);
    header[at + 4] = join(ethernet[3], ethernet[4]);
    header[at + 5] = join(ethernet[5], ethernet[6]);
}

/// Zeroes the words from `first` on, one by one: a loop over memory is what the verifier grants to the mightier only.
#[inline(always)]
fn clear(header: &mut [u32; HEADER_WORDS], first: usize) {
    for word in header.iter_mut().skip(first) {
        // SAFETY: an element of the array.
        unsafe { core::ptr::from_mut(word).write_volatile(0) };
    }
}

/// The first two octets of a word in memory, and the last two.
#[inline(always)]
const fn halves(word: u32) -> [u16; 2] {
    let [a, b, c, d] = word.to_ne_bytes();
    [u16::from_ne_bytes([a, b]), u16::from_ne_bytes([c, d])]
}

/// The word in memory of two halves.
#[inline(always)]
const fn join(first: u16, second: u16) -> u32 {
    let ([a, b], [c, d]) = (first.to_ne_bytes(), second.to_ne_bytes());
    u32::from_ne_bytes([a, b, c, d])
}

/// Puts the rest of the flow together and files it, or renews the one that is there.
#[inline(always)]
fn prove(packet: Packet, settings: &Settings, pending: &Pending, inner: &Inner, draft: &mut EgressFlow) -> Lesson {
    let sent = pending.tuple();
    let interface = pending.interface();
    let pod = pod(interface).ok_or(Counter::LearnPod)?;
    let now = now();
    if is_deserted(settings, now) {
        return Err(Counter::EgressDeserted);
    }
    let oldest = now.saturating_sub(settings.memory);
    let mut state = pair_ingress(sent, &inner.tuple, interface, oldest);
    if inner.tuple != *sent {
        state |= state::TRANSLATED;
    }
    let mut used = Use { created: now, proved: now, packets: 0, bytes: 0 };
    let (dscp, gateway, largest) = (inner.dscp().into(), pending.gateway(), inner.largest(packet.segment()));
    // SAFETY: the memory lives as long as the map; each field is one aligned word.
    if let Some(flow) = egress_flow(sent).map(|flow| unsafe { &mut *flow }) {
        if flow.pod == interface
            && flow.uplink == packet.interface()
            && flow.wire == inner.tuple
            && flow.gateway == gateway
            && same_header(&flow.header, &draft.header)
        {
            let doubted = flow.epoch != settings.epoch || flow.expires < now || flow.dscp != dscp;
            if doubted || flow.largest < largest {
                flow.largest = largest;
            }
            flow.dscp = dscp;
            flow.used.proved = now;
            flow.state = state;
            flow.epoch = settings.epoch;
            flow.expires = expiry(settings, now);
            flow.until = until(settings, flow.expires, now);
            return Ok(Some(Counter::LearnedEgress));
        }
        used.created = flow.used.created;
        used.packets = flow.used.packets;
        used.bytes = flow.used.bytes;
    } else {
        within_rate(pod, Way::Egress, settings, now)?;
    }
    draft.sent = *sent;
    draft.filled = now;
    draft.filled_too = now;
    draft.expires = expiry(settings, now);
    draft.until = until(settings, draft.expires, now);
    draft.epoch = settings.epoch;
    draft.pod = interface;
    draft.uplink = packet.interface();
    draft.state = state;
    draft.largest = largest;
    draft.gateway = gateway;
    draft.dscp = dscp;
    draft.wire = inner.tuple;
    draft.used = used;
    insert_egress(sent, draft)?;
    Ok(Some(Counter::LearnedEgress))
}

#[inline(always)]
fn same_header(one: &[u32; HEADER_WORDS], other: &[u32; HEADER_WORDS]) -> bool {
    one.iter().zip(other).all(|(a, b)| a == b)
}
