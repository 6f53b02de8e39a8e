//! Damage to the tables themselves.

use super::all_known;

#[test]
fn routes_of_ipv4() {
    all_known(&[
        "ip route del 10.0.5.0/24",
        "ip route del 10.0.60.0/24",
        "ip route replace 10.0.5.0/24 via 10.0.5.0 dev flannel.7 onlink proto 102",
        "ip route replace 10.0.5.0/24 dev up0",
        "ip route change 10.0.5.0/24 dev up0 proto 102",
        "ip route replace blackhole 10.0.5.0/24 proto static",
        "ip route append 10.0.5.0/24 dev up0 proto static",
        "ip route prepend 10.0.5.0/24 dev up0 proto static",
        "ip route prepend 10.0.5.0/24 dev up0 proto 102",
        "ip route append 10.0.5.0/24 dev up0 proto 102",
        "ip route add 10.0.5.0/24 dev up0 metric 7 proto 102",
        "ip route add 10.0.5.0/24 tos 4 dev up0 proto 102",
        "ip route add 10.0.5.0/24 dev up0 proto 102 table 99",
        "ip route add 10.0.99.0/24 via 10.0.99.0 dev flannel.7 onlink proto 102",
        "ip route add unreachable 10.0.98.0/24 proto 102",
        "ip route add 10.0.5.0/25 dev up0 proto static",
        "ip route flush proto 102 || true",
        "ip route flush table main || true",
        "ip route flush dev flannel.7 || true",
        "ip route flush root 10.0.0.0/16 || true",
        "ip route flush cache",
        "ip addr add 10.0.5.0/24 dev up0",
        "ip addr add 10.0.5.1/24 dev up0; ip addr del 10.0.5.1/24 dev up0",
        "ip addr add 10.0.5.1/32 dev flannel.7; ip addr del 10.0.5.1/32 dev flannel.7",
        "ip rule add to 10.0.5.0/24 lookup 99",
        "ip route replace 10.0.5.0/24 src 192.168.200.1 dev up0 proto 102; ip addr del 192.168.200.1/16 dev up0",
        "ip addr add 192.168.7.7/32 dev lo; ip route replace 10.0.5.0/24 src 192.168.7.7 dev up0 proto 102; \
         ip addr del 192.168.7.7/32 dev lo",
        "ip link add pod0 type veth peer name pod1; ip link set pod1 up; ip link set pod0 up; ip route replace 10.0.5.0/24 dev pod0 proto 102; \
         ip link del pod0",
        "ip link add pod0 type veth peer name pod1; ip link set pod1 up; ip link set pod0 up; ip route append 10.0.5.0/24 dev pod0 proto 102; \
         ip link set pod0 down",
    ]);
}

