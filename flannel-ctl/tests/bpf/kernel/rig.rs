//! A node out of namespaces, with the kernel's VXLAN devices as flannel makes them, a pod's end and the wire's.

use std::{io, os::fd::AsRawFd as _};

use flannel_ctl::kernel::fastpath::Hook;
use nix::{
    libc,
    net::if_::if_nametoindex,
    sys::{
        socket::{AddressFamily, SockFlag, SockProtocol, SockType, setsockopt, socket, sockopt::ReceiveTimeout},
        time::{TimeVal, TimeValLike as _},
    },
};
use xtask::lab::Netns;

use crate::site::{PORT, Site, net};

pub(super) struct Rig {
    node: Netns,
    pod: Port,
    wire: Port,
    /// Held until the end.
    _others: [Netns; 2],
}

impl Rig {
    pub(super) fn new(prefix: &str) -> Self {
        let netns = |name: &str| Netns::create(format!("{prefix}-{name}")).unwrap();
        let (node, pod, wire) = (netns("node"), netns("pod"), netns("wire"));
        for quiet in [&pod, &wire] {
            quiet.sysctl(&[("ipv6/conf/all/disable_ipv6", "1"), ("ipv6/conf/default/disable_ipv6", "1")]).unwrap();
        }
        node.sysctl(&[("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")]).unwrap();
        node.ip(&format!(
            "link add up0 mtu 1700 address 02:00:00:00:00:01 type veth peer name wire0 mtu 1700 address 02:00:00:00:00:02 netns {}\n\
             link add pod0 address 02:00:00:00:09:01 type veth peer name eth0 address 02:00:00:00:09:07 netns {}\n\
             link set up0 up\n\
             link set pod0 up\n",
            wire.name(),
            pod.name()
        ))
        .unwrap();
        wire.ip("link set wire0 up").unwrap();
        pod.ip("link set eth0 up").unwrap();
        node.settle("up0").unwrap();
        node.settle("pod0").unwrap();
        node.ip("address add 10.5.1.1/24 dev pod0\n\
             address add fd05:0:0:1::1/64 dev pod0 nodad\n\
             neighbour add 10.5.1.7 lladdr 02:00:00:00:09:07 dev pod0 nud permanent\n\
             neighbour add fd05:0:0:1::7 lladdr 02:00:00:00:09:07 dev pod0 nud permanent\n")
            .unwrap();
        for (device, v4, length, subnet, checksums) in
            [("flannel.1", true, 24, 24, "noudpcsum"), ("flannel-v6.1", false, 64, 64, "udp6zerocsumtx udp6zerocsumrx")]
        {
            let net = net(v4);
            let (local, remote, far) = (net.local, net.remote, net.far_subnet);
            let (mtu, host) = if v4 { (1450, 32) } else { (1430, 128) };
            let own = if v4 { "10.5.1.0" } else { "fd05:0:0:1::" };
            let nodad = if v4 { "" } else { "nodad" };
            node.ip(&format!(
                "address add {local}/{length} dev up0 {nodad}\n\
                 neighbour add {remote} lladdr 02:00:00:00:00:02 dev up0 nud permanent\n\
                 link add {device} address 02:00:00:00:01:01 type vxlan id 1 local {local} dev up0 dstport {PORT} nolearning {checksums}\n\
                 link set {device} mtu {mtu} up\n\
                 address add {own}/{host} dev {device} {nodad}\n\
                 neighbour add {far} lladdr 02:00:00:00:01:02 dev {device} nud permanent\n\
                 route add {far}/{subnet} via {far} dev {device} onlink\n"
            ))
            .unwrap();
            node.run(&format!("bridge fdb append 02:00:00:00:01:02 dev {device} dst {remote}")).unwrap();
        }
        let port = |netns: &Netns, interface: &str| netns.enter(|| Port::open(interface)).unwrap().unwrap();
        let (at_pod, at_wire) = (port(&pod, "eth0"), port(&wire, "wire0"));
        Self { node, pod: at_pod, wire: at_wire, _others: [pod, wire] }
    }

    /// Runs a test on a thread in the node, with programs that know its interfaces.
    pub(super) fn inside(&self, test: impl FnOnce(&mut Site) + Send) {
        self.node
            .enter(|| {
                let mut site = Site::new();
                site.pod = if_nametoindex("pod0").unwrap();
                site.uplink = if_nametoindex("up0").unwrap();
                site.reset();
                test(&mut site);
            })
            .unwrap();
    }

    /// The pod sends a frame.
    pub(super) fn pod_sends(&self, frame: &[u8]) {
        self.pod.send(frame).unwrap();
    }

