//! Interfaces that lead to pods, whoever makes them, come and go while the daemon runs.

use xtask::lab::{Cluster, Family, Netns, Node, Ping, wait};

use crate::{
    cluster,
    pins::{EGRESS_FAST, INGRESS_FAST, count, links},
    traffic::Datagrams,
    wait_links,
};

/// What everybody starts with: the uplink, two VXLAN devices and the lab's own pod.
const AT_FIRST: usize = 6;

struct Guest {
    netns: Netns,
    address: std::net::Ipv4Addr,
}

impl Guest {
    /// A namespace, and the address of the node's subnet that ends so.
    fn new(cluster: &Cluster, name: &str, last: u32) -> Self {
        let env = cluster.node(1).subnet_env().unwrap();
        let gateway: ipnet4::Net = env.subnet(Family::V4).unwrap().into();
        Self { netns: Netns::create(name).unwrap(), address: gateway.address(last) }
    }

    /// A datagram each way until the fast path carries them.
    fn is_fast(&self, cluster: &Cluster) {
        let (node, to) = (cluster.node(1), cluster.node(2).pod());
        let address = to.address(Family::V4).unwrap();
        Ping::until_answered(&self.netns, address).unwrap();
        let datagrams = Datagrams::start(&self.netns, to.netns(), address);
        for slot in [EGRESS_FAST, INGRESS_FAST] {
            let goal = count(node, slot) + 300;
            wait::until("the fast path to carry a guest", wait::LONG, || (count(node, slot) >= goal).then_some(()))
                .unwrap();
        }
        let (sent, received) = datagrams.stop();
        assert_eq!(sent, received);
    }
}

mod ipnet4 {
    //! Just enough of networks.
    use std::net::Ipv4Addr;

    pub(super) struct Net(Ipv4Addr);

    impl From<&str> for Net {
        fn from(text: &str) -> Self {
            Self(text.split('/').next().unwrap().parse().unwrap())
        }
    }

    impl Net {
        pub(super) fn address(&self, last: u32) -> Ipv4Addr {
            Ipv4Addr::from_bits((self.0.to_bits() & !0xff) | last)
        }
    }
}

/// As bridge plugins, Docker, and plugins without a bridge wire them.
pub(crate) fn of_all_makes(prefix: &str) {
    let cluster = cluster(prefix);
    let node = cluster.node(1);
    let first = links(node);
    let gateway = Guest::new(&cluster, &format!("{prefix}1-gw"), 1).address;

    // Docker: the host side is made, put into the bridge, and only then moved and set up.
    let docker = Guest::new(&cluster, &format!("{prefix}1-dock"), 50);
    node.netns()
        .ip(&format!(
            "link add vethd0c7e4 mtu 1430 type veth peer name vetha11ce0 mtu 1430\n\
             link set vethd0c7e4 master cni0\nlink set vetha11ce0 netns {0}\n",
            docker.netns.name()
        ))
        .unwrap();
    docker.netns.ip("link set vetha11ce0 name eth0\nlink set eth0 up\n").unwrap();
    docker.netns.ip(&format!("address add {}/24 dev eth0\n", docker.address)).unwrap();
    node.netns().ip("link set vethd0c7e4 up\n").unwrap();
    docker.netns.ip(&format!("route add default via {gateway} dev eth0\n")).unwrap();
    wait_links(node, AT_FIRST + 2);
    docker.is_fast(&cluster);

    // Routed, as ptp and Calico do: no bridge, a host route, the neighbour answered for by the host.
    let routed = Guest::new(&cluster, &format!("{prefix}1-ptp"), 60);
    routed
        .netns
        .ip(&format!("link add eth0 mtu 1430 type veth peer name cali60 mtu 1430 netns {}\n", node.netns().name()))
        .unwrap();
    node.netns().ip("link set cali60 up\n").unwrap();
    node.netns().sysctl(&[("ipv4/conf/cali60/proxy_arp", "1")]).unwrap();
    node.netns().ip(&format!("route add {}/32 dev cali60\n", routed.address)).unwrap();
    routed.netns.ip("link set eth0 up\n").unwrap();
    routed
        .netns
        .ip(&format!(
            "address add {}/32 dev eth0\nroute add 169.254.1.1 dev eth0 scope link\n\
             route add default via 169.254.1.1 dev eth0\n",
            routed.address
        ))
        .unwrap();
    wait_links(node, AT_FIRST + 4);
    routed.is_fast(&cluster);

    // One that somebody shapes stays with the kernel, and the log says why.
    spared(&cluster, node, &format!("{prefix}1-tbf"), "shaped");

    // Away with them: the other end's namespace goes, or the interface.
    node.netns().ip("link del cali60\n").unwrap();
    drop(docker);
    wait_links(node, AT_FIRST);
    assert_eq!(links(node), first);
}

fn spared(cluster: &Cluster, node: &Node, name: &str, interface: &str) {
    let guest = Guest::new(cluster, name, 70);
    let before = links(node);
    node.netns()
        .ip(&format!("link add {interface} mtu 1430 type veth peer name eth0 mtu 1430 netns {}\n", guest.netns.name()))
        .unwrap();
    let shape = format!("tc qdisc add dev {interface} root tbf rate 10mbit burst 32kbit latency 400ms");
    node.netns().run(&shape).unwrap();
    node.netns().ip(&format!("link set {interface} master cni0\nlink set {interface} up\n")).unwrap();
    guest.netns.ip("link set eth0 up\n").unwrap();
    let words = format!("interface=\"{interface}\"");
    wait::until("the reason in the log", wait::LONG, || {
        node.log().lines().any(|line| line.contains(&words) && line.contains("shapes")).then_some(())
    })
    .unwrap();
    assert_eq!(links(node), before);
    node.netns().ip(&format!("link del {interface}\n")).unwrap();
}
