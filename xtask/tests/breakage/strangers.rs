//! What others have on a node, and what has to be left alone.

use xtask::lab::{Dump, Netns};

/// On a device of their own, beside ours, and inside of the overlay's network too.
pub(crate) fn move_in(netns: &Netns) {
    netns
        .ip("link add dum0 address 02:00:00:00:77:01 type veth peer name dum1\nlink set dum1 up\nlink set dum0 up\n\
             address add 198.51.100.1/24 dev dum0\naddress add fd51:100::1/64 dev dum0\n\
             route add 198.51.101.0/24 dev dum0 proto static\n\
             route add 10.244.255.192/26 dev dum0 proto boot\n\
             route add 198.51.102.0/24 via 198.51.100.9 dev dum0 table 77\n\
             route add fd51:101::/64 dev dum0 proto static\n\
             nexthop add id 77 via 198.51.100.8 dev dum0\n\
             route add 198.51.103.0/24 nhid 77 proto static\n\
             rule add from 198.51.100.7 table 77 pref 777\n\
             neighbour add 198.51.100.9 lladdr 02:00:00:00:77:09 dev dum0 nud stale\n\
             link add vx9 address 02:00:00:00:77:02 type vxlan id 9 dstport 4789 dev dum0\n\
             link set vx9 up\n\
             address add 198.51.104.1/24 dev vx9\n")
        .unwrap();
    netns.run("bridge fdb add 02:00:00:00:77:03 dev vx9 dst 198.51.100.20").unwrap();
    netns.run("nft add table ip strangers").unwrap();
    netns.run("nft add chain ip strangers c { type filter hook input priority 5 ; }").unwrap();
    netns.run("nft add rule ip strangers c ip saddr 198.51.100.66 drop").unwrap();
}

/// All of it, with interface indices: made anew would show. Without the states of neighbours, which age.
pub(crate) fn dump(netns: &Netns) -> Dump {
    let dump = Dump::script(
        netns,
        "ip -o -d link show dev dum0; ip -o -d link show dev vx9
         ip address show dev dum0; ip address show dev vx9
         ip -4 route show table all dev dum0; ip -6 route show table all dev dum0
         ip -4 route show table all dev vx9
         ip nexthop show id 77; ip route show 198.51.103.0/24
         ip rule; ip -6 rule
         ip neighbour show 198.51.100.9 dev dum0 | cut -d' ' -f1-5
         bridge fdb show dev vx9
         nft -s list table ip strangers; true",
    )
    .unwrap();
    assert!(dump.len() > 25, "{dump}");
    dump
}
