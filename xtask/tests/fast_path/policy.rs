//! Who may talk to whom stays netfilter's to say, before and while a flow is fast.

use std::{
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use xtask::lab::{Cluster, Family, Stopwatch, wait};

use crate::{
    answering::Answering,
    site::{Site, skipped},
    talk::{Talk, connect, udp_to},
};

/// Far longer than this test: what is honoured sooner is so because of a notice.
const FAR: [&str; 4] = ["--datapath", "ebpf", "--flow-validity", "600"];
const NEAR: [&str; 4] = ["--datapath", "ebpf", "--flow-validity", "2"];

#[test]
fn policies_keep_deciding() {
    if skipped(&["conntrack", "iptables-legacy"]) {
        return;
    }
    let site = Site::of(Cluster::builder("fppol").nodes(3).dual_stack(), &[&FAR, &FAR, &NEAR]);
    one_way_only(&site);
    inserted_under_a_fast_flow(&site);
    inserted_without_a_word(&site);
    site.alive();
}

/// Pod 1 may begin, pod 2 may only answer.
fn one_way_only(site: &Site) {
    let (one, two) = (site.pod_ip(1, Family::V4), site.pod_ip(2, Family::V4));
    for number in [1, 2] {
        site.nft(
            number,
            &format!(
                "table ip rules {{\n\
                 chain forward {{\n\
                 type filter hook forward priority 0\n\
                 ct state established,related accept\n\
                 ip saddr {one} ip daddr {two} accept\n\
                 ip saddr {two} ip daddr {one} drop\n\
                 }}\n}}\n"
            ),
        );
    }
    let (first, second) = (site.answering(1, Family::V4, 7000), site.answering(2, Family::V4, 7000));
    for talk in [Talk::tcp, Talk::udp] {
        let talk = talk(site.pod(1), second.address());
        site.until_fast(&talk, &[1, 2]);
        let never = Talk::udp(site.pod(2), first.address());
        never.more_sent(300);
        // From a port that a fast flow uses, to one that it does not.
        let socket = site.pod(2).enter(|| std::net::UdpSocket::bind("0.0.0.0:7999")).unwrap().unwrap();
        let mut known = udp_to(site.pod(1), SocketAddr::new(two, 7999));
        known.send(b"hello").unwrap();
        let mut hello = [0; 5];
        socket.set_read_timeout(Some(wait::LONG)).unwrap();
        let (_, client) = socket.recv_from(&mut hello).unwrap();
        for _ in 0..50 {
            socket.send_to(b"answer", client).unwrap();
            known.set_read_timeout(Some(wait::LONG)).unwrap();
            known.recv(&mut [0; 6]).unwrap();
            socket.send_to(b"new one", first.address()).unwrap();
        }
        known = udp_to(site.pod(1), second.address());
        known.send(b"hello").unwrap();
        let refused = site
            .pod(2)
            .enter(|| std::net::TcpStream::connect_timeout(&first.address(), Duration::from_millis(1500)).map(drop));
        assert_eq!(refused.unwrap().unwrap_err().kind(), std::io::ErrorKind::TimedOut);
        talk.more(100);
        talk.whole();
        assert_eq!((never.answered(), first.heard()), (0, 0));
    }
    drop(connect(site.pod(1), second.address()).unwrap());
    for number in [1, 2] {
        site.netns(number).run("nft delete table ip rules").unwrap();
    }
}

/// nftables tells: at once, at either end, and back again.
fn inserted_under_a_fast_flow(site: &Site) {
    let two = site.pod_ip(2, Family::V4);
    let answering = site.answering(2, Family::V4, 7000);
    for number in [1, 2] {
        for talk in [Talk::tcp, Talk::udp] {
            let talk = talk(site.pod(1), answering.address());
            site.until_fast(&talk, &[1, 2]);
            let start = Instant::now();
            site.nft(
                number,
                &format!(
                    "table ip late {{\n\
                     chain forward {{\n\
                     type filter hook forward priority -10\n\
                     ip daddr {two} drop\n\
                     }}\n}}\n"
                ),
            );
            until_silent(&talk, &answering);
            println!("nft at node {number}: silent after {:.0?}, looking included", start.elapsed());
            site.netns(number).run("nft delete table ip late").unwrap();
            site.until_fast(&talk, &[1, 2]);
        }
    }
}

/// iptables-legacy does not tell: within the validity.
fn inserted_without_a_word(site: &Site) {
    let three = site.pod_ip(3, Family::V4);
    let answering = site.answering(3, Family::V4, 7000);
    for talk in [Talk::tcp, Talk::udp] {
        let talk = talk(site.pod(1), answering.address());
        site.until_fast(&talk, &[1, 3]);
        let start = Instant::now();
        site.netns(3).run(&format!("iptables-legacy -I FORWARD -d {three} -j DROP")).unwrap();
        until_silent(&talk, &answering);
        println!("iptables-legacy: silent after {:.0?}, looking included", start.elapsed());
        site.netns(3).run(&format!("iptables-legacy -D FORWARD -d {three} -j DROP")).unwrap();
        talk.more(10);
        site.until_fast(&talk, &[1, 3]);
    }
}

/// Waits until nothing arrives of what goes on being sent; and after that, nothing does.
fn until_silent(talk: &Talk, answering: &Answering) {
    // Longer than TCP waits before it repeats something for the first time. Nothing can be awaited where nothing comes.
    const PAUSE: Duration = Duration::from_millis(400);
    wait::until("the policy to be honoured", wait::LONG, || {
        let heard = answering.heard();
        pause(PAUSE);
        (answering.heard() == heard).then_some(())
    })
    .unwrap();
    let heard = answering.heard();
    pause(3 * PAUSE);
    assert_eq!(answering.heard(), heard, "the policy is in force, and something came through");
    assert!(talk.sent() > talk.answered(), "it was sent");
}

/// For so long of a machine that has a processor to spare; but not for ever: TCP that hears nothing repeats itself ever
/// more seldom, and is to be heard again.
fn pause(length: Duration) {
    let watch = Stopwatch::start();
    while !watch.is_over(length) && watch.elapsed() < 5 * length {
        thread::sleep(Duration::from_millis(20));
    }
}
