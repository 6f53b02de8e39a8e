//! What can be asked of a device by its name, without netlink.

use std::{
    io,
    os::{fd::AsRawFd as _, unix::net::UnixDatagram},
};

use nix::{errno::Errno, libc};

use super::named;

/// `ETHTOOL_GLINK` of linux/ethtool.h.
const GET_LINK: u32 = 0x0a;

/// How far the kernel is with a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum LinkState {
    Down,
    /// Up, but without carrier, or not yet told of it: it drops what is routed to it.
    Waiting,
    Running,
}

/// `struct ethtool_value`
#[repr(C)]
struct EthtoolValue {
    command: u32,
    data: u32,
}

/// `ip link set DEVICE txqueuelen PACKETS`
pub(in super::super) fn set_queue_length(device: &str, packets: libc::c_int) -> io::Result<()> {
    let mut request = named(device)?;
    request.ifr_ifru.ifru_metric = packets;
    // Any socket will do; its namespace is where the device is looked for.
    let socket = UnixDatagram::unbound()?;
    // SAFETY: the request takes a pointer to an ifreq with name and queue length, whose place is that of the metric (an int
    // in the same union, `ifr_qlen` of linux/if.h); it outlives the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFTXQLEN as _, &raw mut request) };
    Errno::result(result).map(drop).map_err(Into::into)
}

/// How far the kernel is. From Linux 6.8 on, asking for the carrier makes it see to a change of it at once
/// (`ethtool_op_get_link`, `net/ethtool/ioctl.c`).
pub(in super::super) fn link_state(device: &str) -> io::Result<LinkState> {
    const UP: libc::c_int = libc::IFF_UP;
    const RUNNING: libc::c_int = libc::IFF_UP | libc::IFF_RUNNING;
    let socket = UnixDatagram::unbound()?;
    let mut value = EthtoolValue { command: GET_LINK, data: 0 };
    let mut request = named(device)?;
    request.ifr_ifru.ifru_data = (&raw mut value).cast();
    // SAFETY: the request takes a pointer to an ifreq with name and a pointer to an ethtool_value; both outlive the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL as _, &raw mut request) };
    Errno::result(result)?;
    let mut request = named(device)?;
    // SAFETY: the request takes a pointer to an ifreq with a name, which outlives the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFFLAGS as _, &raw mut request) };
    Errno::result(result)?;
    // SAFETY: the kernel has written flags.
    let flags = libc::c_int::from(unsafe { request.ifr_ifru.ifru_flags });
    Ok(match flags & RUNNING {
        RUNNING => LinkState::Running,
        UP => LinkState::Waiting,
        _ => LinkState::Down,
    })
}
