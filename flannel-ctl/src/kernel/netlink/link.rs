//! Network devices: `ip link`.

use std::net::IpAddr;

use nix::libc;

use super::wire::{Put, Request, attributes, ip, text, u16_at, u32_at};
use crate::{
    model::{Device, Family, Mac, Object, Tun},
    userspace::QUEUE_LENGTH,
};

/// `RTEXT_FILTER_SKIP_STATS` (`linux/rtnetlink.h`): 400 bytes a device that nobody reads.
const SKIP_STATS: u32 = 8;
/// Length of `struct ifinfomsg`.
const BODY: usize = 16;

/// `IFLA_VXLAN_*` of `linux/if_link.h`.
mod vxlan_attr {
    pub(super) const ID: u16 = 1;
    pub(super) const GROUP: u16 = 2;
    pub(super) const LINK: u16 = 3;
    pub(super) const LOCAL: u16 = 4;
    pub(super) const LEARNING: u16 = 7;
    pub(super) const PORT: u16 = 15;
    pub(super) const GROUP6: u16 = 16;
    pub(super) const LOCAL6: u16 = 17;
    pub(super) const UDP_ZERO_CSUM6_RX: u16 = 20;
    pub(super) const GBP: u16 = 23;
    pub(super) const COLLECT_METADATA: u16 = 25;
    pub(super) const GPE: u16 = 27;
}

/// `IFLA_TUN_*` of `linux/if_link.h`, and `IFF_TUN` of `linux/if_tun.h`.
mod tun_attr {
    pub(super) const TYPE: u16 = 3;
    pub(super) const PERSIST: u16 = 6;
    pub(super) const TYPE_TUN: u8 = 1;
}

/// A device as the kernel describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    pub index: u32,
    pub name: String,
    /// `IFF_*`.
    pub flags: u32,
    /// Which flags a notice is about.
    pub change: u32,
    pub mtu: u32,
    pub mac: Option<Mac>,
    /// Its packets have an Ethernet header (`ARPHRD_ETHER`).
    pub ethernet: bool,
    /// "vxlan", "bridge"...; plain hardware has none.
    pub kind: Option<String>,
    /// Present if the kind is vxlan.
    pub vxlan: Option<Vxlan>,
    /// A TUN device (not TAP) that stays when nobody reads it.
    pub lasting_tun: bool,
    /// Bridge or the like that it is a port of; 0 is none.
    pub master: u32,
    /// Device of this namespace that it sits on, as a VLAN does; 0 is none.
    pub lower: u32,
    /// Its other end is in another network namespace.
    pub leads_elsewhere: bool,
    /// Kind of its root queueing discipline.
    pub qdisc: Option<String>,
}

/// The VXLAN part of a [`Link`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vxlan {
    pub vni: u32,
    pub port: u16,
    /// Lower device; 0 is none.
    pub uplink: u32,
    pub local: Option<IpAddr>,
    pub learning: bool,
    pub gbp: bool,
    /// Takes IPv6 tunnel packets whose UDP checksum is zero (`udp6zerocsumrx`).
    pub zero_checksum: bool,
    /// Has a default destination, or takes the VNI from elsewhere (`external`), or speaks GPE:
    /// never made by us or by flannel.
    pub alien: bool,
}

impl Link {
    /// Reads an `RTM_NEWLINK` or `RTM_DELLINK`. Bridge port messages share the number and are
    /// left out.
    pub(crate) fn read(payload: &[u8]) -> Option<Self> {
        if i32::from(*payload.first()?) != libc::AF_UNSPEC {
            return None;
        }
        let mut link = Self {
            index: u32_at(payload, 4)?,
            name: String::new(),
            flags: u32_at(payload, 8)?,
            change: u32_at(payload, 12)?,
            mtu: 0,
            mac: None,
            ethernet: u16_at(payload, 2)? == libc::ARPHRD_ETHER,
            kind: None,
            vxlan: None,
            lasting_tun: false,
            master: 0,
            lower: 0,
            leads_elsewhere: false,
            qdisc: None,
        };
        for (kind, value) in attributes(payload, BODY) {
            match kind {
                libc::IFLA_IFNAME => link.name = text(value),
                libc::IFLA_MTU => link.mtu = u32_at(value, 0)?,
                libc::IFLA_ADDRESS => link.mac = value.try_into().ok().map(Mac),
                libc::IFLA_LINKINFO => link.read_info(value),
                libc::IFLA_MASTER => link.master = u32_at(value, 0)?,
                libc::IFLA_LINK => link.lower = u32_at(value, 0)?,
                libc::IFLA_LINK_NETNSID => link.leads_elsewhere = true,
                libc::IFLA_QDISC => link.qdisc = Some(text(value)),
                _ => {}
            }
        }
        if link.leads_elsewhere {
            link.lower = 0;
        }
        Some(link)
    }

