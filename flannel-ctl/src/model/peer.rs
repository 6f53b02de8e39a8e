//! Another node, after its lease has been checked and believed.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use super::{Family, Mac, Subnet};

/// Everything that the datapaths need to know about another node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Key of the lease, for messages. Shared with whoever looks peers up by something else.
    pub key: Arc<str>,
    pub subnet: Subnet,
    pub public_v4: Option<Ipv4Addr>,
    pub public_v6: Option<Ipv6Addr>,
    /// VTEP address behind `public_v4` and `public_v6`; both absent unless the backend is vxlan.
    pub vtep_v4: Option<Mac>,
    pub vtep_v6: Option<Mac>,
    /// Its IPv6 device takes tunnel packets whose UDP checksum is zero, and its lease says so.
    pub zero_checksum_v6: bool,
    /// Host name, or whatever the lease says of its node; may be empty.
    pub node: String,
}

impl Peer {
    /// The address that packets of this inner family are sent to: flannel keeps families
    /// apart, IPv4 in IPv4 and IPv6 in IPv6.
    pub fn public(&self, family: Family) -> Option<IpAddr> {
        match family {
            Family::V4 => self.public_v4.map(IpAddr::V4),
            Family::V6 => self.public_v6.map(IpAddr::V6),
        }
    }

    pub fn vtep(&self, family: Family) -> Option<Mac> {
        match family {
            Family::V4 => self.vtep_v4,
            Family::V6 => self.vtep_v6,
        }
    }

    /// It takes tunnel packets of that family whose UDP checksum is zero. Over IPv4 everybody does (RFC 768).
    pub fn takes_zero_checksum(&self, family: Family) -> bool {
        match family {
            Family::V4 => true,
            Family::V6 => self.zero_checksum_v6,
        }
    }
}
