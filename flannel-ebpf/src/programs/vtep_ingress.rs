//! A packet comes out of the VXLAN device: from here to the pod's interface everything runs in one softirq.

use flannel_ebpf::inner::{self, ETHERNET, IPV4, IPV6};

use crate::{
    maps::{Way, ingress_flow, is_lasting, settings},
    packet::{Frame, Packet},
};

#[inline(always)]
pub(super) fn remember(packet: Packet) -> Option<()> {
    let settings = settings()?;
    let length = packet.length().wrapping_sub(ETHERNET);
    let inner = match packet.protocol() {
        IPV4 => {
            let frame: Frame<5> = packet.frame(0)?;
            inner::ipv4(&frame.ip, &frame.transport, length)
        }
        IPV6 => {
            let frame: Frame<10> = packet.frame(0)?;
            inner::ipv6(&frame.ip, &frame.transport, length)
        }
        _ => return None,
    };
    let inner = inner.ok()?;
    if ingress_flow(&inner.tuple).is_some() || is_lasting(&inner.tuple, settings.patience) {
        Way::Ingress.entered(packet.interface(), &inner);
    } else {
        Way::Ingress.disarm();
    }
    Some(())
}
