//! A packet comes out of the VXLAN device: from here to the pod's interface everything runs in one softirq.

use flannel_ebpf::inner::{self, ETHERNET, IPV4, IPV6};

use crate::{
    maps::{Way, settings},
    packet::{Frame, Packet},
};

#[inline(always)]
pub(super) fn remember(packet: Packet) -> Option<()> {
    settings()?;
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
    Way::Ingress.entered(packet.interface(), &inner.ok()?);
    Some(())
}