    pub fn is_up(&self) -> bool {
        self.has(libc::IFF_UP)
    }

    /// One of the `IFF_*` of libc.
    pub fn has(&self, flag: i32) -> bool {
        self.flags & flag.cast_unsigned() != 0
    }

    /// The device as we would ask for it; `None` if it is not VXLAN. What must not be there at
    /// all shows up as VNI 0, which is never asked for and so has the device made anew.
    pub fn to_device(&self, family: Family) -> Option<Device> {
        let vxlan = self.vxlan?;
        let nowhere = match family {
            Family::V4 => IpAddr::from([0; 4]),
            Family::V6 => IpAddr::from([0; 16]),
        };
        Some(Device {
            name: self.name.clone(),
            vni: if vxlan.alien { 0 } else { vxlan.vni },
            port: vxlan.port,
            mac: self.mac.unwrap_or(Mac::ZERO),
            mtu: self.mtu,
            uplink: vxlan.uplink,
            local: vxlan.local.unwrap_or(nowhere),
            learning: vxlan.learning,
            gbp: vxlan.gbp,
            up: self.is_up(),
        })
    }

    /// The device as the userspace datapath would ask for it; `None` if it is no such one.
    pub fn to_tun(&self) -> Option<Tun> {
        self.lasting_tun.then(|| Tun { name: self.name.clone(), mtu: self.mtu, up: self.is_up() })
    }

    /// What there is to say of it as a tunnel device of ours, of either kind.
    pub fn to_object(&self, family: Family) -> Option<Object> {
        let vxlan = self.to_device(family).map(|device| Object::Device(Box::new(device)));
        vxlan.or_else(|| self.to_tun().map(Object::Tun))
    }

    fn read_info(&mut self, info: &[u8]) {
        let mut data = None;
        for (kind, value) in attributes(info, 0) {
            match kind {
                libc::IFLA_INFO_KIND => self.kind = Some(text(value)),
                libc::IFLA_INFO_DATA => data = Some(value),
                _ => {}
            }
        }
        if self.kind.as_deref() == Some("vxlan") {
            self.vxlan = Some(Vxlan::read(data.unwrap_or_default()));
        }
        if self.kind.as_deref() == Some("tun") {
            let is = |wanted, number| {
                attributes(data.unwrap_or_default(), 0)
                    .any(|(kind, value)| kind == wanted && value.first() == Some(&number))
            };
            self.lasting_tun = is(tun_attr::TYPE, tun_attr::TYPE_TUN) && is(tun_attr::PERSIST, 1);
        }
    }
}

impl Vxlan {
    fn read(data: &[u8]) -> Self {
        let mut vxlan = Self {
            vni: 0,
            port: 0,
            uplink: 0,
            local: None,
            learning: false,
            gbp: false,
            zero_checksum: false,
            alien: false,
        };
        for (kind, value) in attributes(data, 0) {
            let set = value.first().is_some_and(|byte| *byte != 0);
            match kind {
                vxlan_attr::ID => vxlan.vni = u32_at(value, 0).unwrap_or(0),
                vxlan_attr::PORT => vxlan.port = u16_at(value, 0).map_or(0, u16::from_be),
                vxlan_attr::LINK => vxlan.uplink = u32_at(value, 0).unwrap_or(0),
                vxlan_attr::LOCAL | vxlan_attr::LOCAL6 => vxlan.local = ip(value),
                vxlan_attr::LEARNING => vxlan.learning = set,
                vxlan_attr::GBP => vxlan.gbp = true,
                vxlan_attr::UDP_ZERO_CSUM6_RX => vxlan.zero_checksum = set,
                vxlan_attr::GROUP | vxlan_attr::GROUP6 | vxlan_attr::GPE => vxlan.alien = true,
                vxlan_attr::COLLECT_METADATA => vxlan.alien |= set,
                _ => {}
            }
        }
        vxlan
    }
}

/// `ip link show dev NAME`
pub(crate) fn get_by_name(name: &str) -> Request {
    Request::new(libc::RTM_GETLINK, 0, &body(0, None))
        .text(libc::IFLA_IFNAME, name)
        .u32(libc::IFLA_EXT_MASK, SKIP_STATS)
}

/// `ip link show`
pub(crate) fn list() -> Request {
    Request::new(libc::RTM_GETLINK, 0, &body(0, None)).u32(libc::IFLA_EXT_MASK, SKIP_STATS)
}

/// `ip link del`
pub(crate) fn delete(index: u32) -> Request {
    Request::new(libc::RTM_DELLINK, 0, &body(index, None))
}

/// `ip link set INDEX name NAME`, which older kernels want down for that (`dev_change_name`, before 6.2).
pub(crate) fn rename(index: u32, name: &str) -> [Request; 2] {
    let down = Request::new(libc::RTM_NEWLINK, 0, &body(index, Some(false)));
    [down, Request::new(libc::RTM_NEWLINK, 0, &body(index, None)).text(libc::IFLA_IFNAME, name)]
}

