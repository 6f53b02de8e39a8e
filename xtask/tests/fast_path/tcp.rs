//! What ends a connection, what does not, and connection tracking beside it.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    thread,
    time::Duration,
};

use flannel_common::Counter;
use nix::{
    libc,
    sys::socket::{setsockopt, sockopt},
};
use xtask::lab::{Family, wait};

use crate::{
    site::{Site, skipped},
    talk::{Talk, connect, exchange},
};

#[test]
fn connections_live_and_end_as_on_the_kernel_path() {
    if skipped(&["conntrack"]) {
        return;
    }
    let site = Site::start("fptcp", 2, &["--flow-validity", "1"]);
    for number in [1, 2] {
        site.drop_invalid(number);
    }
    tracking_goes_on_beside_the_fast_path(&site);
    an_idle_flow_that_tracking_has_forgotten_goes_on(&site);
    a_half_closed_connection_goes_on(&site);
    a_reset_ends_the_flow_and_its_port_serves_again(&site);
    for number in [1, 2] {
        assert_eq!(site.invalid(number), 0, "node {number} dropped packets as invalid");
    }
    site.alive();
}

/// For longer than tracking's timeouts, and for several proofs.
fn tracking_goes_on_beside_the_fast_path(site: &Site) {
    short_timeouts(site);
    let answering = site.answering(2, Family::V4, 7000);
    for (talk, protocol) in [(Talk::tcp as fn(_, _) -> _, "tcp"), (Talk::udp, "udp")] {
        let talk: Talk = talk(site.pod(1), answering.address());
        site.until_fast(&talk, &[1, 2]);
        let proofs = || site.counts(1).get(Counter::EgressExpired);
        let first = proofs();
        wait::until("five more proofs", wait::LONG, || (proofs() >= first + 5).then_some(())).unwrap();
        for number in [1, 2] {
            let known = tracked(site, number, protocol, 7000);
            assert!(known.contains("dport=7000"), "node {number}: {known:?}");
            assert!(protocol == "udp" || known.contains("ESTABLISHED"), "node {number}: {known:?}");
            assert!(!known.contains("UNREPLIED"), "node {number}: {known:?}");
        }
        talk.whole();
    }
}

fn an_idle_flow_that_tracking_has_forgotten_goes_on(site: &Site) {
    let answering = site.answering(2, Family::V4, 7001);
    for (talk, protocol) in [(Talk::tcp as fn(_, _) -> _, "tcp"), (Talk::udp, "udp")] {
        let talk: Talk = talk(site.pod(1), answering.address());
        site.until_fast(&talk, &[1, 2]);
        talk.pause(true);
        wait::until("tracking to forget it", wait::LONG, || {
            [1, 2].iter().all(|number| tracked(site, *number, protocol, 7001).is_empty()).then_some(())
        })
        .unwrap();
        talk.pause(false);
        site.until_fast(&talk, &[1, 2]);
        talk.whole();
    }
    for number in [1, 2] {
        let timeouts = [("netfilter/nf_conntrack_tcp_timeout_established", "600")];
        site.netns(number).sysctl(&timeouts).unwrap();
    }
}

fn short_timeouts(site: &Site) {
    for number in [1, 2] {
        let timeouts = ["tcp_timeout_established", "udp_timeout", "udp_timeout_stream"];
        let timeouts = timeouts.map(|name| format!("netfilter/nf_conntrack_{name}"));
        site.netns(number).sysctl(&timeouts.each_ref().map(|name| (name.as_str(), "4"))).unwrap();
    }
}

fn tracked(site: &Site, number: usize, protocol: &str, port: u16) -> String {
    site.netns(number).run(&format!("conntrack -L -p {protocol} --orig-port-dst {port}")).unwrap()
}

fn a_half_closed_connection_goes_on(site: &Site) {
    const MESSAGES: u64 = 1500;
    let at = SocketAddr::new(site.pod_ip(2, Family::V4), 7002);
    let listener = site.pod(2).enter(|| TcpListener::bind(at)).unwrap().unwrap();
    let mut client = connect(site.pod(1), at).unwrap();
    client.write_all(b"all that I have to say").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let (mut server, _) = listener.accept().unwrap();
    server.set_nodelay(true).unwrap();
    let mut heard = String::new();
    server.read_to_string(&mut heard).unwrap();
    assert_eq!(heard, "all that I have to say");
    let counts = site.during(2, || {
        thread::scope(|scope| {
            scope.spawn(move || {
                for number in 0..MESSAGES {
                    server.write_all(&number.to_be_bytes()).unwrap();
                    thread::sleep(Duration::from_millis(1));
                }
            });
            client.set_read_timeout(Some(wait::LONG)).unwrap();
            let mut message = [0; 8];
            for number in 0..MESSAGES {
                client.read_exact(&mut message).unwrap();
                assert_eq!(u64::from_be_bytes(message), number);
            }
            assert_eq!(client.read(&mut message).unwrap(), 0);
        });
    });
    assert!(counts.get(Counter::EgressFast) > MESSAGES / 2, "{}", counts.shown());
}

fn a_reset_ends_the_flow_and_its_port_serves_again(site: &Site) {
    const PORT: u16 = 41_000;
    let answering = site.answering(2, Family::V4, 7003);
    site.pod(1).sysctl(&[("ipv4/ip_local_port_range", &format!("{PORT} {PORT}"))]).unwrap();
    for round in 0..5 {
        let mut client = connect(site.pod(1), answering.address()).unwrap();
        assert_eq!(client.local_addr().unwrap().port(), PORT);
        let counts = site.during(1, || exchange(&mut client, 300));
        assert!(counts.get(Counter::EgressFast) > 200, "round {round}: {}", counts.shown());
        assert!(site.knows(1, PORT) && site.knows(2, PORT), "{}", site.flows(&[1, 2]));
        reset(client);
        wait::until("both nodes to forget the flow", wait::LONG, || {
            (!site.knows(1, PORT) && !site.knows(2, PORT)).then_some(())
        })
        .unwrap_or_else(|error| panic!("{error}\n{}", site.flows(&[1, 2])));
    }
    site.pod(1).sysctl(&[("ipv4/ip_local_port_range", "32768 60999")]).unwrap();
}

/// Closes with RST instead of FIN.
fn reset(stream: TcpStream) {
    setsockopt(&stream, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 }).unwrap();
    drop(stream);
}
