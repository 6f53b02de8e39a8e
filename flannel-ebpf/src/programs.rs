//! The exported programs.

use aya_ebpf::{Global, bindings::TC_ACT_UNSPEC, macros::classifier, programs::TcContext};
use flannel_common::Counter;
use flannel_ebpf::parse;

use crate::maps::count;

/// UDP port of the tunnel in host byte order; the loader overwrites it (`flannel_common::VXLAN_PORT_GLOBAL`).
#[unsafe(no_mangle)]
static VXLAN_PORT: Global<u16> = Global::new(8472);

/// TC ingress of the uplink: counts, and leaves every packet to the kernel path.
///
/// `TC_ACT_UNSPEC` is also `TCX_NEXT`: whoever else is attached decides.
#[classifier]
#[expect(clippy::needless_pass_by_value, reason = "the exported function that the macro writes calls it so")]
fn uplink_ingress(packet: TcContext) -> i32 {
    count(Counter::UplinkIngress);
    let load = |at| packet.load::<u16>(at).ok().map(u16::from_be);
    if parse::udp_destination(load) == Some(VXLAN_PORT.load()) {
        count(Counter::UplinkVxlan);
    }
    TC_ACT_UNSPEC
}
