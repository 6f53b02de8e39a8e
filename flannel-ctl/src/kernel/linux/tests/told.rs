//! What is known of the large tables without looking at them, after everything that people and the kernel do to them.
//!
//! A large cluster's tables are looked at rarely, since the kernel tells of each change to them. So each damage here is followed
//! as the loop follows it: objects that are told are believed, and the kernel is looked at when a notice asks for it, while
//! the damage goes on. In the end that is the whole truth, or what is looked at every ten seconds whatever the size shows
//! that it is not.

mod devices;
mod tables;

use std::{fs, process::Command, sync::mpsc, thread};

use super::*;
use crate::kernel::{Interpretation, Notice, monitor};

/// A route that comes and goes when the damage is done. It changes no number that is looked at.
const MARK: &str = "203.0.113.77/32";

/// Peers of all kinds in both families, in a network that is at rest.
fn cluster() -> (Lab, State) {
    // Without addresses that come and are checked after a while, of which notices would tell at any time.
    fs::write("/proc/sys/net/ipv6/conf/default/addr_gen_mode", "1").unwrap();
    let mut lab = lab();
    let mut wanted = mesh(&lab, &Family::ALL, 1..=5);
    peer(&mut wanted, Family::V4, 50, Via::Overlay { nexthop: false });
    for family in Family::ALL {
        peer(&mut wanted, family, 60, Via::Direct { gateway: public(family, 60) });
    }
    lab.converge(&wanted);
    settled("link show dev up0", " state UP ");
    settled("link show dev up0far", " state UP ");
    assert!(lab.kernel.is_still(0, &wanted, &wanted).unwrap());
    (lab, wanted)
}

/// What the kernel does when it gets round to it has happened when `ip QUESTION` says so, and been told when whoever did it
/// has given back the lock.
fn settled(question: &str, answer: &str) {
    let says = || ip(question).contains(answer).then_some(());
    xtask::lab::wait::until(&format!("ip {question}: {answer}"), xtask::lab::wait::LONG, says).unwrap();
    ip("link set lo up");
}

/// What is to be followed.
#[derive(Clone, Copy)]
struct Damage {
    script: &'static str,
    /// See [`settled`].
    settles: Option<(&'static str, &'static str)>,
    /// What the kernel tells is listened to; otherwise there are only the looks.
    heard: bool,
}

impl Damage {
    /// Does it in a new network of its own and follows it. What is not known in the end, if something is not.
    fn missed(self) -> Option<String> {
        let (missed_tx, missed) = mpsc::channel();
        isolated(move || missed_tx.send(self.missed_here()).unwrap());
        // Without the privilege there is no answer, and it has been said.
        missed.recv().unwrap_or_default()
    }

    fn missed_here(self) -> Option<String> {
        let (mut lab, wanted) = cluster();
        let (notice_tx, notices) = mpsc::channel();
        monitor::spawn(lab.kernel.port(), move |notice| notice_tx.send(notice).is_ok()).unwrap();
        let doing = thread::spawn(move || self.happens());
        let (mut known, mut told) = (wanted.clone(), Vec::new());
        let mark: IpNet = MARK.parse().unwrap();
        loop {
            let Ok(notice) = notices.recv_timeout(xtask::lab::wait::LONG) else {
                doing.join().unwrap();
                panic!("{}: nothing is told any more", self.script);
            };
            if matches!(&notice, Notice::Route { gone: true, route, .. } if route.dst == mark) {
                break;
            }
            if !self.heard {
                continue;
            }
            let meaning = Kernel::interpret(&mut lab.kernel, notice);
            match &meaning {
                Interpretation::Irrelevant | Interpretation::Pods | Interpretation::Topology => continue,
                Interpretation::Changed(key, Some(object)) => drop(known.insert(*key, object.clone())),
                Interpretation::Changed(key, None) => drop(known.remove(key)),
                Interpretation::Resync(_) | Interpretation::Uplink => known = lab.kernel.observe(&wanted).unwrap(),
            }
            told.push(meaning);
        }
        doing.join().unwrap();
        let found = !lab.kernel.is_still(0, &known, &wanted).unwrap();
        let there = lab.kernel.observe(&wanted).unwrap();
        (known != there && !found).then(|| {
            let only_in = |one: &State, other: &State| {
                let only = one.iter().filter(|(key, object)| other.get(key) != Some(object));
                only.map(|entry| format!("{entry:?}")).collect::<Vec<_>>()
            };
            let (unknown, gone) = (only_in(&there, &known), only_in(&known, &there));
            format!("{}\n  told: {told:?}\n  there, not known: {unknown:?}\n  known, not there: {gone:?}", self.script)
        })
    }

    fn happens(self) {
        let done = Command::new("sh").args(["-ec", self.script]).output().unwrap();
        assert!(done.status.success(), "{}: {}", self.script, String::from_utf8_lossy(&done.stderr));
        if let Some((question, answer)) = self.settles {
            settled(question, answer);
        }
        ip(&format!("route add {MARK} dev lo proto static"));
        ip(&format!("route del {MARK} dev lo proto static"));
    }
}

fn none_missed(damages: impl IntoIterator<Item = Damage>) {
    let missed: Vec<_> = damages.into_iter().filter_map(Damage::missed).collect();
    assert!(missed.is_empty(), "missed: {}", missed.join("\n"));
}

fn all_known(scripts: &[&'static str]) {
    none_missed(scripts.iter().map(|script| Damage { script, settles: None, heard: true }));
}

fn known_once_settled(script: &'static str, question: &'static str, answer: &'static str) {
    none_missed([Damage { script, settles: Some((question, answer)), heard: true }]);
}

#[test]
fn what_only_notices_tell_is_missed_without_them() {
    for script in [
        "ip route replace 10.0.5.0/24 dev up0 proto 102",
        "ip -6 route replace fc00:0:0:5::/64 dev up0 proto 102",
        "ip nexthop replace id 167773184 via 10.0.9.9 dev flannel.7 onlink proto 102",
        "ip neigh replace 10.0.3.0 lladdr 02:00:00:00:00:99 dev flannel.7 nud permanent",
        "bridge fdb replace 02:01:00:00:00:04 dev flannel.7 dst 192.168.9.9 self permanent",
    ] {
        isolated(move || {
            let missed = Damage { script, settles: None, heard: false }.missed_here();
            assert!(missed.is_some(), "{script}");
        });
    }
}