/// `ip link add NAME up address MAC mtu MTU txqueuelen 0 type vxlan id VNI dev UPLINK
/// local LOCAL dstport PORT [no]learning [gbp] [udp6zerocsumrx]`. What is not named stays at the kernel's
/// default, which is what flannel's devices have: TTL inherited from the route, UDP checksums
/// on for IPv4 and never zero for IPv6, source ports from the whole local range.
///
/// `zero_checksum`: to take IPv6 tunnel packets whose UDP checksum is zero, as the fast path makes them. RFC 6935 and
/// 6936 let a tunnel do so: what is inside has checksums of its own.
pub(crate) fn create(device: &Device, zero_checksum: bool) -> Request {
    Request::put(libc::RTM_NEWLINK, Put::New, &body(0, Some(device.up)))
        .text(libc::IFLA_IFNAME, &device.name)
        .attr(libc::IFLA_ADDRESS, &device.mac.0)
        .u32(libc::IFLA_MTU, device.mtu)
        .u32(libc::IFLA_TXQLEN, 0)
        .nest(libc::IFLA_LINKINFO, |info| {
            info.text(libc::IFLA_INFO_KIND, "vxlan").nest(libc::IFLA_INFO_DATA, |data| {
                let data = changeable(data, device)
                    .u32(vxlan_attr::ID, device.vni)
                    .attr(vxlan_attr::PORT, &device.port.to_be_bytes());
                let data = if zero_checksum { data.u8(vxlan_attr::UDP_ZERO_CSUM6_RX, 1) } else { data };
                if device.gbp { data.attr(vxlan_attr::GBP, &[]) } else { data }
            })
        })
}

/// `ip link change` and `ip link set`, as far as needed: turns `from` into `to`. The VXLAN part
/// goes first, so that a new lower device's MTU is known when ours is checked against it; and by
/// itself, since `vxlan_nl2conf` (6.18) refuses an MTU in the same request.
pub(crate) fn change(index: u32, from: &Device, to: &Device) -> Vec<Request> {
    let mut requests = Vec::new();
    if (from.uplink, from.local, from.learning) != (to.uplink, to.local, to.learning) {
        let request = Request::new(libc::RTM_NEWLINK, 0, &body(index, None));
        requests.push(request.nest(libc::IFLA_LINKINFO, |info| {
            info.text(libc::IFLA_INFO_KIND, "vxlan").nest(libc::IFLA_INFO_DATA, |data| changeable(data, to))
        }));
    }
    if (from.mtu, from.mac, from.up) != (to.mtu, to.mac, to.up) {
        let mut request = Request::new(libc::RTM_NEWLINK, 0, &body(index, (from.up != to.up).then_some(to.up)));
        if from.mtu != to.mtu {
            request = request.u32(libc::IFLA_MTU, to.mtu);
        }
        if from.mac != to.mac {
            request = request.attr(libc::IFLA_ADDRESS, &to.mac.0);
        }
        requests.push(request);
    }
    requests
}

/// A VXLAN device without a VNI, which no kernel makes: one that has such devices says that the VNI is missing, one
/// that has not knows no such type.
pub(crate) fn impossible_vxlan() -> Request {
    Request::put(libc::RTM_NEWLINK, Put::New, &body(0, None))
        .nest(libc::IFLA_LINKINFO, |info| info.text(libc::IFLA_INFO_KIND, "vxlan"))
}

/// `ip link set INDEX mtu MTU txqueuelen PACKETS up|down`
pub(crate) fn change_tun(index: u32, to: &Tun) -> Request {
    Request::new(libc::RTM_NEWLINK, 0, &body(index, Some(to.up)))
        .u32(libc::IFLA_MTU, to.mtu)
        .u32(libc::IFLA_TXQLEN, QUEUE_LENGTH.into())
}

/// The attributes that `vxlan_changelink` accepts (6.18).
fn changeable(data: Request, device: &Device) -> Request {
    let local = if device.local.is_ipv4() { vxlan_attr::LOCAL } else { vxlan_attr::LOCAL6 };
    let data = if device.uplink == 0 { data } else { data.u32(vxlan_attr::LINK, device.uplink) };
    data.ip(local, device.local).u8(vxlan_attr::LEARNING, device.learning.into())
}

/// `struct ifinfomsg`; `up`: to be set, or left alone.
fn body(index: u32, up: Option<bool>) -> [u8; BODY] {
    let mut body = [0; BODY];
    body[4..8].copy_from_slice(&index.to_ne_bytes());
    if let Some(up) = up {
        let flag = libc::IFF_UP.to_ne_bytes();
        if up {
            body[8..12].copy_from_slice(&flag);
        }
        body[12..16].copy_from_slice(&flag);
    }
    body
}
