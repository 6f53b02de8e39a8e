//! A pod sends: known flows are encapsulated here and leave by the uplink at once.

use aya_ebpf::helpers::generated::bpf_get_prandom_u32;
use flannel_common::{Counter, EgressFlow, FamilySettings, Settings, Tuple, state};
use flannel_ebpf::{
    checksum, ecn,
    inner::{self, Decline, ETHERNET, IPV4, IPV6, Inner, Mark},
    outer,
};

use super::{Decision, is_deserted, lost, now, ticks};
use crate::{
    maps::{Way, egress_flow, forget_egress, is_still, now_in},
    packet::{Frame, Packet},
    sightings::{begin_anew, is_lasting},
};

/// The headers that go before an IPv4 packet, and its own.
#[repr(C)]
struct HeadersV4 {
    outer: [u32; 16],
    ip: [u32; 5],
}

/// The same for IPv6.
#[repr(C)]
struct HeadersV6 {
    outer: [u32; 21],
    ip: [u32; 10],
}

#[inline(always)]
pub(super) fn decide(packet: Packet, settings: &Settings) -> Result<Decision, Decision> {
    Way::Egress.disarm();
    if packet.has_vlan_tag() {
        return Err(Counter::EgressVlan.into());
    }
    let length = packet.length().wrapping_sub(ETHERNET);
    match packet.protocol() {
        IPV4 if settings.v4.enabled != 0 => {
            let frame: Frame<5> = packet.frame(0).ok_or(Counter::EgressMalformed)?;
            let header = Mark::of_ipv4(&frame.ip, length);
            let inner = inner::ipv4(&frame.ip, &frame.transport, length)
                .map_err(|why| decline(packet, why))
                .map_err(|why| passed(header, why))?;
            let flow = known(packet, settings, &settings.v4, &frame.ethernet, &inner)?;
            v4(packet, settings, &frame, &inner, flow)
        }
        IPV6 if settings.v6.enabled != 0 => {
            let frame: Frame<10> = packet.frame(0).ok_or(Counter::EgressMalformed)?;
            let header = Mark::of_ipv6(&frame.ip, length);
            let inner = inner::ipv6(&frame.ip, &frame.transport, length)
                .map_err(|why| decline(packet, why))
                .map_err(|why| passed(header, why))?;
            let flow = known(packet, settings, &settings.v6, &frame.ethernet, &inner)?;
            v6(packet, settings, &frame, &inner, flow)
        }
        _ => Err(Counter::EgressFamily.into()),
    }
}

#[inline(always)]
fn decline(packet: Packet, why: Decline) -> Counter {
    if let Decline::Control(tuple) = &why {
        forget_egress(tuple, packet.interface());
        begin_anew(tuple);
    }
    why.egress()
}

/// Left to the stack, which may put it into the tunnel.
#[inline(always)]
fn passed(header: [u32; 2], why: Counter) -> Decision {
    Way::Egress.passed(header, why);
    why.into()
}

/// What the stack is to do with a packet that may not take the fast path now.
enum Stay {
    /// Prove its flow.
    Unproved(Counter),
    /// Nothing else than with any other.
    Passed(Counter),
}

/// The packet's flow, if it may take the fast path now. If not, the packet is remembered on its way into the stack.
#[inline(always)]
fn known<'a>(
    packet: Packet,
    settings: &Settings,
    family: &FamilySettings,
    ethernet: &[u16; 7],
    inner: &Inner,
) -> Result<(&'a mut EgressFlow, u64), Decision> {
    ready(packet, settings, family, ethernet, inner).map_err(|stay| match stay {
        Stay::Unproved(why) => {
            Way::Egress.entered(packet, ethernet, inner, why);
            why.into()
        }
        Stay::Passed(why) => passed([inner.mark.0[0], inner.mark.0[1]], why),
    })
}

#[inline(always)]
fn ready<'a>(
    packet: Packet,
    settings: &Settings,
    family: &FamilySettings,
    ethernet: &[u16; 7],
    inner: &Inner,
) -> Result<(&'a mut EgressFlow, u64), Stay> {
    let Some(flow) = egress_flow(&inner.tuple) else {
        let why = Counter::EgressUnknown;
        let lasting = is_lasting(&inner.tuple, settings.patience);
        return Err(if lasting { Stay::Unproved(why) } else { Stay::Passed(why) });
    };
    // SAFETY: the memory lives as long as the map. It may become another flow's meanwhile, which `is_still` tells in the
    // end. Only counts are written, which may be lost.
    let flow = unsafe { &mut *flow };
    let filled = now_in(&raw const flow.filled);
    if flow.pod != packet.interface() {
        return Err(Stay::Unproved(Counter::EgressMoved));
    }
    if flow.epoch != settings.epoch || flow.until <= ticks() {
        let deserted = is_deserted(settings, now());
        return Err(if deserted {
            Stay::Passed(Counter::EgressDeserted)
        } else {
            Stay::Unproved(Counter::EgressExpired)
        });
    }
    if flow.state & state::PAIRED == 0 {
        return Err(Stay::Unproved(Counter::EgressUnpaired));
    }
    // What the stack decided holds for packets like those that it saw.
    if u16::from(inner.dscp()) != flow.dscp {
        return Err(Stay::Unproved(Counter::EgressDscp));
    }
    let [first, second, third] = flow.gateway;
    if ethernet[0] != first || ethernet[1] != second || ethernet[2] != third {
        return Err(Stay::Unproved(Counter::EgressGateway));
    }
    let largest = inner.largest(packet.segment());
    // The outer lengths of what is cut later count all of it, in sixteen bits.
    if largest > flow.largest || inner.total > 0xffff - outer::ROOM_V6 {
        if largest > family.mtu || inner.total > 0xffff - outer::ROOM_V6 {
            return Err(Stay::Passed(Counter::EgressTooBig));
        }
        return Err(Stay::Unproved(Counter::EgressLarger));
    }
    Ok((flow, filled))
}

