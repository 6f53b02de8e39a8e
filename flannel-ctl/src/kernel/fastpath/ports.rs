//! The UDP source ports that the kernel gives tunnel packets.

use std::{fs, io};

use super::FastPathError;

const PATH: &str = "/proc/sys/net/ipv4/ip_local_port_range";

/// First and last: a VXLAN device without a range of its own takes the namespace's (`udp_flow_src_port`,
/// `include/net/udp.h`, 6.18).
pub(super) fn local_range() -> Result<(u16, u16), FastPathError> {
    let failed = |cause| FastPathError::Sysctl { path: PATH, cause };
    let text = fs::read_to_string(PATH).map_err(failed)?;
    let mut numbers = text.split_whitespace().map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(first)), Some(Ok(last))) => Ok((first, last)),
        _ => Err(failed(io::Error::new(io::ErrorKind::InvalidData, format!("not two ports: {}", text.trim())))),
    }
}
