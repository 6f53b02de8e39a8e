//! IPv6 end to end: marks, hops, sizes and services, as IPv4 has them.

use std::{collections::BTreeSet, net::SocketAddr};

use nix::{
    libc,
    sys::socket::{setsockopt, sockopt},
};
use xtask::lab::{Capture, Family, transfer, wait};

use crate::{
    answering::Answering,
    carry::{hex, sends_every_mark, told},
    site::Site,
    talk::{Talk, udp_to},
};

const SERVICE: &str = "fd96::10";

/// What any two nodes with both families do.
pub(crate) fn is_carried(site: &Site) {
    let answering = site.answering(2, Family::V6, 7000);
    for talk in [Talk::tcp, Talk::udp] {
        let talk = talk(site.pod(1), answering.address());
        site.until_fast(&talk, &[1, 2]);
        talk.whole();
    }
    marks_and_hops_are_those_of_the_kernel(site, &answering);
    a_service_is_carried(site, &answering);
}

fn marks_and_hops_are_those_of_the_kernel(site: &Site, answering: &Answering) {
    let in_pod = Capture::start(site.pod(2), "eth0", "udp dst port 7000").unwrap();
    let on_wire = Capture::start(site.netns(2), "eth0", "udp dst port 8472 and ip6 src fd77::1").unwrap();
    let socket = udp_to(site.pod(1), answering.address());
    sends_every_mark(site, &socket, |class| setsockopt(&socket, sockopt::Ipv6TClass, &class).unwrap());
    let fields = ["ipv6.tclass", "ipv6.hlim", "udp.payload"];
    let rows = in_pod.stop().unwrap().fields("udp.dstport == 7000", &fields).unwrap();
    assert!(rows.len() >= 300, "{}", rows.len());
    for row in &rows {
        let text = String::from_utf8(row[2].as_bytes().chunks(2).map(hex).collect()).unwrap();
        assert_eq!(row[0], format!("0x000000{}", text.split(' ').nth(1).unwrap()), "{text}");
        assert_eq!(row[1], "62", "two routers: {text}");
    }
    let rows = on_wire.stop().unwrap().fields("vxlan && udp.dstport == 7000", &["ipv6.tclass", "ipv6.hlim"]).unwrap();
    let seen: BTreeSet<_> = rows.iter().map(|row| (row[0].replace("0x000000", ""), row[1].clone())).collect();
    let expected = ["00,b8", "01,b9", "02,ba", "02,bb", "00,00", "02,03"];
    assert_eq!(seen, expected.map(|classes| (classes.to_owned(), "64,63".to_owned())).into(), "outer and inner");
}

fn a_service_is_carried(site: &Site, answering: &Answering) {
    let server = answering.address();
    site.nft(
        1,
        &format!(
            "table ip6 proxy {{\n\
             chain prerouting {{\n\
             type nat hook prerouting priority -100\n\
             ip6 daddr {SERVICE} meta l4proto {{ tcp, udp }} dnat to {server}\n\
             }}\n}}\n"
        ),
    );
    for talk in [Talk::tcp, Talk::udp] {
        let talk = talk(site.pod(1), SocketAddr::new(SERVICE.parse().unwrap(), 80));
        site.until_fast(&talk, &[1, 2]);
        talk.whole();
    }
    site.netns(1).run("nft delete table ip6 proxy").unwrap();
}

/// Where pods believe in larger packets than the tunnel takes: the sender is told, and cuts.
pub(crate) fn what_is_too_big_is_told_of(site: &Site) {
    let answering = site.answering(2, Family::V6, 7000);
    let talk = Talk::udp(site.pod(1), answering.address());
    site.until_fast(&talk, &[1, 2]);
    let socket = udp_to(site.pod(1), answering.address());
    setsockopt(&socket, sockopt::Ipv6DontFrag, &true).unwrap();
    told(&socket, "small");
    wait::until("the sender to be told", wait::LONG, || {
        let refused = socket.send(&[b'y'; 3000]);
        (refused.err()?.raw_os_error() == Some(libc::EMSGSIZE)).then_some(())
    })
    .unwrap();
    let route = site.pod(1).run(&format!("ip route get {}", answering.address().ip())).unwrap();
    assert!(route.contains("mtu 1430"), "{route}");
    assert!(!answering.strange().iter().any(|text| text.starts_with("yyy")), "nothing of it has come");
    talk.more(100);
    talk.whole();
    transfer(site.pod(2), site.pod(1), site.pod_ip(1, Family::V6), 16 << 20).unwrap();
}
