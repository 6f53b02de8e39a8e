//! A packet comes out of the VXLAN device: from here to the pod's interface everything runs in one softirq.

use flannel_common::Counter;
use flannel_ebpf::inner::{self, Decline, ETHERNET, IPV4, IPV6, Mark};

use crate::{
    maps::{Way, begin_anew, ingress_flow, is_lasting, settings},
    packet::{Frame, Packet},
};

#[inline(always)]
pub(super) fn remember(packet: Packet) -> Option<()> {
    let settings = settings()?;
    let length = packet.length().wrapping_sub(ETHERNET);
    let (inner, header, ethernet) = match packet.protocol() {
        IPV4 => {
            let frame: Frame<5> = packet.frame(0)?;
            (inner::ipv4(&frame.ip, &frame.transport, length), Mark::of_ipv4(&frame.ip, length), frame.ethernet)
        }
        IPV6 => {
            let frame: Frame<10> = packet.frame(0)?;
            (inner::ipv6(&frame.ip, &frame.transport, length), Mark::of_ipv6(&frame.ip, length), frame.ethernet)
        }
        _ => return None,
    };
    let inner = inner.map_err(|why| declined(header, &why)).ok()?;
    let known = !Way::Ingress.is_nothing(header) && ingress_flow(&inner.tuple).is_some();
    // What the fast path had against it is seen where it is delivered.
    if known || is_lasting(&inner.tuple, settings.patience) {
        Way::Ingress.entered(packet, &ethernet, &inner, Counter::IngressUnknown);
    } else {
        Way::Ingress.passed(header, Counter::IngressUnknown);
    }
    Some(())
}

#[inline(always)]
fn declined(header: [u32; 2], why: &Decline) {
    if let Decline::Control(tuple) = why {
        begin_anew(tuple);
    }
    Way::Ingress.passed(header, why.ingress());
}
