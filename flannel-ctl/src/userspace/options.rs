//! What an engine is started with.

use std::net::IpAddr;

use super::Wire;

/// One tunnel: a TUN device on one side, an address on the wire on the other. flannel keeps families apart, so a node
/// with both has two.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    pub wire: Wire,
    /// Name of the TUN device. It is created if it is not there, and stays (`TUNSETPERSIST`) until somebody deletes it. Its addresses, its MTU
    /// and whether it is up are not the engine's affair.
    pub device: String,
    /// Largest inner packet: the device's MTU.
    pub mtu: u32,
    /// Our address on the wire: datagrams come from it, and only those to it are taken.
    pub local: IpAddr,
    /// How many queues the device gets, with a thread for each; `None`: as many as help here.
    pub queues: Option<usize>,
    /// What may be used of what the kernel has.
    pub offloads: Offloads,
    /// Octets that the kernel may hold for each receiving socket.
    pub receive_buffer: usize,
}

impl Options {
    /// Enough for what comes within some milliseconds in which a thread does not run; see [`Options::receive_buffer`].
    pub const RECEIVE_BUFFER: usize = 4 << 20;
}

/// What makes one call carry many packets. Each is used only if the kernel has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offloads {
    /// TCP super-packets from and to the TUN device (`TUN_F_TSO4`, `TUN_F_TSO6`).
    pub tso: bool,
    /// UDP super-packets from and to the TUN device (`TUN_F_USO4`, `TUN_F_USO6`; Linux 6.2).
    pub uso: bool,
    /// One send for a train of datagrams (`UDP_SEGMENT`; Linux 4.18).
    pub udp_gso: bool,
    /// One receive for a train of datagrams (`UDP_GRO`; Linux 5.0).
    pub udp_gro: bool,
    /// Several messages to a system call (`sendmmsg`, `recvmmsg`).
    pub batches: bool,
    /// Several queues of one TUN device (`IFF_MULTI_QUEUE`).
    pub multi_queue: bool,
}

impl Offloads {
    /// Whatever the kernel has.
    pub const ALL: Self = Self { tso: true, uso: true, udp_gso: true, udp_gro: true, batches: true, multi_queue: true };
    /// One packet a call.
    pub const NONE: Self =
        Self { tso: false, uso: false, udp_gso: false, udp_gro: false, batches: false, multi_queue: false };

    /// Names and values, for output.
    pub fn list(self) -> [(&'static str, bool); 6] {
        let Self { tso, uso, udp_gso, udp_gro, batches, multi_queue } = self;
        [
            ("tso", tso),
            ("uso", uso),
            ("udp_gso", udp_gso),
            ("udp_gro", udp_gro),
            ("batches", batches),
            ("multi_queue", multi_queue),
        ]
    }
}