    /// The pod's stack hands down in one piece what is to be cut to this size.
    pub(super) fn pod_sends_in_one_piece(&self, header: [u8; 10], frame: &[u8]) {
        self.pod.send_with(header, frame).unwrap();
    }

    /// From now on the wire takes no more than frames of its size, with checksums that are filled in.
    pub(super) fn cut_on_the_wire(&self) {
        self.node.run("ethtool -K up0 tx off tso off gso off tx-udp_tnl-segmentation off").unwrap();
    }

    /// The next tunnel packet on the wire.
    pub(super) fn on_the_wire(&self) -> Vec<u8> {
        self.wire.next(|frame| frame.get(23) == Some(&17) || frame.get(20) == Some(&17))
    }

    /// The peer sends a frame.
    pub(super) fn wire_sends(&self, frame: &[u8]) {
        self.wire.send(frame).unwrap();
    }

    /// What the kernel sends on the wire for a frame that the pod sends.
    pub(super) fn through_the_tunnel(&self, frame: &[u8]) -> Vec<u8> {
        self.pod_sends(frame);
        self.on_the_wire()
    }

    /// What the kernel delivers to the pod for a frame from the wire.
    pub(super) fn out_of_the_tunnel(&self, frame: &[u8]) -> Vec<u8> {
        self.wire_sends(frame);
        self.pod.next(|frame| frame[..6] == [2, 0, 0, 0, 9, 7])
    }
}

/// Every program in its place on the node's interfaces.
pub(super) fn attach_all(site: &mut Site) {
    for (hook, interface) in [
        (Hook::UplinkEgress, "up0"),
        (Hook::UplinkIngress, "up0"),
        (Hook::PodEgress, "pod0"),
        (Hook::PodIngress, "pod0"),
        (Hook::VtepIngress, "flannel.1"),
        (Hook::VtepIngress, "flannel-v6.1"),
    ] {
        site.trial.attach(hook, interface).unwrap();
    }
}

/// An interface's frames.
struct Port(std::os::fd::OwnedFd);

impl Port {
    fn open(interface: &str) -> io::Result<Self> {
        let fd = socket(AddressFamily::Packet, SockType::Raw, SockFlag::empty(), SockProtocol::EthAll)?;
        // SAFETY: all zeroes are a value of this plain structure.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = u16::try_from(libc::AF_PACKET).unwrap();
        address.sll_protocol = u16::try_from(libc::ETH_P_ALL).unwrap().to_be();
        address.sll_ifindex = i32::try_from(if_nametoindex(interface)?).unwrap();
        let length = u32::try_from(size_of_val(&address)).unwrap();
        // SAFETY: an address of this length.
        let outcome = unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), length) };
        if outcome != 0 {
            return Err(io::Error::last_os_error());
        }
        // What the interface itself sends is not asked for.
        let one: libc::c_int = 1;
        let length = u32::try_from(size_of_val(&one)).unwrap();
        // SAFETY: an option of this length. 23 is PACKET_IGNORE_OUTGOING (linux/if_packet.h).
        unsafe { libc::setsockopt(fd.as_raw_fd(), libc::SOL_PACKET, 23, (&raw const one).cast(), length) };
        setsockopt(&fd, ReceiveTimeout, &TimeVal::seconds(20))?;
        Ok(Self(fd))
    }

    fn send(&self, frame: &[u8]) -> nix::Result<usize> {
        nix::unistd::write(&self.0, frame)
    }

    /// Sends a frame behind a `struct virtio_net_hdr` (`linux/virtio_net.h`).
    fn send_with(&self, header: [u8; 10], frame: &[u8]) -> nix::Result<usize> {
        self.vnet_header(true);
        let sent = nix::unistd::write(&self.0, &[&header[..], frame].concat());
        self.vnet_header(false);
        sent
    }

    /// Whether frames have that header before them, both ways.
    fn vnet_header(&self, on: bool) {
        let on = libc::c_int::from(on);
        let length = u32::try_from(size_of_val(&on)).unwrap();
        // SAFETY: an option of this length. 15 is PACKET_VNET_HDR (linux/if_packet.h).
        let outcome =
            unsafe { libc::setsockopt(self.0.as_raw_fd(), libc::SOL_PACKET, 15, (&raw const on).cast(), length) };
        assert_eq!(outcome, 0, "{}", io::Error::last_os_error());
    }

    /// The next frame of this kind; nothing within 20 seconds is a failure.
    fn next(&self, wanted: impl Fn(&[u8]) -> bool) -> Vec<u8> {
        let mut buffer = [0; 2048];
        loop {
            let length = nix::unistd::read(&self.0, &mut buffer).expect("the kernel sends the packet as well");
            if wanted(&buffer[..length]) {
                return buffer[..length].to_vec();
            }
        }
    }
}
