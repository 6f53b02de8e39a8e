//! Services with several endpoints as kube-proxy makes them, by each tool that writes its rules: the endpoint may be a pod of
//! another node, of this one, or the client itself.

use std::{
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
};

use xtask::lab::{Family, Netns, run};

use crate::{
    answering::Answering,
    service::MARKED,
    site::{Site, skipped},
    talk::{Talk, connect, exchange},
};

const SELF: &str = "10.96.1.1";
const NEAR: &str = "10.96.1.2";
const FAR: &str = "10.96.1.3";
const ALL: &str = "10.96.1.4";
/// So many that each of three endpoints gets one, but for one time in millions.
const CONNECTIONS: usize = 45;

/// What writes the rules, and what takes them away.
enum Tool {
    Nft,
    Iptables { restore: &'static str, flush: &'static str },
}

const TOOLS: [Tool; 3] = [
    Tool::Nft,
    Tool::Iptables { restore: "iptables-nft-restore", flush: "iptables-nft" },
    Tool::Iptables { restore: "iptables-legacy-restore", flush: "iptables-legacy" },
];

#[test]
fn endpoints_far_near_and_the_client_itself_are_reached_by_rules_of_every_style() {
    if skipped(&["conntrack", "iptables-nft", "iptables-legacy"]) {
        return;
    }
    let site = Site::start("fpproxy", 2, &["--flow-validity", "2"]);
    let near = site.second_pod();
    // What goes from a bridge's port to the same port again, and what netfilter is to see of it, is the bridge's to say:
    // kubelet's bridges have both (`hairpinMode`, `bridge-nf-call-iptables`).
    site.netns(1).run("ip link set veth0 type bridge_slave hairpin on").unwrap();
    let bridged = Path::new("/proc/sys/net/bridge/bridge-nf-call-iptables").exists();
    let ours = site.pod_ip(1, Family::V4);
    let endpoints = [
        site.answering(1, Family::V4, 7000),
        Answering::at(near.netns(), SocketAddr::new(near.address().into(), 7000)),
        site.answering(2, Family::V4, 7000),
    ];
    let gateway: IpAddr = match ours {
        IpAddr::V4(pod) => Ipv4Addr::from_bits(pod.to_bits() - 1).into(),
        IpAddr::V6(_) => unreachable!("asked for IPv4"),
    };
    let at = |service: &str| SocketAddr::new(service.parse().unwrap(), 80);
    for tool in &TOOLS {
        tool.offer(&site, [endpoints[0].address(), endpoints[1].address(), endpoints[2].address()]);
        for talk in [Talk::tcp as fn(&Netns, SocketAddr) -> Talk, Talk::udp] {
            let far = talk(site.pod(1), at(FAR));
            site.until_fast(&far, &[1, 2]);
            far.whole();
            for (service, endpoint, seen_as) in [(SELF, 0, gateway), (NEAR, 1, ours)] {
                // Without it, what pods of one bridge send each other passes no rules on its way back.
                if service == NEAR && !bridged {
                    continue;
                }
                let heard = endpoints[endpoint].heard();
                let talk = talk(site.pod(1), at(service));
                talk.more(300);
                talk.whole();
                assert!(endpoints[endpoint].heard() > heard, "{service} led elsewhere");
                assert!(endpoints[endpoint].from().contains(&seen_as), "{:?}", endpoints[endpoint].from());
            }
        }
        let before: Vec<_> = endpoints.iter().map(Answering::heard).collect();
        for _ in 0..CONNECTIONS {
            exchange(&mut connect(site.pod(1), at(if bridged { ALL } else { FAR })).unwrap(), 8);
        }
        for (endpoint, before) in endpoints.iter().zip(before) {
            assert!(!bridged || endpoint.heard() > before, "{} was never chosen", endpoint.address());
        }
        tool.withdraw(&site);
    }
    site.alive();
}

impl Tool {
    /// On the client's node: a service for each endpoint, and one for all.
    fn offer(&self, site: &Site, endpoints: [SocketAddr; 3]) {
        match self {
            Self::Nft => site.nft(1, &nft(endpoints)),
            Self::Iptables { restore, .. } => {
                let file = site.cluster.dir().join("proxy");
                std::fs::write(&file, iptables(endpoints)).unwrap();
                site.netns(1).run(&format!("{restore} --noflush {}", file.display())).unwrap();
            }
        }
    }

