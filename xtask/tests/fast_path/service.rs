//! Services as kube-proxy makes them: addresses that netfilter translates, on the client's node, the server's, or on the
//! way in from outside.

use std::net::{IpAddr, SocketAddr};

use xtask::lab::{Family, Netns, wait};

use crate::{
    site::{Site, skipped},
    talk::Talk,
};

const CLUSTER_IP: &str = "10.96.0.10";
/// Whose clients are masqueraded.
const MASQUERADED: &str = "10.96.0.11";
const NODE_PORT: u16 = 30_080;
const VALIDITY: [&str; 2] = ["--flow-validity", "2"];
const TALKS: [fn(&Netns, SocketAddr) -> Talk; 2] = [Talk::tcp, Talk::udp];

/// The end of kube-proxy's table, nftables style: what it does with marked packets.
pub(crate) const MARKED: &str = "\
chain postrouting {
type nat hook postrouting priority srcnat
meta mark and 0x4000 == 0 return
meta mark set meta mark xor 0x4000
masquerade fully-random
}
chain forward {
type filter hook forward priority filter
ct state invalid drop
meta mark and 0x4000 == 0x4000 accept
ct state established,related accept
}
";

/// How a node's rules are written.
trait Proxy {
    /// All services on all nodes, with this pod as the server.
    fn offer(&self, site: &Site, server: IpAddr);
}

struct Nftables;
struct Iptables;

#[test]
fn services_by_nftables_are_carried() {
    if !skipped(&["conntrack"]) {
        services_are_carried("fpnft", &Nftables);
    }
}

#[test]
fn services_by_iptables_are_carried() {
    if !skipped(&["conntrack", "iptables-legacy"]) {
        services_are_carried("fpipt", &Iptables);
    }
}

fn services_are_carried(prefix: &str, proxy: &impl Proxy) {
    let site = Site::start(prefix, 3, &VALIDITY);
    proxy.offer(&site, site.pod_ip(2, Family::V4));
    let second = site.answering(2, Family::V4, 7000);
    for (service, seen_as) in [(CLUSTER_IP, site.pod_ip(1, Family::V4)), (MASQUERADED, vtep(&site, 1))] {
        for talk in TALKS {
            let talk = talk(site.pod(1), at(service, 80));
            site.until_fast(&talk, &[1, 2]);
            talk.whole();
        }
        assert!(second.from().contains(&seen_as), "{service}: {:?}", second.from());
    }
    drop(second);
    translation_on_the_servers_node(&site);
    from_outside(&site);
    changed_endpoint(&site, proxy);
    site.alive();
}

fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse().unwrap(), port)
}

/// Where a node's masqueraded packets into the tunnel come from.
fn vtep(site: &Site, number: usize) -> IpAddr {
    let IpAddr::V4(pod) = site.pod_ip(number, Family::V4) else { unreachable!() };
    std::net::Ipv4Addr::from_bits(pod.to_bits() & 0xffff_ff00).into()
}

/// An address of the server's subnet that nobody but its own node translates.
fn translation_on_the_servers_node(site: &Site) {
    let IpAddr::V4(pod) = site.pod_ip(2, Family::V4) else { unreachable!() };
    let alias = std::net::Ipv4Addr::from_bits(pod.to_bits() + 100);
    site.nft(
        2,
        &format!(
            "table ip alias {{\n\
             chain prerouting {{\n\
             type nat hook prerouting priority -101\n\
             ip daddr {alias} dnat to {pod}\n\
             }}\n}}\n"
        ),
    );
    let answering = site.answering(2, Family::V4, 7000);
    for talk in TALKS {
        let talk = talk(site.pod(1), SocketAddr::new(alias.into(), 7000));
        site.until_fast(&talk, &[1, 2]);
        talk.whole();
    }
    assert_eq!(answering.from(), [site.pod_ip(1, Family::V4)].into());
}

/// A client that knows nothing of the overlay, and a node that has no server of its own.
fn from_outside(site: &Site) {
    let answering = site.answering(2, Family::V4, 7000);
    for talk in TALKS {
        let node = SocketAddr::new(site.node(1).address(Family::V4), NODE_PORT);
        let talk = talk(site.cluster.underlay().netns(), node);
        talk.more(1000);
        talk.whole();
    }
    assert_eq!(answering.from(), [vtep(site, 1)].into());
}

