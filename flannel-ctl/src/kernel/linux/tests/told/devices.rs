//! Damage to what the tables hang on: the tunnel devices and the uplink.

use super::{all_known, known_once_settled};

#[test]
fn tunnel_devices() {
    all_known(&[
        "ip link set flannel.7 down",
        "ip link set flannel-v6.7 down",
        "ip link set flannel.7 down; ip link set flannel.7 up",
        "ip link set flannel-v6.7 down; ip link set flannel-v6.7 up",
        "ip link del flannel.7",
        "ip link del flannel-v6.7",
        "ip link del flannel.7; ip link add flannel.7 type vxlan id 7 dev up0 dstport 8472 local 192.168.200.1 nolearning; \
         ip link set flannel.7 up",
        "ip link set flannel.7 address 02:00:00:00:00:77",
        "ip link set flannel-v6.7 address 02:00:00:00:00:77",
        "ip link set flannel.7 address 02:00:00:00:00:77; ip link set flannel.7 address 02:00:00:00:ff:01",
        "ip link set flannel-v6.7 address 02:00:00:00:00:77; ip link set flannel-v6.7 address 02:00:00:00:ff:00",
        "ip link set flannel.7 mtu 1400",
        "ip link set flannel-v6.7 mtu 1200",
        "ip link set flannel-v6.7 mtu 1200; ip link set flannel-v6.7 mtu 1430",
        "ip link set flannel.7 down; ip link set flannel.7 name other",
        "ip link set flannel.7 name other",
        "ip link set flannel.7 promisc on",
        "ip link set flannel.7 txqueuelen 7",
        "ip addr del 10.156.64.0/32 dev flannel.7",
        "ip addr add 10.9.9.9/32 dev flannel.7; ip addr del 10.9.9.9/32 dev flannel.7",
        "ip addr flush dev flannel.7",
        "ip addr flush dev flannel-v6.7",
        "unshare -n sleep 60 & pid=$!; while [ $(readlink /proc/$pid/ns/net) = $(readlink /proc/$$/ns/net) ]; do :; done; \
         ip link set flannel.7 netns $pid; kill $pid",
        "echo 1 > /proc/sys/net/ipv4/conf/flannel.7/forwarding; echo 0 > /proc/sys/net/ipv4/conf/flannel.7/forwarding",
        "echo 1 > /proc/sys/net/ipv6/conf/all/forwarding; echo 0 > /proc/sys/net/ipv6/conf/all/forwarding",
        "echo 1 > /proc/sys/net/ipv4/conf/flannel.7/ignore_routes_with_linkdown",
    ]);
    let show = "link show dev flannel.7";
    known_once_settled("ip link set flannel.7 protodown on", show, " state DOWN ");
    known_once_settled("ip link set flannel-v6.7 protodown on", "link show dev flannel-v6.7", " state DOWN ");
    known_once_settled(
        "ip link set flannel.7 protodown on; until ip link show dev flannel.7 | grep -q ' state DOWN '; do :; done; \
         ip link set flannel.7 protodown off",
        show,
        "LOWER_UP",
    );
    known_once_settled(
        "echo 1 > /proc/sys/net/ipv4/conf/flannel.7/ignore_routes_with_linkdown; ip link set flannel.7 protodown on",
        show,
        " state DOWN ",
    );
}

#[test]
fn the_uplink() {
    all_known(&[
        "ip link set up0 down",
        "ip link set up0 down; ip link set up0 up",
        "ip link del up0",
        "ip link set up0 mtu 1200",
        "ip link set up0 mtu 1200; ip link set up0 mtu 1500",
        "ip link set up0 address 02:00:00:00:00:77",
        "ip addr del 192.168.200.1/16 dev up0",
        "ip addr add 192.168.200.9/16 dev up0; ip addr del 192.168.200.1/16 dev up0",
        "ip addr add 192.168.0.60/16 dev up0",
        "ip -6 addr add fd00::3c/64 dev up0 nodad",
        "ip addr flush dev up0",
        "ip neigh flush dev up0",
        "ip link add br0 type bridge; ip link set up0 master br0",
        "unshare -n sleep 60 & pid=$!; while [ $(readlink /proc/$pid/ns/net) = $(readlink /proc/$$/ns/net) ]; do :; done; \
         ip link set up0 netns $pid; kill $pid",
        "ip link set up0 down; ip link set up0 name other; ip link set other up",
    ]);
    let show = "link show dev up0";
    known_once_settled("ip link set up0far down", show, " state LOWERLAYERDOWN ");
    known_once_settled(
        "echo 1 > /proc/sys/net/ipv4/conf/all/ignore_routes_with_linkdown; ip link set up0far down",
        show,
        " state LOWERLAYERDOWN ",
    );
    known_once_settled(
        "ip link set up0far down; until ip link show dev up0 | grep -q ' state LOWERLAYERDOWN '; do :; done; ip link set up0far up",
        show,
        " state UP ",
    );
}
