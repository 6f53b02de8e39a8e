//! A tunnel packet arrives: known flows are decapsulated here and handed to their pod at once.

use flannel_common::{Counter, FamilySettings, IngressFlow, Settings, Tuple, state};
use flannel_ebpf::{
    ecn,
    inner::{self, Decline, ETHERNET, IPV4, IPV6, Inner},
    outer::{self, NotPlain, Outer},
};

use super::{Decision, are_datagrams_in_one_piece, is_deserted, lost, now, ticks};
use crate::{
    maps::{Way, forget_ingress, ingress_flow, is_still, now_in, peer_of},
    packet::{Frame, Packet, Tunnel},
    sightings::is_lasting,
};

/// The headers that the pod gets, padded so that words are aligned.
#[repr(C)]
struct Headers<const IP: usize> {
    ethernet: [u16; 8],
    ip: [u32; IP],
}

#[inline(always)]
pub(super) fn decide(packet: Packet, settings: &Settings) -> Result<Decision, Decision> {
    match packet.protocol() {
        IPV4 if settings.v4.enabled != 0 => v4(packet, settings),
        IPV6 if settings.v6.enabled != 0 => v6(packet, settings),
        _ => Err(Counter::IngressOther.into()),
    }
}

#[inline(always)]
fn v4(packet: Packet, settings: &Settings) -> Result<Decision, Decision> {
    const INNER: u32 = outer::ROOM_V4;
    let family = &settings.v4;
    let length = packet.length().wrapping_sub(ETHERNET);
    let tunnel: Tunnel<5> = packet.tunnel().ok_or(Counter::IngressOther)?;
    let outer = outer::ipv4(&tunnel.ip, &tunnel.udp_vxlan, settings.port, length).map_err(not_plain)?;
    for_us(packet, settings, family, &outer)?;
    let frame: Frame<5> = packet.frame(INNER).ok_or(Counter::IngressMalformed)?;
    check_frame(&frame.ethernet, family, IPV4)?;
    let inner =
        inner::ipv4(&frame.ip, &frame.transport, length.wrapping_sub(INNER)).map_err(|why| decline(&outer, why))?;
    verified(packet, settings, &outer, &inner)?;
    let (flow, filled) = known(packet, settings, family, &outer, &inner)?;
    let Some(tos) = ecn::decapsulate(outer.tos, inner.tos) else { return Err(left(flow, Counter::IngressEcn)) };
    let headers =
        Headers { ethernet: ethernet(flow, IPV4), ip: inner::forwarded_ipv4(&frame.ip, &flow.delivered, tos) };
    packet.shrink(INNER).map_err(|_| Counter::IngressRefused)?;
    packet.store(0, &headers, 2, ETHERNET + 20).map_err(lost)?;
    finish(packet, ETHERNET + 20, &inner.tuple, inner.total, (flow, filled))
}

#[inline(always)]
fn v6(packet: Packet, settings: &Settings) -> Result<Decision, Decision> {
    const INNER: u32 = outer::ROOM_V6;
    let family = &settings.v6;
    let length = packet.length().wrapping_sub(ETHERNET);
    let tunnel: Tunnel<10> = packet.tunnel().ok_or(Counter::IngressOther)?;
    let outer = outer::ipv6(&tunnel.ip, &tunnel.udp_vxlan, settings.port, length).map_err(not_plain)?;
    for_us(packet, settings, family, &outer)?;
    let frame: Frame<10> = packet.frame(INNER).ok_or(Counter::IngressMalformed)?;
    check_frame(&frame.ethernet, family, IPV6)?;
    let inner =
        inner::ipv6(&frame.ip, &frame.transport, length.wrapping_sub(INNER)).map_err(|why| decline(&outer, why))?;
    verified(packet, settings, &outer, &inner)?;
    let (flow, filled) = known(packet, settings, family, &outer, &inner)?;
    let Some(tos) = ecn::decapsulate(outer.tos, inner.tos) else { return Err(left(flow, Counter::IngressEcn)) };
    let headers =
        Headers { ethernet: ethernet(flow, IPV6), ip: inner::forwarded_ipv6(&frame.ip, &flow.delivered, tos) };
    packet.shrink(INNER).map_err(|_| Counter::IngressRefused)?;
    packet.store(0, &headers, 2, ETHERNET + 40).map_err(lost)?;
    // Type of service, hop limit; what addresses do to sums is seen to where they are translated.
    packet.words_changed(&frame.ip[..2], &headers.ip[..2]);
    finish(packet, ETHERNET + 40, &inner.tuple, inner.total, (flow, filled))
}

#[inline(always)]
fn not_plain(why: NotPlain) -> Decision {
    Decision::Leave(match why {
        NotPlain::Other => Counter::IngressOther,
        NotPlain::Odd => Counter::IngressOuter,
        NotPlain::Flags => Counter::IngressFlags,
    })
}

#[inline(always)]
fn decline(outer: &Outer, why: Decline) -> Decision {
    if let Decline::Control(tuple) = &why {
        forget_ingress(tuple, &outer.source);
    }
    why.ingress().into()
}

#[inline(always)]
fn for_us(packet: Packet, settings: &Settings, family: &FamilySettings, outer: &Outer) -> Result<(), Decision> {
    if outer.destination != family.local {
        return Err(Counter::IngressOther.into());
    }
    if outer.vni != settings.vni {
        return Err(Counter::IngressVni.into());
    }
    if packet.has_vlan_tag() {
        return Err(Counter::IngressVlan.into());
    }
    Ok(())
}

