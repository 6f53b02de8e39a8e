//! A service manager that keeps descriptors: not a packet is lost while nobody reads them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use nix::sys::signal::Signal;
use xtask::lab::{Cluster, Family, Launch, Node, Ping, PingReport, Process, skip_unless, transfer, wait};

use crate::{
    TOOLS,
    site::{cluster, launch},
};

/// What the manager is told, to stop the daemon by SIGTERM or SIGKILL and start it.
const GRACEFUL: Signal = Signal::SIGUSR1;
const ABRUPT: Signal = Signal::SIGUSR2;

/// What stands in for systemd, with a node's daemon as its service.
struct Manager<'a> {
    node: &'a Node,
    process: Process,
    arguments: PathBuf,
    starts: usize,
}

impl<'a> Manager<'a> {
    fn start(cluster: &Cluster, node: &'a Node) -> Self {
        let arguments = cluster.dir().join("arguments");
        write(node, &arguments, &launch("userspace"));
        let mut command = Command::new("python3");
        command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/userspace/manager.py"));
        command.arg(cluster.dir().join("notify")).arg(&arguments);
        let log = cluster.dir().join("manager.log");
        let process = Process::spawn("the service manager", &mut command, &log).unwrap();
        let mut manager = Self { node, process, arguments, starts: 0 };
        manager.started();
        manager
    }

    /// Waits for another start, and until the daemon is through with it.
    fn started(&mut self) {
        self.starts += 1;
        let pid = wait::until("the daemon to be started", wait::LONG, || {
            let log = self.process.log();
            let starts: Vec<_> = log.lines().filter_map(|line| line.strip_prefix("manager: started ")).collect();
            let (pid, _) = starts.get(self.starts - 1)?.split_once(' ')?;
            pid.parse::<u64>().ok()
        });
        let pid = pid.unwrap();
        wait::until("the new daemon to be converged", wait::LONG, || {
            let status = self.node.status().ok()?;
            (status["pid"] == pid && status["state"] == "converged").then_some(())
        })
        .unwrap_or_else(|error| panic!("{error}: {}", self.process.log()));
    }

    fn restart(&mut self, signal: Signal) {
        self.process.signal(signal).unwrap();
        self.started();
    }

    /// How many are kept under names that end so.
    fn kept(&self, family: Family) -> usize {
        let mut kept = 0;
        for line in self.process.log().lines() {
            let words: Vec<_> = line.split(' ').collect();
            match words[..] {
                ["manager:", "stored", name, count] if name.ends_with(&family.to_string()) => {
                    kept += count.parse::<usize>().unwrap();
                }
                ["manager:", "removed", name, count] if name.ends_with(&family.to_string()) => {
                    kept -= count.parse::<usize>().unwrap();
                }
                _ => {}
            }
        }
        kept
    }

    fn wait_kept(&self, what: &str, right: impl Fn(usize) -> bool) {
        let both = || [Family::V4, Family::V6].into_iter().all(|family| right(self.kept(family))).then_some(());
        wait::until(what, wait::LONG, both).unwrap_or_else(|error| panic!("{error}: {}", self.process.log()));
    }
}

fn write(node: &Node, arguments: &Path, launch: &Launch) {
    let command = node.daemon_command(launch).unwrap();
    let words = [command.get_program()].into_iter().chain(command.get_args());
    let lines: Vec<_> = words.map(|word| word.to_str().unwrap()).collect();
    fs::write(arguments, lines.join("\n")).unwrap();
}

/// Restarts the daemon under traffic; nothing is lost.
fn restarted(cluster: &Cluster, manager: &mut Manager<'_>, signal: Signal) {
    let ping = |(from, to, family)| cluster.ping(from, to, family).unwrap();
    let pings: Vec<_> = [(1, 2, Family::V4), (2, 1, Family::V6)].map(ping).into();
    pings.iter().for_each(|ping| ping.more(50).unwrap());
    manager.restart(signal);
    pings.iter().for_each(|ping| ping.more(50).unwrap());
    let reports: Vec<PingReport> = pings.into_iter().map(Ping::stop).collect();
    for report in &reports {
        println!("{signal}: {report}, longest {:?}", report.round_trips.last());
        assert!(report.duplicates == 0, "{report}");
        if signal == GRACEFUL {
            report.assert_nothing_lost();
        } else {
            // What a killed process had in its hands goes with it.
            assert!(report.lost() < 50, "{report}");
        }
    }
}

#[test]
fn what_waits_for_a_daemon_that_is_started_anew_is_not_lost() {
    if skip_unless(&[&TOOLS[..], &["python3"]].concat()) {
        return;
    }
    let cluster = cluster("usstore", &["userspace", "vxlan"]);
    let node = cluster.node(1);
    node.stop().unwrap();
    let mut manager = Manager::start(&cluster, node);
    // A queue and a socket at least.
    manager.wait_kept("descriptors to be kept", |count| count >= 2);
    for signal in [GRACEFUL, ABRUPT, GRACEFUL] {
        restarted(&cluster, &mut manager, signal);
    }

    // Under a new device what was kept is of no use; what takes its place is kept.
    let before = manager.kept(Family::V4);
    node.netns().run("ip link delete flannel.1").unwrap();
    let stored = || manager.process.log().matches("stored tunnel-queue-IPv4").count() == 2;
    wait::until("the new queues to be kept", wait::LONG, || stored().then_some(())).unwrap();
    node.wait_converged().unwrap();
    manager.wait_kept("as many to be kept as before", |count| count == before);
    restarted(&cluster, &mut manager, GRACEFUL);

    // Another datapath has no use for any, and its device wants the port.
    for (datapath, right) in [("vxlan", (|count| count == 0) as fn(usize) -> bool), ("userspace", |count| count >= 2)] {
        write(node, &manager.arguments, &launch(datapath));
        manager.restart(GRACEFUL);
        assert_eq!(node.status().unwrap()["datapath"]["kind"], datapath);
        manager.wait_kept("what is of use to be kept", right);
        assert!(cluster.wait_mesh(wait::LONG).unwrap().whole());
        let [one, two] = [1, 2].map(|number| cluster.node(number).pod());
        transfer(one.netns(), two.netns(), two.address(Family::V4).unwrap(), 1 << 20).unwrap();
        transfer(two.netns(), one.netns(), one.address(Family::V6).unwrap(), 1 << 20).unwrap();
    }
    assert!(!node.log().contains("panicked"));
}
