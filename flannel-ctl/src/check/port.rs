//! Who has the tunnel's UDP port.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket},
};

use super::Finding;
use crate::{
    kernel::{links::Links, netlink::link::Link},
    model::{Family, Network, VxlanConfig},
    plan::Facts,
};

const NAME: &str = "UDP port";

pub(super) fn check(wanted: &VxlanConfig, network: &Network) -> Finding {
    match Links::open().and_then(|mut kernel| kernel.vxlans()) {
        Ok(links) => judge(wanted, &links).unwrap_or_else(|| free(wanted.port, network)),
        Err(error) => Finding::warn(NAME, error.to_string(), ""),
    }
}

/// The userspace datapath has the port to itself. A VXLAN device of ours on it would make room.
pub(super) fn check_userspace(port: u16, network: &Network) -> Finding {
    let devices = Facts::devices_of(network);
    let ours = Links::open().and_then(|mut kernel| {
        let mut links = kernel.lasting_tuns()?;
        links.extend(kernel.vxlans()?);
        Ok(links.into_iter().find(|link| devices.contains(&link.name)))
    });
    match ours {
        Ok(Some(link)) => Finding::ok(NAME, format!("{port} is held for {}, which would be taken over", link.name)),
        Ok(None) => free(port, network),
        Err(error) => Finding::warn(NAME, error.to_string(), ""),
    }
}

/// VXLAN devices share a port, but each VNI on it can be had once.
fn judge(wanted: &VxlanConfig, links: &[Link]) -> Option<Finding> {
    let ours = |link: &Link| Family::ALL.iter().any(|family| Facts::device_name(wanted.vni, *family) == link.name);
    let on_port = || links.iter().filter(|link| link.vxlan.is_some_and(|vxlan| vxlan.port == wanted.port));
    let rival = on_port().find(|link| !ours(link) && link.vxlan.is_some_and(|vxlan| vxlan.vni == wanted.vni));
    if let Some(rival) = rival {
        return Some(Finding::fail(
            NAME,
            format!("{} has VNI {} on port {}, which our device needs", rival.name, wanted.vni, wanted.port),
            format!("ip link delete {}, or publish another VNI or port", rival.name),
        ));
    }
    let names: Vec<_> = on_port().map(|link| link.name.as_str()).collect();
    (!names.is_empty()).then(|| {
        let how = if on_port().any(ours) { "which would be taken over" } else { "VXLAN devices share it" };
        Finding::ok(NAME, format!("{} is held by {}, {how}", wanted.port, names.join(", ")))
    })
}

fn free(port: u16, network: &Network) -> Finding {
    for family in network.families() {
        let any: IpAddr = match family {
            Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
            Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
        };
        match UdpSocket::bind((any, port)) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                let who = holder(port).unwrap_or_else(|| "somebody".into());
                return Finding::fail(
                    NAME,
                    format!("{who} has {family} port {port}, which the tunnel needs"),
                    "stop it, or publish another Backend.Port",
                );
            }
            Err(error) => return Finding::warn(NAME, format!("cannot try {family} port {port}: {error}"), ""),
        }
    }
    Finding::ok(NAME, format!("{port} is free"))
}

/// The process with a socket on that port, as far as `/proc` shows it.
fn holder(port: u16) -> Option<String> {
    let inode = ["udp", "udp6"].iter().find_map(|table| {
        let text = fs::read_to_string(format!("/proc/thread-self/net/{table}")).ok()?;
        inode_of(&text, port)
    })?;
    let wanted = format!("socket:[{inode}]");
    for process in fs::read_dir("/proc").ok()?.flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let Ok(files) = fs::read_dir(process.path().join("fd")) else { continue };
        let has = files.flatten().any(|file| fs::read_link(file.path()).is_ok_and(|to| to.as_os_str() == &*wanted));
        if has {
            let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            return Some(format!("{} (pid {pid})", name.trim()));
        }
    }
    None
}

/// Of a line like `0: 00000000:2118 00000000:0000 07 ... uid timeout inode`.
fn inode_of(table: &str, port: u16) -> Option<u64> {
    table.lines().skip(1).find_map(|line| {
        let words: Vec<_> = line.split_whitespace().collect();
        let (_, local) = words.get(1)?.rsplit_once(':')?;
        (u16::from_str_radix(local, 16).ok()? == port).then(|| words.get(9)?.parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{check::Outcome, kernel::netlink::link::Vxlan};

    fn link(name: &str, vni: u32, port: u16) -> Link {
        let vxlan = Vxlan {
            vni,
            port,
            uplink: 2,
            local: None,
            learning: false,
            gbp: false,
            zero_checksum: false,
            alien: false,
        };
        Link {
            index: 7,
            name: name.into(),
            flags: 0,
            change: 0,
            mtu: 1450,
            mac: None,
            ethernet: true,
            kind: Some("vxlan".into()),
            lasting_tun: false,
            vxlan: Some(vxlan),
            master: 0,
            lower: 0,
            leads_elsewhere: false,
            qdisc: None,
        }
    }

    #[test]
    fn only_the_same_vni_on_the_same_port_is_in_the_way() {
        let wanted = VxlanConfig::default();
        let rival = judge(&wanted, &[link("flannel.1", 7, 4789), link("antrea", 1, 8472)]).unwrap();
        assert_eq!(rival.result, Outcome::Fail);
        assert!(rival.detail.starts_with("antrea has VNI 1 on port 8472"), "{rival:?}");
        let own = judge(&wanted, &[link("flannel.1", 1, 8472), link("other", 2, 8472)]).unwrap();
        assert_eq!(own, Finding::ok(NAME, "8472 is held by flannel.1, other, which would be taken over"));
        assert_eq!(judge(&wanted, &[link("other", 2, 8472)]).unwrap().result, Outcome::Ok);
        assert_eq!(judge(&wanted, &[link("other", 1, 4789)]), None);
    }

    #[test]
    fn a_socket_is_found_by_its_port() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            \x20 12: 0100007F:0035 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 11 2 x 0\n\
            \x20 13: 00000000:2118 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 4711 2 x 0\n";
        assert_eq!(inode_of(table, 8472), Some(4711));
        assert_eq!(inode_of(table, 8473), None);
    }
}