/// A checksum has to be right: it is if the interface or the kernel's receive offload has checked it already. Asked when
/// the inner headers have been read: what ends a flow ends it at once, whoever verifies the packet.
#[inline(always)]
fn verified(packet: Packet, settings: &Settings, outer: &Outer, inner: &Inner) -> Result<(), Decision> {
    if outer.checksummed && !packet.checksum_is_known_right() {
        let Some(flow) = ingress_flow(&inner.tuple) else {
            announce(settings, inner);
            return Err(Counter::IngressChecksum.into());
        };
        // SAFETY: the memory lives as long as the map.
        return Err(left(unsafe { &mut *flow }, Counter::IngressChecksum));
    }
    Ok(())
}

/// There is no flow of this packet. If there need not be one yet, nobody has to look again when it comes out of the tunnel.
#[inline(always)]
fn announce(settings: &Settings, inner: &Inner) {
    if !is_lasting(&inner.tuple, settings.patience) {
        Way::Ingress.announce([inner.mark.0[0], inner.mark.0[1]], Counter::IngressUnknown);
    }
}

/// Left to the kernel path for a reason that only we can see: whoever sees the packet delivered is told by the flow.
#[inline(always)]
fn left(flow: &mut IngressFlow, why: Counter) -> Decision {
    flow.left = why.slot();
    why.into()
}

/// The inner Ethernet header: for our VTEP, and of this family.
#[inline(always)]
fn check_frame(ethernet: &[u16; 7], family: &FamilySettings, protocol: u16) -> Result<(), Decision> {
    let mac = family.mac.0;
    let half = |at: usize| u16::from_ne_bytes([mac[at], mac[at + 1]]);
    let ours = [half(0), half(2), half(4)];
    if ethernet[0] != ours[0] || ethernet[1] != ours[1] || ethernet[2] != ours[2] {
        return Err(Counter::IngressMac.into());
    }
    if ethernet[6] != protocol.to_be() {
        return Err(Counter::IngressFamily.into());
    }
    Ok(())
}

/// The packet's flow, if it may take the fast path now.
#[inline(always)]
fn known<'a>(
    packet: Packet,
    settings: &Settings,
    family: &FamilySettings,
    outer: &Outer,
    inner: &Inner,
) -> Result<(&'a mut IngressFlow, u64), Decision> {
    let Some(flow) = ingress_flow(&inner.tuple) else {
        announce(settings, inner);
        return Err(unknown(settings, family, outer, inner));
    };
    // SAFETY: the memory lives as long as the map. It may become another flow's meanwhile, which `is_still` tells in the
    // end. Only counts are written, which may be lost.
    let flow = unsafe { &mut *flow };
    let filled = now_in(&raw const flow.filled);
    if flow.outer != outer.source {
        return Err(unknown(settings, family, outer, inner));
    }
    if flow.epoch != settings.epoch || flow.until <= ticks() {
        let deserted = is_deserted(settings, now());
        return Err(if deserted { Counter::IngressDeserted } else { Counter::IngressExpired }.into());
    }
    if flow.state & state::PAIRED == 0 {
        return Err(Counter::IngressUnpaired.into());
    }
    if u32::from(inner.dscp()) != flow.dscp {
        return Err(Counter::IngressDscp.into());
    }
    let segment = packet.segment();
    if inner.largest(segment) > flow.mtu {
        return Err(Counter::IngressTooBig.into());
    }
    if are_datagrams_in_one_piece(&inner.tuple, segment) {
        return Err(Counter::IngressRefused.into());
    }
    Ok((flow, filled))
}

/// Of an unknown flow all that can be said is whether it comes from the node that it may come from. Where nobody has
/// leased the inner source, the kernel path's own guard decides.
#[inline(always)]
fn unknown(settings: &Settings, family: &FamilySettings, outer: &Outer, inner: &Inner) -> Decision {
    match peer_of(&inner.tuple.source, family) {
        Some(peer) if peer.outer != outer.source => {
            // The subnet may be another node's by now.
            if is_deserted(settings, now()) {
                return Decision::Leave(Counter::IngressDeserted);
            }
            if settings.drop_forged == 0 {
                Decision::Leave(Counter::IngressForged)
            } else {
                Decision::Drop(Counter::IngressForged)
            }
        }
        _ => Decision::Leave(Counter::IngressUnknown),
    }
}

#[inline(always)]
fn ethernet(flow: &IngressFlow, protocol: u16) -> [u16; 8] {
    let mut header = flow.ethernet;
    header[7] = protocol.to_be();
    header
}

#[inline(always)]
fn finish(
    packet: Packet,
    transport: u32,
    arrived: &Tuple,
    total: u32,
    (flow, filled): (&mut IngressFlow, u64),
) -> Result<Decision, Decision> {
    if flow.state & state::TRANSLATED != 0 {
        packet.translate(transport, arrived, &flow.delivered).map_err(lost)?;
    }
    let verdict = Packet::to_peer_of(flow.pod);
    if !is_still(&raw const flow.arriving, arrived, [&raw const flow.filled, &raw const flow.filled_too], filled) {
        return Err(Decision::Drop(Counter::Lost));
    }
    flow.used.packets += 1;
    flow.used.bytes += u64::from(total);
    Ok(Decision::Take(Counter::IngressFast, verdict))
}
