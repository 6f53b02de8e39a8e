//! A packet comes out of the VXLAN device: from here to the pod's interface everything runs in one softirq.

use flannel_common::{Counter, Settings};
use flannel_ebpf::inner::{self, Decline, ETHERNET, IPV4, IPV6, Inner, Mark};

use crate::{
    maps::{Way, ingress_flow, settings},
    packet::{Frame, Packet},
    sightings::{begin_anew, is_lasting},
};

#[inline(always)]
pub(super) fn remember(packet: Packet) -> Option<()> {
    let settings = settings()?;
    let length = packet.length().wrapping_sub(ETHERNET);
    match packet.protocol() {
        IPV4 => {
            let frame: Frame<5> = packet.frame(0)?;
            let header = Mark::of_ipv4(&frame.ip, length);
            if !Way::Ingress.passed_as_announced(header) {
                look(packet, settings, header, &frame.ethernet, inner::ipv4(&frame.ip, &frame.transport, length));
            }
        }
        IPV6 => {
            let frame: Frame<10> = packet.frame(0)?;
            let header = Mark::of_ipv6(&frame.ip, length);
            if !Way::Ingress.passed_as_announced(header) {
                look(packet, settings, header, &frame.ethernet, inner::ipv6(&frame.ip, &frame.transport, length));
            }
        }
        _ => return None,
    }
    Some(())
}

/// A packet that `uplink_ingress` has said nothing of.
#[inline(always)]
fn look(packet: Packet, settings: &Settings, header: [u32; 2], ethernet: &[u16; 7], inner: Result<Inner, Decline>) {
    match inner {
        // What the fast path had against it is seen where it is delivered.
        Ok(inner) if ingress_flow(&inner.tuple).is_some() || is_lasting(&inner.tuple, settings.patience) => {
            Way::Ingress.entered(packet, ethernet, &inner, Counter::IngressUnknown);
        }
        Ok(_) => Way::Ingress.passed(header, Counter::IngressUnknown),
        Err(why) => {
            if let Decline::Control(tuple) = &why {
                begin_anew(tuple);
            }
            Way::Ingress.passed(header, why.ingress());
        }
    }
}
