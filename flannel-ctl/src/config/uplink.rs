//! PURE: which interface carries the tunnel.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use regex::Regex;

/// What the operator said about the uplink.
#[derive(Clone, Debug, Default)]
pub struct UplinkPolicy {
    /// Names or addresses, tried in order.
    pub ifaces: Vec<String>,
    /// Tried in order once every name missed: on addresses first, then on names.
    pub regexes: Vec<Regex>,
    pub can_reach: Option<IpAddr>,
    pub public_v4: Option<Ipv4Addr>,
    pub public_v6: Option<Ipv6Addr>,
}
