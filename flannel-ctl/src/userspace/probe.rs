//! What an engine would have here, found out by opening what it opens.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::{EngineError, Offloads, Options, socket::Sockets, tun::Tun};

/// Two, to see whether there can be several.
const QUEUES: usize = 2;

/// Makes a TUN device of that name, which stays, and sockets at a port of the kernel's choice: for a network namespace that
/// is thrown away.
pub fn probe(device: &str) -> Result<Offloads, EngineError> {
    let tun = Tun::open(device, QUEUES, Offloads::ALL)?;
    let local = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
    Ok(Sockets::open(local, 1, Options::RECEIVE_BUFFER, tun.offloads)?.offloads)
}
