//! The interface that carries the tunnel.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// What was chosen at start, and is followed when its address or MTU changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uplink {
    pub index: u32,
    pub name: String,
    /// Bytes of IP packet.
    pub mtu: u32,
    /// Its packets have an Ethernet header; those of tunnels often do not.
    pub ethernet: bool,
    /// Others' traffic filters look at what comes in by it.
    pub filtered: bool,
    /// Our own source addresses: on it, or the public ones where another interface has them.
    pub v4: Option<Ipv4Addr>,
    pub v6: Option<Ipv6Addr>,
    /// What peers must dial; the interface address unless the operator says otherwise (NAT, an address of the
    /// loopback interface).
    pub public_v4: Option<Ipv4Addr>,
    pub public_v6: Option<Ipv6Addr>,
}

/// A network interface of the host, as far as the choice of the uplink needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkInfo {
    pub index: u32,
    pub name: String,
    /// Bytes of IP packet; 0 is what some virtual interfaces say.
    pub mtu: u32,
    /// Set up by the administrator (`IFF_UP`), whatever the carrier does.
    pub up: bool,
    /// Its packets have an Ethernet header (`ARPHRD_ETHER`).
    pub ethernet: bool,
    /// In the kernel's order.
    pub addresses: Vec<LinkAddress>,
}

/// An address of an interface with the attributes that decide whether peers should use it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkAddress {
    /// `IFA_LOCAL` where it is given (point-to-point links), else `IFA_ADDRESS`.
    pub ip: IpAddr,
    pub prefix_len: u8,
    /// Scope is universe (`RT_SCOPE_UNIVERSE`), not link, host or site.
    pub scope_global: bool,
    /// IPv6 privacy address (`IFA_F_TEMPORARY`, which for IPv4 means secondary: leave it unset there).
    pub temporary: bool,
    /// Has a lifetime: `IFA_F_PERMANENT` is not set.
    pub dynamic: bool,
    /// Preferred lifetime is over (`IFA_F_DEPRECATED`).
    pub deprecated: bool,
}

impl LinkAddress {
    /// The address with its on-link range.
    pub fn net(&self) -> IpNet {
        IpNet::new_assert(self.ip, self.prefix_len.min(if self.ip.is_ipv4() { 32 } else { 128 }))
    }
}