/// UDP source port as it lies in memory: by the flow hash where there is one, or else the one that the kernel gave the
/// flow.
#[inline(always)]
fn source_port(packet: Packet, settings: &Settings, learned: u16) -> u16 {
    match packet.hash() {
        0 => learned,
        hash => outer::source_port(hash, settings.first_port, settings.ports).to_be(),
    }
}

#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "lengths were checked to fit sixteen bits")]
fn v4(
    packet: Packet,
    settings: &Settings,
    frame: &Frame<5>,
    inner: &Inner,
    (flow, filled): (&mut EgressFlow, u64),
) -> Result<Decision, Decision> {
    let tos = u32::from(ecn::encapsulate(inner.tos));
    let total = inner.total + outer::ROOM_V4;
    // SAFETY: takes nothing.
    let id = unsafe { bpf_get_prandom_u32() } & 0xffff;
    let length_and_id = (total << 16 | id).to_be();
    let sum = u64::from(flow.outer_sum) + u64::from((tos << 16).to_be()) + u64::from(length_and_id);
    let checksum = u32::from(!checksum::fold(sum));
    let known = &flow.header;
    let port = source_port(packet, settings, (known[8] >> SECOND) as u16);
    let udp_length = u32::from(((total - 20) as u16).to_be());
    let headers = HeadersV4 {
        outer: [
            known[0],
            known[1],
            known[2],
            // Ethernet type, version; type of service.
            known[3] | tos.to_be(),
            length_and_id,
            known[5],
            // Checksum; first half of the source.
            known[6] | checksum << FIRST,
            known[7],
            // Second half of the destination; port.
            known[8] & FIRST_HALF | u32::from(port) << SECOND,
            // Port; length.
            known[9] | udp_length << SECOND,
            known[10],
            known[11],
            known[12],
            known[13],
            known[14],
            known[15],
        ],
        ip: inner::forwarded_ipv4(&frame.ip, &flow.wire, inner.tos),
    };

    packet
        .grow(outer::ROOM_V4, true)
        .map_err(|_| passed([inner.mark.0[0], inner.mark.0[1]], Counter::EgressRefused))?;
    packet.store(0, &headers, 0, size_of::<HeadersV4>() as u32).map_err(lost)?;
    finish(packet, ETHERNET + outer::ROOM_V4 + 20, &inner.tuple, inner.total, (flow, filled))
}

#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "lengths were checked to fit sixteen bits")]
fn v6(
    packet: Packet,
    settings: &Settings,
    frame: &Frame<10>,
    inner: &Inner,
    (flow, filled): (&mut EgressFlow, u64),
) -> Result<Decision, Decision> {
    let class = u32::from(ecn::encapsulate(inner.tos));
    let payload = u32::from(((inner.total + outer::ROOM_V6 - 40) as u16).to_be());
    let known = &flow.header;
    let port = source_port(packet, settings, (known[13] >> SECOND) as u16);
    let headers = HeadersV6 {
        outer: [
            known[0],
            known[1],
            known[2],
            // Ethernet type; version, traffic class.
            known[3] | (class << 4).to_be(),
            // Flow label; payload length.
            known[4] | payload << SECOND,
            known[5],
            known[6],
            known[7],
            known[8],
            known[9],
            known[10],
            known[11],
            known[12],
            // End of the destination; port.
            known[13] & FIRST_HALF | u32::from(port) << SECOND,
            // Port; length.
            known[14] | payload << SECOND,
            known[15],
            known[16],
            known[17],
            known[18],
            known[19],
            known[20],
        ],
        ip: inner::forwarded_ipv6(&frame.ip, &flow.wire, inner.tos),
    };

    packet
        .grow(outer::ROOM_V6, false)
        .map_err(|_| passed([inner.mark.0[0], inner.mark.0[1]], Counter::EgressRefused))?;
    packet.store(0, &headers, 0, size_of::<HeadersV6>() as u32).map_err(lost)?;
    finish(packet, ETHERNET + outer::ROOM_V6 + 40, &inner.tuple, inner.total, (flow, filled))
}

/// How far to shift for the first two octets of a word in memory, and for the last two.
const FIRST: u32 = if cfg!(target_endian = "little") { 0 } else { 16 };
const SECOND: u32 = 16 - FIRST;
/// The first two octets of a word in memory.
const FIRST_HALF: u32 = 0xffff << FIRST;

#[inline(always)]
fn finish(
    packet: Packet,
    transport: u32,
    sent: &Tuple,
    total: u32,
    (flow, filled): (&mut EgressFlow, u64),
) -> Result<Decision, Decision> {
    if flow.state & state::TRANSLATED != 0 {
        packet.translate(transport, sent, &flow.wire).map_err(lost)?;
    }
    let verdict = Packet::out_of(flow.uplink);
    if !is_still(&raw const flow.sent, sent, [&raw const flow.filled, &raw const flow.filled_too], filled) {
        return Err(Decision::Drop(Counter::Lost));
    }
    flow.used.packets += 1;
    flow.used.bytes += u64::from(total);
    Ok(Decision::Take(Counter::EgressFast, verdict))
}