#[test]
fn routes_of_ipv6() {
    all_known(&[
        "ip -6 route del fc00:0:0:5::/64",
        "ip -6 route del fc00:0:0:3c::/64",
        "ip -6 route replace fc00:0:0:5::/64 dev up0",
        "ip -6 route replace fc00:0:0:5::/64 dev up0 proto 102",
        "ip -6 route change fc00:0:0:5::/64 dev up0 proto 102",
        "ip -6 route replace blackhole fc00:0:0:5::/64 proto static",
        "ip -6 route append fc00:0:0:5::/64 via fd00::9 dev up0 proto static",
        "ip -6 route append fc00:0:0:5::/64 via fd00::9 dev up0 proto 102",
        "ip -6 route append fc00:0:0:5::/64 dev up0 proto 102",
        "ip -6 route append fc00:0:0:5::/64 via fd00::9 dev up0 proto static; \
         ip -6 route del fc00:0:0:5::/64 via fd00::9 dev up0 proto static",
        "ip -6 route append fc00:0:0:5::/64 via fd00::9 dev up0 proto static; \
         ip -6 route del fc00:0:0:5::/64 via fc00:0:0:5:: dev flannel-v6.7",
        "ip -6 route replace fc00:0:0:5::/64 proto static nexthop via fd00::9 dev up0 nexthop via fd00::8 dev up0",
        "ip -6 route append fc00:0:0:5::/64 proto static nexthop via fd00::9 dev up0 nexthop via fd00::8 dev up0",
        "ip -6 route prepend fc00:0:0:5::/64 dev up0 proto 102",
        "ip -6 route add fc00:0:0:5::/64 dev up0 metric 7 proto 102",
        "ip -6 route add fc00:0:0:63::/64 via fc00:0:0:63:: dev flannel-v6.7 onlink proto 102",
        "ip -6 route add unreachable fc00:0:0:63::/64 proto 102",
        "ip -6 route flush proto 102",
        "ip -6 route flush table main",
        "ip -6 route flush dev flannel-v6.7",
        "ip -6 addr add fc00:0:0:5::1/64 dev up0 nodad; ip -6 addr del fc00:0:0:5::1/64 dev up0",
        "ip -6 addr add fc00:0:0:5::1/64 dev flannel-v6.7 nodad; ip -6 addr del fc00:0:0:5::1/64 dev flannel-v6.7",
        "echo 1 > /proc/sys/net/ipv6/conf/flannel-v6.7/disable_ipv6",
        "echo 1 > /proc/sys/net/ipv6/conf/up0/disable_ipv6",
        "echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6",
        "echo 1 > /proc/sys/net/ipv6/route/skip_notify_on_dev_down; \
         echo 1 > /proc/sys/net/ipv6/conf/flannel-v6.7/disable_ipv6",
        "echo 1 > /proc/sys/net/ipv6/route/skip_notify_on_dev_down; echo 1 > /proc/sys/net/ipv6/conf/up0/disable_ipv6",
        "echo 1 > /proc/sys/net/ipv6/route/skip_notify_on_dev_down; ip link set flannel-v6.7 down",
        "echo 1 > /proc/sys/net/ipv6/route/skip_notify_on_dev_down; ip link set up0 down",
        "echo 1 > /proc/sys/net/ipv6/conf/flannel-v6.7/disable_ipv6; \
         echo 0 > /proc/sys/net/ipv6/conf/flannel-v6.7/disable_ipv6",
        "ip link add pod0 type veth peer name pod1; ip link set pod1 up; ip link set pod0 up; ip -6 route replace fc00:0:0:5::/64 dev pod0 proto 102; \
         echo 1 > /proc/sys/net/ipv6/route/skip_notify_on_dev_down; ip link set pod0 down",
        "ip -6 route replace fc00:0:0:5::/64 dev up0 proto 102 expires 1; \
         while ip -6 route show | grep -q fc00:0:0:5::/64; do echo 0 > /proc/sys/net/ipv6/route/flush; done",
    ]);
}

#[test]
fn nexthops() {
    all_known(&[
        "ip nexthop del id 167773184",
        "ip nexthop flush",
        "ip nexthop flush protocol 102",
        "ip nexthop flush dev flannel.7",
        "ip nexthop replace id 167773184 via 10.0.9.9 dev flannel.7 onlink proto 102",
        "ip nexthop replace id 167773184 via 10.0.4.0 dev flannel.7 onlink",
        "ip nexthop replace id 167773184 via 10.0.4.0 dev flannel.7 onlink proto static",
        "ip nexthop replace id 167773184 via 10.0.9.9 dev flannel.7 onlink proto static",
        "ip nexthop replace id 167773184 blackhole proto 102",
        "ip nexthop replace id 167773184 blackhole",
        "ip nexthop replace id 167773184 via 192.168.0.9 dev up0 proto 102",
        "ip nexthop replace id 167773184 dev up0 proto 102",
        "ip nexthop add id 167800000 via 10.0.107.192 dev flannel.7 onlink proto 102",
        "ip nexthop add id 5 group 167773184/167772928; ip nexthop del id 167773184",
        "ip nexthop add id 5 group 167773184/167772928; ip nexthop del id 5",
        "ip nexthop add id 5 group 167773184/167772928 proto 102",
        "ip nexthop add id 5 dev up0; ip route replace 10.0.5.0/24 nhid 5 proto 102; ip nexthop del id 5",
        "ip nexthop add id 5 dev up0; ip route replace 10.0.5.0/24 nhid 5 proto 102; ip nexthop del id 5; ip route add 10.77.0.0/24 dev up0",
        "ip nexthop replace id 167773184 dev up0 proto static; ip nexthop del id 167773184",
        "ip nexthop replace id 167773184 dev up0 proto static; ip nexthop del id 167773184; ip route add 10.77.0.0/24 dev up0",
        "ip -6 nexthop add id 6 via fd00::9 dev up0; ip -6 route replace fc00:0:0:5::/64 nhid 6 proto 102; ip nexthop del id 6",
        "echo 0 > /proc/sys/net/ipv4/nexthop_compat_mode; ip nexthop del id 167773184",
        "echo 0 > /proc/sys/net/ipv4/nexthop_compat_mode; ip nexthop replace id 167773184 blackhole proto 102",
    ]);
}

