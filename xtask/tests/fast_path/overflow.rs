//! More flows than the tables have room for, all in use at once: slower, and never wrong.

use std::{net::SocketAddr, thread, time::Instant};

use flannel_common::Counter;
use flannel_ctl::kernel::fastpath::known_flows;
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};
use xtask::lab::{Family, transfer, wait};

use crate::{
    site::{Site, skipped},
    talk::{Talk, udp_to},
};

/// The least that may be asked for.
const ROOM: &str = "1024";
const THREADS: usize = 4;
/// Each with a port of its own.
const SOCKETS: usize = 500;
/// Questions on each; after three, its flow is worth an entry.
const ROUNDS: usize = 8;
const SERVICE: &str = "10.96.0.53";

/// As resolvers have it: thousands of questions a second to a service, each from another port, and bulk beside them.
#[test]
fn tables_that_overflow_cost_speed_and_nothing_else() {
    if skipped(&["conntrack"]) {
        return;
    }
    let site = Site::start("fpfull", 2, &["--max-flows", ROOM, "--pod-flow-rate", "1000000"]);
    let server = site.answering(2, Family::V4, 5300);
    site.nft(
        1,
        &format!(
            "table ip proxy {{\n\
             chain prerouting {{\n\
             type nat hook prerouting priority -100\n\
             ip daddr {SERVICE} udp dport 53 dnat to {}\n\
             }}\n}}\n",
            server.address()
        ),
    );
    let start = Instant::now();
    let counts = site.during(1, || {
        thread::scope(|scope| {
            for number in 0..THREADS {
                let site = &site;
                scope.spawn(move || ask(site, number));
            }
            scope.spawn(|| transfer(site.pod(1), site.pod(2), site.pod_ip(2, Family::V4), 96 << 20).unwrap());
            scope.spawn(|| transfer(site.pod(2), site.pod(1), site.pod_ip(1, Family::V4), 96 << 20).unwrap());
        });
    });
    println!("{} questions in {:.1?}; {}", THREADS * SOCKETS * ROUNDS, start.elapsed(), counts.shown());
    let room = ROOM.parse::<usize>().unwrap();
    for number in [1, 2] {
        let known = known_flows(site.node(number).bpf_dir()).unwrap();
        assert!(known.egress.len() <= room && known.ingress.len() <= room);
    }
    let learned = counts.get(Counter::LearnedEgress);
    assert!(learned > room as u64, "the tables have not overflowed: {}", counts.shown());
    assert!(counts.get(Counter::EgressFast) > 0 && counts.get(Counter::LearnRate) == 0, "{}", counts.shown());
    let talk = Talk::udp(site.pod(1), server.address());
    site.until_fast(&talk, &[1, 2]);
    talk.whole();
    site.alive();
}

/// Room for one subnet, where there are four, and for one pod, where there are two.
#[test]
fn a_peer_and_a_pod_too_many_stay_on_the_kernel_path_and_the_status_names_the_options() {
    if skipped(&[]) {
        return;
    }
    let site = Site::start("fpmany", 3, &["--max-peers", "1", "--max-pods", "1"]);
    let node = site.node(1);
    let second = site.second_pod();
    let mut failing = String::new();
    wait::until("the status to name both options", wait::LONG, || {
        failing = node.status().ok()?["kernel"]["failing"].to_string();
        (failing.contains("raise --max-peers") && failing.contains("raise --max-pods")).then_some(())
    })
    .unwrap_or_else(|error| panic!("{error}: {failing}"));
    // Both peers, both families, both pods.
    let mut fast = Vec::new();
    for (number, family) in [(2, Family::V4), (2, Family::V6), (3, Family::V4), (3, Family::V6)] {
        let server = site.answering(number, family, 5300);
        let talk = Talk::udp(site.pod(1), server.address());
        let counts = site.during(1, || talk.more(300));
        talk.whole();
        println!("to {}: {}", server.address(), counts.shown());
        fast.push(counts.get(Counter::EgressFast) > 0);
        assert_eq!(counts.get(Counter::LearnPeer) > 0, !fast[fast.len() - 1], "{}", counts.shown());
        assert_eq!(counts.get(Counter::Lost) + counts.get(Counter::IngressForged), 0, "{}", counts.shown());
        if family == Family::V4 {
            let talk = Talk::tcp(second.netns(), server.address());
            let counts = site.during(1, || talk.more(300));
            talk.whole();
            assert_eq!(counts.get(Counter::EgressFast), 0, "{}", counts.shown());
        }
    }
    assert_eq!(fast.iter().filter(|fast| **fast).count(), 1, "{fast:?}");
    // Each of the three peers and the pod is tried again and again, and told of once at most.
    for (option, most) in [("raise --max-peers", 3), ("raise --max-pods", 1)] {
        let said = node.log().lines().filter(|line| line.contains(option)).count();
        assert!((1..=most).contains(&said), "{option}, {said} times:\n{}", node.log());
    }
    site.cluster.assert_whole();
    site.alive();
}

/// Bursts of questions, one from each socket, and the answer to each: nobody gets another's.
fn ask(site: &Site, number: usize) {
    stay_on_one_cpu(number);
    let service = SocketAddr::new(SERVICE.parse().unwrap(), 53);
    let sockets: Vec<_> = (0..SOCKETS).map(|_| udp_to(site.pod(1), service)).collect();
    let mut answer = [0; 64];
    for round in 0..ROUNDS {
        let question = |socket: usize| format!("thread {number} socket {socket} round {round}").into_bytes();
        for (at, socket) in sockets.iter().enumerate() {
            socket.send(&question(at)).unwrap();
        }
        for (at, socket) in sockets.iter().enumerate() {
            let (question, own) = (question(at), format!("thread {number} socket {at} round ").into_bytes());
            // A queue of the machine's that was full is not our doing: whoever hears nothing asks again.
            wait::until("an answer", wait::LONG, || {
                let Ok(read) = socket.recv(&mut answer) else {
                    socket.send(&question).unwrap();
                    return None;
                };
                assert!(answer[..read].starts_with(&own), "{}", String::from_utf8_lossy(&answer[..read]));
                (answer[..read] == question[..]).then_some(())
            })
            .unwrap();
        }
    }
}

/// How often a flow was seen is counted per CPU.
fn stay_on_one_cpu(number: usize) {
    let allowed = sched_getaffinity(Pid::from_raw(0)).unwrap();
    let cpus: Vec<_> = (0..CpuSet::count()).filter(|cpu| allowed.is_set(*cpu).unwrap()).collect();
    let mut here = CpuSet::new();
    here.set(cpus[number % cpus.len()]).unwrap();
    sched_setaffinity(Pid::from_raw(0), &here).unwrap();
}
