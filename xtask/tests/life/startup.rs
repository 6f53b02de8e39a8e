//! Killed at every kind of step of its start.

use std::time::Instant;

use xtask::lab::{Cluster, Dump, Family, Launch, wait};

/// The steps that change something, tell somebody, or make what is needed for it: first, last and distance of the
/// calls of each kind, which are counted per thread.
const STEPS: [(&str, usize, usize, usize); 10] = [
    ("sendto", 1, 71, 6),
    ("openat", 8, 60, 13),
    ("writev", 2, 14, 4),
    ("write", 1, 13, 4),
    ("bind", 1, 9, 2),
    ("connect", 1, 3, 1),
    ("rename", 1, 4, 1),
    ("fsync", 1, 3, 1),
    ("clone3", 2, 10, 4),
    ("setsockopt", 10, 34, 12),
];

pub(crate) fn killed_everywhere(prefix: &str) {
    let cluster = Cluster::builder(prefix).nodes(2).dual_stack().start().unwrap();
    cluster.assert_whole();
    let node = cluster.node(1);
    let clean = Dump::of(node.netns()).unwrap();
    let (env, lease) = (node.subnet_env().unwrap(), node.status().unwrap()["lease"]["key"].clone());
    node.stop().unwrap();
    let begun = Instant::now();
    let (mut killed, mut finished) = (0, 0);
    for (calls, first, last, distance) in STEPS {
        for when in (first..=last).step_by(distance) {
            // From an empty kernel, as after a boot: every step of it is taken.
            node.netns().ip("link del flannel.1\nlink del flannel-v6.1").ok();
            node.netns().run("nft flush ruleset").unwrap();
            let wrapper =
                format!("strace -f -qqq -o /dev/null -e trace={calls} -e inject={calls}:signal=KILL:when={when}");
            let launch = Launch { wrapper: wrapper.split(' ').map(String::from).collect(), ..Launch::default() };
            node.start_with(&launch).unwrap();
            // It ends by the kill, or gets past all of its steps.
            let ended = wait::until("the end of its start", wait::LONG, || {
                let ended = node.ended().ok()?.is_some();
                let ready = !ended && node.http("/readyz").is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"));
                (ended || ready).then_some(ended)
            })
            .unwrap();
            if ended {
                killed += 1;
            } else {
                finished += 1;
            }
            // strace ends with its child; killed first it would leave it.
            if !ended {
                let pid = node.netns().run(&format!("pgrep -P {}", node.pid().unwrap())).unwrap();
                node.netns().run(&format!("kill -9 {}", pid.trim())).unwrap();
            }
            node.wait_end(wait::SHORT).unwrap();
            node.start().unwrap();
            node.wait_ready().unwrap_or_else(|error| panic!("after a kill at {calls} number {when}: {error:#}"));
            let mut now = Dump::default();
            wait::until("the state of a clean start", wait::SHORT, || {
                now = Dump::of(node.netns()).ok()?;
                (now == clean).then_some(())
            })
            .unwrap_or_else(|error| panic!("{error}, killed at {calls} number {when}:\n{}", clean.difference(&now)));
            assert_eq!(node.subnet_env().unwrap(), env, "killed at {calls} number {when}");
            assert_eq!(node.status().unwrap()["lease"]["key"], lease, "killed at {calls} number {when}");
            node.kill().unwrap();
        }
    }
    println!("{killed} kills and {finished} whole starts in {:.1?}", begun.elapsed());
    assert!(killed > 20, "{killed} kills hit");
    node.start().unwrap();
    node.wait_ready().unwrap();
    let ping = cluster.ping(1, 2, Family::V6).unwrap();
    ping.more(50).unwrap();
}
