//! The two address families.

use std::{fmt, net::IpAddr};

use ipnet::IpNet;

/// IPv4 or IPv6; also names one of the two VXLAN devices, since flannel keeps one per family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    pub fn of(ip: &IpAddr) -> Self {
        if ip.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    pub fn of_net(net: &IpNet) -> Self {
        Self::of(&net.addr())
    }

    /// Bytes that a datagram has before its payload: IP 20 or 40, UDP 8.
    pub const fn udp_overhead(self) -> u32 {
        match self {
            Self::V4 => 28,
            Self::V6 => 48,
        }
    }

    /// Bytes that VXLAN adds to an inner IP packet when the *outer* family is this one:
    /// outer IP and UDP, VXLAN 8, inner Ethernet 14 (RFC 7348 section 5).
    pub const fn vxlan_overhead(self) -> u32 {
        self.udp_overhead() + 22
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}
