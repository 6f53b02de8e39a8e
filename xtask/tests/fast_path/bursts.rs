//! Very many flows: none is lost, one pod's share is bounded, and others do not notice.

use std::net::SocketAddr;

use flannel_common::Counter;
use xtask::lab::{Family, Netns, wait};

use crate::{
    site::{Site, skipped},
    talk::{Talk, udp_to},
};

/// How many flows pods ask with, one question each.
const QUESTIONS: usize = 3000;
/// New flows a second: few, so that a slow machine has more too.
const RATE: u64 = 50;

#[test]
fn a_pod_with_very_many_flows_is_served_and_disturbs_nobody() {
    if skipped(&[]) {
        return;
    }
    let rate = RATE.to_string();
    let site = Site::start("fpburst", 2, &["--pod-flow-rate", &rate, "--max-flows", "1024"]);
    let neighbour = site.second_pod();
    let answering = site.answering(2, Family::V4, 53);
    let (busy, idle) =
        (Talk::tcp(neighbour.netns(), answering.address()), Talk::udp(neighbour.netns(), answering.address()));
    idle.more(300);
    idle.pause(true);
    site.until_fast(&busy, &[1, 2]);
    let mut asked = 0;
    let counts = site.during(1, || asked = ask(site.pod(1), answering.address()));
    assert_eq!(asked, QUESTIONS, "answers of {QUESTIONS}");
    assert!(counts.get(Counter::LearnRate) > 0, "{}", counts.shown());
    site.until_fast(&busy, &[1, 2]);
    busy.whole();
    idle.pause(false);
    site.until_fast(&idle, &[1, 2]);
    idle.whole();
    site.alive();
}

/// A question each from a socket of its own, asked several times so that its flow seems worth knowing; how many were answered.
fn ask(from: &Netns, to: SocketAddr) -> usize {
    let mut answered = 0;
    let mut answer = [0; 64];
    for number in 0..QUESTIONS {
        let socket = udp_to(from, to);
        socket.set_read_timeout(Some(wait::LONG)).unwrap();
        let mut whole = true;
        for part in 0..4 {
            let question = format!("question {number}.{part}");
            socket.send(question.as_bytes()).unwrap();
            whole &= socket.recv(&mut answer).is_ok_and(|read| &answer[..read] == question.as_bytes());
        }
        answered += usize::from(whole);
    }
    answered
}