/// UDP follows at once when tracking forgets, as kube-proxy has it; TCP stays with whom it knows.
fn changed_endpoint(site: &Site, proxy: &impl Proxy) {
    let (second, third) = (site.answering(2, Family::V4, 7000), site.answering(3, Family::V4, 7000));
    let udp = Talk::udp(site.pod(1), at(CLUSTER_IP, 80));
    site.until_fast(&udp, &[1, 2]);
    proxy.offer(site, site.pod_ip(3, Family::V4));
    site.netns(1).run(&format!("conntrack -D -p udp --orig-dst {CLUSTER_IP}")).unwrap();
    wait::until("the old server to hear nothing more", wait::LONG, || {
        let heard = second.heard();
        udp.more_sent(300);
        (second.heard() == heard).then_some(())
    })
    .unwrap();
    let heard = second.heard();
    site.until_fast(&udp, &[1, 3]);
    assert_eq!(second.heard(), heard);
    assert_eq!(third.from(), [site.pod_ip(1, Family::V4)].into());
    drop(udp);

    let tcp = Talk::tcp(site.pod(1), at(CLUSTER_IP, 80));
    site.until_fast(&tcp, &[1, 3]);
    proxy.offer(site, site.pod_ip(2, Family::V4));
    site.until_fast(&tcp, &[1, 3]);
    tcp.whole();
    let next = Talk::tcp(site.pod(1), at(CLUSTER_IP, 80));
    site.until_fast(&next, &[1, 2]);
    next.whole();
}

impl Proxy for Nftables {
    fn offer(&self, site: &Site, server: IpAddr) {
        for node in site.cluster.nodes() {
            site.nft(
                node.number(),
                &format!(
                    "table ip kube-proxy {{ }}\n\
                     delete table ip kube-proxy\n\
                     table ip kube-proxy {{\n\
                     chain mark-for-masquerade {{ meta mark set meta mark or 0x4000; }}\n\
                     chain endpoint {{\n\
                     meta l4proto tcp dnat to {server}:7000\n\
                     meta l4proto udp dnat to {server}:7000\n\
                     }}\n\
                     chain masqueraded {{\n\
                     jump mark-for-masquerade\n\
                     goto endpoint\n\
                     }}\n\
                     chain services {{\n\
                     ip daddr {CLUSTER_IP} goto endpoint\n\
                     ip daddr {MASQUERADED} goto masqueraded\n\
                     fib daddr type local tcp dport {NODE_PORT} goto masqueraded\n\
                     fib daddr type local udp dport {NODE_PORT} goto masqueraded\n\
                     }}\n\
                     chain prerouting {{ type nat hook prerouting priority -100; jump services; }}\n\
                     chain output {{ type nat hook output priority -100; jump services; }}\n\
                     {MARKED}}}\n"
                ),
            );
        }
    }
}

impl Proxy for Iptables {
    fn offer(&self, site: &Site, server: IpAddr) {
        let table = format!(
            "*nat\n\
             :KUBE-MARK-MASQ - [0:0]\n:KUBE-SEP - [0:0]\n:KUBE-SERVICES - [0:0]\n\
             :KUBE-POSTROUTING - [0:0]\n:PREROUTING ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n:POSTROUTING ACCEPT [0:0]\n\
             -A PREROUTING -m comment --comment portals -j KUBE-SERVICES\n\
             -A OUTPUT -j KUBE-SERVICES\n\
             -A POSTROUTING -j KUBE-POSTROUTING\n\
             -A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000\n\
             -A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN\n\
             -A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0\n\
             -A KUBE-POSTROUTING -j MASQUERADE --random-fully\n\
             -A KUBE-SEP -p tcp -m tcp -j DNAT --to-destination {server}:7000\n\
             -A KUBE-SEP -p udp -m udp -j DNAT --to-destination {server}:7000\n\
             -A KUBE-SERVICES -d {CLUSTER_IP} -m statistic --mode random --probability 1 -j KUBE-SEP\n\
             -A KUBE-SERVICES -d {MASQUERADED} -j KUBE-MARK-MASQ\n\
             -A KUBE-SERVICES -d {MASQUERADED} -j KUBE-SEP\n\
             -A KUBE-SERVICES -p tcp -m addrtype --dst-type LOCAL -m tcp --dport {NODE_PORT} -j KUBE-MARK-MASQ\n\
             -A KUBE-SERVICES -p tcp -m addrtype --dst-type LOCAL -m tcp --dport {NODE_PORT} -j KUBE-SEP\n\
             -A KUBE-SERVICES -p udp -m addrtype --dst-type LOCAL -m udp --dport {NODE_PORT} -j KUBE-MARK-MASQ\n\
             -A KUBE-SERVICES -p udp -m addrtype --dst-type LOCAL -m udp --dport {NODE_PORT} -j KUBE-SEP\n\
             COMMIT\n\
             *filter\n\
             :FORWARD ACCEPT [0:0]\n:KUBE-FORWARD - [0:0]\n\
             -A FORWARD -j KUBE-FORWARD\n\
             -A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP\n\
             -A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT\n\
             -A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n\
             COMMIT\n"
        );
        let file = site.cluster.dir().join("tables");
        std::fs::write(&file, table).unwrap();
        for node in site.cluster.nodes() {
            node.netns().run(&format!("iptables-legacy-restore {}", file.display())).unwrap();
        }
    }
}