    fn withdraw(&self, site: &Site) {
        match self {
            Self::Nft => drop(site.netns(1).run("nft delete table ip kube-proxy").unwrap()),
            Self::Iptables { flush, .. } => {
                for line in ["-t nat -F", "-t nat -X", "-t filter -F FORWARD", "-t filter -F KUBE-FORWARD"] {
                    run(site.netns(1).command(flush).args(line.split(' '))).unwrap();
                }
            }
        }
    }
}

/// As the nftables mode has it: a map that draws an endpoint, and one chain for each that marks its own requests to itself.
fn nft(endpoints: [SocketAddr; 3]) -> String {
    let mut chains = String::new();
    for (number, endpoint) in endpoints.iter().enumerate() {
        let ip = endpoint.ip();
        write!(
            chains,
            "chain endpoint{number} {{\n\
             ip saddr {ip} jump mark-for-masquerade\n\
             meta l4proto {{ tcp, udp }} dnat to {endpoint}\n\
             }}\n"
        )
        .unwrap();
    }
    format!(
        "table ip kube-proxy {{\n\
         chain mark-for-masquerade {{ meta mark set meta mark or 0x4000; }}\n\
         {chains}\
         chain any-endpoint {{ numgen random mod 3 vmap {{ 0 : goto endpoint0, 1 : goto endpoint1, 2 : goto endpoint2 }}; }}\n\
         chain services {{\n\
         ip daddr . th dport vmap {{\n\
         {SELF} . 80 : goto endpoint0, {NEAR} . 80 : goto endpoint1,\n\
         {FAR} . 80 : goto endpoint2, {ALL} . 80 : goto any-endpoint\n\
         }}\n}}\n\
         chain prerouting {{ type nat hook prerouting priority dstnat; meta l4proto {{ tcp, udp }} jump services; }}\n\
         chain output {{ type nat hook output priority -100; meta l4proto {{ tcp, udp }} jump services; }}\n\
         {MARKED}}}\n"
    )
}

/// As the iptables mode has it: a chain for each service, which draws one of the chains of its endpoints.
fn iptables(endpoints: [SocketAddr; 3]) -> String {
    let (mut chains, mut rules) = (String::new(), String::new());
    for (number, endpoint) in endpoints.iter().enumerate() {
        let ip = endpoint.ip();
        write!(chains, ":KUBE-SEP-{number} - [0:0]\n:KUBE-SVC-{number} - [0:0]\n").unwrap();
        write!(
            rules,
            "-A KUBE-SEP-{number} -s {ip}/32 -m comment --comment \"ns/svc\" -j KUBE-MARK-MASQ\n\
             -A KUBE-SEP-{number} -p tcp -m comment --comment \"ns/svc\" -m tcp -j DNAT --to-destination {endpoint}\n\
             -A KUBE-SEP-{number} -p udp -m comment --comment \"ns/svc\" -m udp -j DNAT --to-destination {endpoint}\n\
             -A KUBE-SVC-{number} -j KUBE-SEP-{number}\n"
        )
        .unwrap();
    }
    for (number, service) in [SELF, NEAR, FAR, ALL].iter().enumerate() {
        for protocol in ["tcp", "udp"] {
            writeln!(
                rules,
                "-A KUBE-SERVICES -d {service}/32 -p {protocol} -m comment --comment \"ns/svc cluster IP\" \
                 -m {protocol} --dport 80 -j KUBE-SVC-{number}"
            )
            .unwrap();
        }
    }
    format!(
        "*nat\n\
         :KUBE-MARK-MASQ - [0:0]\n:KUBE-SERVICES - [0:0]\n:KUBE-POSTROUTING - [0:0]\n:KUBE-SVC-3 - [0:0]\n{chains}\
         -A PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n\
         -A OUTPUT -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n\
         -A POSTROUTING -m comment --comment \"kubernetes postrouting rules\" -j KUBE-POSTROUTING\n\
         -A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000\n\
         -A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN\n\
         -A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0\n\
         -A KUBE-POSTROUTING -j MASQUERADE --random-fully\n\
         {rules}\
         -A KUBE-SVC-3 -m statistic --mode random --probability 0.33333333349 -j KUBE-SEP-0\n\
         -A KUBE-SVC-3 -m statistic --mode random --probability 0.50000000000 -j KUBE-SEP-1\n\
         -A KUBE-SVC-3 -j KUBE-SEP-2\n\
         COMMIT\n\
         *filter\n\
         :KUBE-FORWARD - [0:0]\n\
         -A FORWARD -m comment --comment \"kubernetes forwarding rules\" -j KUBE-FORWARD\n\
         -A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP\n\
         -A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT\n\
         -A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n\
         COMMIT\n"
    )
}
