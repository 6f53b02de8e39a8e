//! What is remembered of a flow: one entry for each direction.

use bytemuck::{Pod, Zeroable};

use crate::{Address, Tuple};

/// Name of the LRU hash from the [`Tuple`] that a pod sends to its [`EgressFlow`].
pub const EGRESS_MAP: &str = "EGRESS";

/// Name of the LRU hash from the inner [`Tuple`] that comes out of the tunnel to its [`IngressFlow`].
pub const INGRESS_MAP: &str = "INGRESS";

/// Age and use of one direction of a flow. Times are nanoseconds of the monotonic clock; the counts are
/// approximate where one flow is carried by two CPUs at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Use {
    /// The kernel path first let a packet of it through.
    pub created: u64,
    /// The last such proof.
    pub proved: u64,
    /// Packets that took the fast path.
    pub packets: u64,
    /// Octets of them from the inner IP header on.
    pub bytes: u64,
}

/// A flow that pods of this node send into the tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct EgressFlow {
    /// Its key: elements of a map are reused at once while other CPUs read them. Whoever has read what he needs sees by
    /// this, [`Self::filled`] and [`Self::filled_too`] whether it was this flow's. They are at both ends, since the kernel
    /// copies forwards or backwards.
    pub sent: Tuple,
    /// When the element was filled, nanoseconds of the monotonic clock.
    pub filled: u64,
    /// The same as [`Self::expires`] in the kernel's ticks ([`crate::Settings::tick`]), no later: proved while there are fewer.
    pub until: u64,
    /// [`crate::Settings::epoch`] at the proof.
    pub epoch: u32,
    /// Interface index of the pod's host side.
    pub pod: u32,
    /// Interface index that the tunnel packet leaves by.
    pub uplink: u32,
    /// [`state`] bits.
    pub state: u32,
    /// Sum of the outer IPv4 header's 16-bit words without type of service, length, identification and checksum.
    pub outer_sum: u32,
    /// The largest packet, or segment of one, that the kernel path has let through since the flow was proved after a doubt:
    /// what is larger may be too large for a path that only the kernel knows.
    pub largest: u32,
    /// Ethernet destination of the pod's frames: who routes them.
    pub gateway: [u16; 3],
    /// DSCP of what the kernel path let through, in the type of service's place.
    pub dscp: u16,
    /// As it goes on the wire, after whatever netfilter did.
    pub wire: Tuple,
    /// The kernel's own encapsulation of this flow after two octets of padding: outer Ethernet, IP, UDP, VXLAN, inner
    /// Ethernet. What differs from packet to packet is zero.
    pub header: [u32; HEADER_WORDS],
    /// Age and use.
    pub used: Use,
    /// Proved until then, nanoseconds of the monotonic clock.
    pub expires: u64,
    /// The same as [`Self::filled`].
    pub filled_too: u64,
}

impl EgressFlow {
    /// The other end of the tunnel, as the outer header has it.
    pub fn peer(&self) -> Address {
        /// Destination of an IPv4 and of an IPv6 packet, from the outer Ethernet header on.
        const DESTINATION: (usize, usize) = (14 + 16, 14 + 24);
        let octets: &[u8] = bytemuck::bytes_of(&self.header);
        let word = |at: usize| u32::from_ne_bytes([octets[at], octets[at + 1], octets[at + 2], octets[at + 3]]);
        if self.wire.source.is_v4() {
            return Address::v4(word(DESTINATION.0));
        }
        Address([0, 4, 8, 12].map(|offset| word(DESTINATION.1 + offset)))
    }
}

/// Words of [`EgressFlow::header`]: enough for IPv6, 2 + 14 + 40 + 8 + 8 + 14 octets and two to round up.
pub const HEADER_WORDS: usize = 22;

/// A flow that comes out of the tunnel to a pod of this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct IngressFlow {
    /// Its key, as in [`EgressFlow::sent`].
    pub arriving: Tuple,
    /// As in [`EgressFlow::filled`].
    pub filled: u64,
    /// As in [`EgressFlow::until`].
    pub until: u64,
    /// [`crate::Settings::epoch`] at the proof.
    pub epoch: u32,
    /// Interface index of the pod's host side.
    pub pod: u32,
    /// Largest packet that the pod's interface takes, in octets.
    pub mtu: u32,
    /// [`state`] bits.
    pub state: u32,
    /// As in [`EgressFlow::dscp`].
    pub dscp: u32,
    /// Why the packet that came last was left to the kernel path, where only its outer headers tell: [`crate::Counter`] by slot.
    pub left: u32,
    /// The node that the tunnel packets must come from.
    pub outer: Address,
    /// As the pod sees it, after whatever netfilter did.
    pub delivered: Tuple,
    /// Destination and source address of the frame that the pod gets, in this order, and two octets of padding before.
    pub ethernet: [u16; 8],
    /// Age and use.
    pub used: Use,
    /// Proved until then, nanoseconds of the monotonic clock.
    pub expires: u64,
    /// The same as [`Self::filled`].
    pub filled_too: u64,
}

/// Bits of a flow's state.
pub mod state {
    /// The other direction has been seen: packets may take the fast path.
    pub const PAIRED: u32 = 1;
    /// Netfilter translates addresses or ports.
    pub const TRANSLATED: u32 = 2;
}
