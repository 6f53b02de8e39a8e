//! ICMP echo through the kernel's ping sockets: the kernel answers, and keeps checksum and identifier.

use std::{
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
    time::Duration,
};

use anyhow::{Context as _, Result};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockProtocol, SockType, setsockopt, socket,
    sockopt::{RcvBufForce, SndBufForce},
};

use super::{Family, Netns};

/// Type, code, checksum, identifier, sequence: the same layout in ICMP and ICMPv6.
const HEADER: usize = 8;
const ECHO_REQUEST: u8 = 8;
const ECHO_REQUEST_V6: u8 = 128;

/// An echo request's own 16 octets, which the reply brings back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) sequence: u64,
    /// Sender's clock.
    pub(super) sent_nanos: u64,
}

/// A socket inside a namespace that sends echo requests and hears only the replies to them.
#[derive(Debug)]
pub(super) struct Echo {
    socket: UdpSocket,
    family: Family,
}

impl Echo {
    pub(super) fn open(netns: &Netns, family: Family) -> Result<Self> {
        // Ping sockets are closed to everybody, root too, until a group range is given (ip-sysctl.rst).
        netns.sysctl(&[("ipv4/ping_group_range", "0 2147483647")])?;
        let (domain, protocol) = match family {
            Family::V4 => (AddressFamily::Inet, SockProtocol::Icmp),
            Family::V6 => (AddressFamily::Inet6, SockProtocol::IcmpV6),
        };
        let fd = netns
            .enter(|| socket(domain, SockType::Datagram, SockFlag::SOCK_CLOEXEC, protocol))?
            .context("opening a ping socket")?;
        // A stalled reader must not look like packets lost on the way: room for seconds of replies.
        setsockopt(&fd, RcvBufForce, &(16 << 20)).context("enlarging the receive buffer")?;
        setsockopt(&fd, SndBufForce, &(16 << 20)).context("enlarging the send buffer")?;
        let socket = UdpSocket::from(fd);
        socket.set_read_timeout(Some(Duration::from_millis(20)))?;
        Ok(Self { socket, family })
    }

    pub(super) fn send(&self, to: IpAddr, mark: Mark) -> io::Result<()> {
        let mut request = [0; HEADER + 16];
        request[0] = match self.family {
            Family::V4 => ECHO_REQUEST,
            Family::V6 => ECHO_REQUEST_V6,
        };
        let [.., high, low] = mark.sequence.to_be_bytes();
        request[6..8].copy_from_slice(&[high, low]);
        request[8..16].copy_from_slice(&mark.sequence.to_be_bytes());
        request[16..24].copy_from_slice(&mark.sent_nanos.to_be_bytes());
        self.socket.send_to(&request, SocketAddr::new(to, 0)).map(drop)
    }

    /// The next reply; nothing after 20 ms without one, or when an ICMP error came instead.
    pub(super) fn receive(&self) -> Option<(IpAddr, Mark)> {
        let mut reply = [0; 128];
        let (length, from) = self.socket.recv_from(&mut reply).ok()?;
        let body = reply.get(HEADER..length)?;
        let number = |at: usize| Some(u64::from_be_bytes(body.get(at..at + 8)?.try_into().ok()?));
        Some((from.ip(), Mark { sequence: number(0)?, sent_nanos: number(8)? }))
    }
}