#[test]
fn neighbours_of_both_families() {
    all_known(&[
        "ip neigh del 10.0.3.0 dev flannel.7",
        "ip neigh replace 10.0.3.0 lladdr 02:00:00:00:00:99 dev flannel.7 nud permanent",
        "ip neigh change 10.0.3.0 lladdr 02:00:00:00:00:99 dev flannel.7 nud stale",
        "ip neigh replace 10.0.3.0 lladdr 02:01:00:00:00:03 dev flannel.7 nud noarp",
        "ip neigh replace 10.0.3.0 lladdr 02:01:00:00:00:03 dev flannel.7 nud permanent router",
        "ip neigh add 10.0.99.0 lladdr 02:00:00:00:00:99 dev flannel.7 nud permanent",
        "ip neigh add proxy 10.0.3.0 dev flannel.7",
        "ip neigh add proxy 10.0.3.0 dev flannel.7; ip neigh del proxy 10.0.3.0 dev flannel.7",
        "ip neigh flush all",
        "ip neigh flush nud permanent dev flannel.7",
        "ip neigh flush nud all dev flannel.7",
        "ip -6 neigh del fc00:0:0:3:: dev flannel-v6.7",
        "ip -6 neigh replace fc00:0:0:3:: lladdr 02:00:00:00:00:99 dev flannel-v6.7 nud permanent",
        "ip -6 neigh change fc00:0:0:3:: lladdr 02:00:00:00:00:99 dev flannel-v6.7 nud stale",
        "ip -6 neigh add proxy fc00:0:0:3:: dev flannel-v6.7",
        "ip -6 neigh flush nud permanent dev flannel-v6.7",
        "ip link set flannel.7 arp off",
        "ip link set flannel-v6.7 arp off",
        "ip link set flannel.7 arp off; ip link set flannel.7 arp on",
        "ip link set flannel-v6.7 multicast off",
        "echo 0 > /proc/sys/net/ipv4/neigh/flannel.7/gc_stale_time; echo 1 > /proc/sys/net/ipv4/neigh/flannel.7/base_reachable_time; \
         ip neigh flush all",
        "ip addr add 10.0.3.0/32 dev flannel.7",
        "ip addr add 10.0.3.0/32 dev lo; ip addr del 10.0.3.0/32 dev lo",
        "ip -6 addr add fc00:0:0:3::/128 dev lo; ip -6 addr del fc00:0:0:3::/128 dev lo",
    ]);
}

#[test]
fn forwarding_entries() {
    all_known(&[
        "bridge fdb del 02:01:00:00:00:04 dev flannel.7 self",
        "bridge fdb replace 02:01:00:00:00:04 dev flannel.7 dst 192.168.9.9 self permanent",
        "bridge fdb replace 02:01:00:00:00:04 dev flannel.7 dst 192.168.0.4 self dynamic",
        "bridge fdb replace 02:01:00:00:00:04 dev flannel.7 dst 192.168.0.4 port 4789 self permanent",
        "bridge fdb replace 02:01:00:00:00:04 dev flannel.7 dst 192.168.0.4 vni 9 self permanent",
        "bridge fdb replace 02:01:00:00:00:04 dev flannel.7 dst 192.168.0.4 via up0 self permanent",
        "bridge fdb add 02:01:00:00:00:63 dev flannel-v6.7 dst fd00::9 self permanent",
        "bridge fdb append 00:00:00:00:00:00 dev flannel.7 dst 192.168.9.9 self permanent",
        "bridge fdb append 33:33:00:00:00:01 dev flannel.7 dst 192.168.9.9 self permanent",
        "bridge fdb flush dev flannel.7 self",
        "bridge fdb flush dev flannel-v6.7 self",
        "bridge fdb flush dev flannel.7 self permanent",
        "ip link set flannel.7 type vxlan ageing 1",
        "ip link set flannel.7 type vxlan learning",
        "ip link set flannel.7 type vxlan remote 192.168.9.9",
        "ip link add br0 type bridge; ip link set flannel.7 master br0",
        "ip link add br0 type bridge; ip link set br0 up; ip link set flannel.7 master br0; ip link set flannel.7 nomaster",
        "ip link add br0 type bridge; ip link set br0 up; ip link set flannel.7 master br0; ip link del br0",
        "ip link add br0 type bridge; ip link set flannel.7 master br0; bridge fdb flush dev flannel.7 master",
    ]);
}
