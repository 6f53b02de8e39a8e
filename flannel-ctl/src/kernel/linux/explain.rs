//! PURE: from the kernel's refusals to sentences.

use nix::errno::Errno;

use crate::{
    kernel::{KernelError, netlink::refusal::Refusal},
    model::{Key, Object, Op, Route, Via},
};

/// `hint`: what usually explains it here; the general ones apply otherwise.
pub(in crate::kernel) fn explain(attempt: &str, refusal: &Refusal, hint: Option<&'static str>) -> KernelError {
    let hint = hint.or(match refusal.errno {
        Errno::EPERM => Some("needs CAP_NET_ADMIN in this network namespace"),
        Errno::EAGAIN => Some("the kernel gave no answer in time"),
        Errno::ENOBUFS => Some("the socket's buffer overflowed; the outcome is unknown until the next look"),
        Errno::EAFNOSUPPORT => Some("is IPv6 turned off in this kernel?"),
        _ => None,
    });
    KernelError { attempt: attempt.to_owned(), answer: refusal.to_string(), hint, errno: refusal.errno as i32 }
}

/// A refused op.
pub(super) fn refused(op: &Op, refusal: &Refusal) -> KernelError {
    // Where the kernel says itself what is wrong, guesses at its most general errors mislead.
    let general = matches!(refusal.errno, Errno::EINVAL | Errno::EOPNOTSUPP);
    let told = general && !refusal.text.is_empty() && refusal.text != "Unknown device type";
    explain(&attempt(op), refusal, if told { None } else { hint(op, refusal.errno) })
}

/// "add route 10.5.48.0/24 via flannel.1"
pub(super) fn attempt(op: &Op) -> String {
    let verb = match (&op.from, &op.to) {
        (_, None) => "delete",
        (None, Some(_)) => "add",
        (Some(_), Some(_)) => "change",
    };
    let detail = match &op.to {
        Some(Object::Device(device)) => format!(" {} (VNI {}, port {})", device.name, device.vni, device.port),
        Some(Object::Tun(tun)) => format!(" {} (TUN)", tun.name),
        Some(Object::Neighbour(mac)) => format!(" at {mac}"),
        Some(Object::Fdb(outer)) => format!(" to {outer}"),
        Some(Object::Route(Route { via, .. })) => match via {
            Via::Overlay { nexthop: true } => " by its nexthop object".to_owned(),
            Via::Overlay { nexthop: false } => " through the VXLAN device".to_owned(),
            Via::Device => " into the tunnel device".to_owned(),
            Via::Direct { gateway } => format!(" via {gateway}"),
            Via::Blackhole => " as a blackhole".to_owned(),
            Via::Other => String::new(),
        },
        _ => String::new(),
    };
    format!("{verb} {}{detail}", op.key)
}

/// Deleting what is not there is done.
pub(super) fn is_absence(key: &Key, errno: Errno) -> bool {
    match key {
        Key::Address(..) => matches!(errno, Errno::EADDRNOTAVAIL | Errno::ENODEV),
        Key::Neighbour(_) | Key::Fdb(..) => matches!(errno, Errno::ENOENT | Errno::ENODEV | Errno::ENXIO),
        Key::Nexthop(_) => matches!(errno, Errno::ENOENT),
        Key::Route(_) => matches!(errno, Errno::ESRCH | Errno::ENODEV | Errno::ENOENT),
        Key::Device(_) => matches!(errno, Errno::ENODEV),
        Key::Setting(..)
        | Key::Filter
        | Key::Guard(..)
        | Key::Forward(_)
        | Key::Engine(_)
        | Key::LiberalConntrack
        | Key::FastPath
        | Key::FastPeer(_)
        | Key::Attachment(_) => false,
    }
}

fn hint(op: &Op, errno: Errno) -> Option<&'static str> {
    match (&op.key, errno) {
        (Key::Device(_), Errno::EOPNOTSUPP) => Some("is the vxlan module there? try modprobe vxlan"),
        (Key::Device(_), Errno::EADDRINUSE) => Some("another socket is bound to the VXLAN port"),
        (Key::Device(_), Errno::EADDRNOTAVAIL) => Some("is the local address still on the uplink?"),
        (Key::Device(_), Errno::ENODEV) => Some("the uplink went away"),
        (Key::Device(_), Errno::EINVAL) => Some("does the MTU fit the uplink's less the VXLAN overhead?"),
        (Key::Address(..), Errno::EACCES) => Some("IPv6 is off for the device: net.ipv6.conf.*.disable_ipv6"),
        (Key::Address(..), Errno::ENODEV | Errno::EINVAL) => Some("IPv6 needs an MTU of 1280 on the device"),
        (Key::Neighbour(_), Errno::ENOBUFS) => Some("the neighbour table is full: net.*.neigh.default.gc_thresh3"),
        (Key::Nexthop(_), Errno::ENETDOWN) => Some("the VXLAN device is down"),
        (Key::Nexthop(_), Errno::EEXIST) => Some("another program made a nexthop object with this id"),
        (Key::Route(_), Errno::EEXIST) => Some("another program has a route to this destination"),
        (Key::Route(_), Errno::ENETDOWN) => Some("the device that it leads through is down"),
        (Key::Route(_), Errno::ENETUNREACH | Errno::EHOSTUNREACH) => {
            Some("the uplink has no address in the gateway's network")
        }
        (Key::Route(_), Errno::EINVAL) => Some("are its device and nexthop object there?"),
        _ => None,
    }
}
