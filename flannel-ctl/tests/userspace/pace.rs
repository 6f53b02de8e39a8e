//! What the threads do between packets, and in a flood of them.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use flannel_ctl::{model::Family, userspace::Counter};
use xtask::lab::{skip_unless, wait};

use super::site::{Node, PATIENCE, inner, nodes, vxlan};

/// Times that the threads of a node's engine were scheduled, and the time that they ran, in nanoseconds.
fn scheduled(node: &Node) -> (u64, u64) {
    let here = |thread: &str| node.netns.enter(|| fs::metadata(format!("{thread}/ns/net")).unwrap().ino()).unwrap();
    let own = here("/proc/thread-self");
    let (mut times, mut nanos) = (0, 0);
    for task in fs::read_dir("/proc/self/task").unwrap() {
        let path = task.unwrap().path();
        // Threads of other tests come and go.
        let Ok(name) = fs::read_to_string(path.join("comm")) else { continue };
        let Ok(netns) = fs::metadata(path.join("ns/net")) else { continue };
        let Ok(schedstat) = fs::read_to_string(path.join("schedstat")) else { continue };
        if name.starts_with("tunnel-") && netns.ino() == own {
            let mut fields = schedstat.split_whitespace().map(|field| field.parse::<u64>().unwrap());
            nanos += fields.next().unwrap();
            times += fields.nth(1).unwrap();
        }
    }
    (times, nanos)
}

/// Requests and responses of one datagram each, one after the other.
fn answers(from: &Node, to: &Node, count: usize) {
    let (here, there) = (from.udp(inner(Family::V4, from.number)), to.udp(inner(Family::V4, to.number)));
    here.connect(there.local_addr().unwrap()).unwrap();
    there.connect(here.local_addr().unwrap()).unwrap();
    let mut buffer = [0; 1];
    for _ in 0..count {
        here.send(b"?").unwrap();
        there.recv(&mut buffer).unwrap();
        there.send(b"!").unwrap();
        here.recv(&mut buffer).unwrap();
    }
}

/// Small datagrams for nobody, as many as one core sends, while `meanwhile` lasts.
fn flood<T>(from: &Node, to: &Node, meanwhile: impl FnOnce() -> T) -> T {
    let (here, sink) = (from.udp(inner(Family::V4, from.number)), to.udp(inner(Family::V4, to.number)));
    here.connect(sink.local_addr().unwrap()).unwrap();
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                // Refused for want of room now and then.
                drop(here.send(&[7; 64]));
            }
        });
        let result = meanwhile();
        over.store(true, Ordering::Relaxed);
        result
    })
}

#[test]
fn threads_sleep_whatever_there_was_before() {
    if skip_unless(&["ip"]) {
        return;
    }
    let [mut first, mut second] = nodes("usi");
    first.start(&first.options(vxlan(1), Family::V4));
    second.start(&second.options(vxlan(2), Family::V4));
    answers(&first, &second, 2_000);
    let sent = first.count(Counter::SentPackets);
    flood(&first, &second, || {
        wait::until("a flood", PATIENCE, || (first.count(Counter::SentPackets) > sent + 50_000).then_some(())).unwrap();
    });
    for node in [&first, &second] {
        // Nothing else in these namespaces sends, so that nobody wakes them.
        let quiet = || {
            let before = scheduled(node);
            assert!(before.0 > 0, "threads that have never run");
            thread::sleep(Duration::from_millis(300));
            (scheduled(node).0 <= before.0 + 2).then_some(())
        };
        wait::until("the threads to sleep", PATIENCE, quiet).unwrap();
    }
}

#[test]
fn a_flood_one_way_leaves_the_other_way_open() {
    if skip_unless(&["ip"]) {
        return;
    }
    let [mut first, mut second] = nodes("usf");
    // One queue: all of it goes by one thread.
    for node in [&mut first, &mut second] {
        let options = node.options(vxlan(node.number), Family::V4);
        node.start(&flannel_ctl::userspace::Options { queues: Some(1), ..options });
    }
    for (from, to) in [(&first, &second), (&second, &first)] {
        let (here, there) = (from.udp(inner(Family::V4, from.number)), to.udp(inner(Family::V4, to.number)));
        there.connect(here.local_addr().unwrap()).unwrap();
        here.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        let sent = from.count(Counter::SentPackets);
        flood(from, to, || {
            let mut arrived = 0;
            let against_the_flood = || {
                there.send(b"!").unwrap();
                arrived += u32::from(here.recv(&mut [0; 1]).is_ok());
                (arrived >= 100 && from.count(Counter::SentPackets) > sent + 10_000).then_some(())
            };
            wait::until("datagrams against the flood", PATIENCE, against_the_flood).unwrap();
        });
    }
}
