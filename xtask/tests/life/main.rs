//! lane: e2e
//!
//! The daemon comes, goes and is killed; packets do not notice.
#![expect(clippy::unwrap_used, reason = "a test's helper functions are tests too")]

mod notify;
mod startup;
mod stream;

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use stream::Stream;
use xtask::lab::{Cluster, Dump, Family, Launch, Ping, Process, Stopwatch, flannel_ctl, skip_unless, wait};

const TOOLS: [&str; 5] = ["ip", "bridge", "nft", "ethtool", "iperf3"];

/// A whole mesh of so many nodes.
fn cluster(prefix: &str, nodes: usize) -> Cluster {
    let cluster = Cluster::builder(prefix).nodes(nodes).dual_stack().start().unwrap();
    cluster.assert_whole();
    cluster
}

fn pings(cluster: &Cluster) -> [Ping; 2] {
    let pings = [(1, 2, Family::V4), (2, 1, Family::V6)].map(|(a, b, family)| cluster.ping(a, b, family).unwrap());
    for ping in &pings {
        ping.more(20).unwrap();
    }
    pings
}

/// Interface indices and rule handles show what was made anew, though it looks the same.
fn identities(cluster: &Cluster) -> Dump {
    Dump::script(
        cluster.node(1).netns(),
        "ip -o link show type vxlan; nft -a list table inet flannel-ctl | grep -v packets
         nft list counters table inet flannel-ctl | grep counter; ip -d nexthop",
    )
    .unwrap()
}

#[test]
fn a_restart_of_any_kind_loses_nothing_and_writes_nothing() {
    if skip_unless(&TOOLS) {
        return;
    }
    let cluster = cluster("fflife", 2);
    let node = cluster.node(1);
    let (before, identity) = (Dump::of(node.netns()).unwrap(), identities(&cluster));
    let pings = pings(&cluster);
    let stream = Stream::start(&cluster, 1, 2);
    let log = tempfile::NamedTempFile::new().unwrap();
    let mut command = node.netns().command("ip");
    command.args(["monitor", "link", "address", "route", "nexthop"]);
    let monitor = Process::spawn("ip monitor", &mut command, log.path()).unwrap();
    let other_build = tempfile::tempdir().unwrap();
    let copy = other_build.path().join("flannel-ctl-next");
    fs::copy(flannel_ctl().unwrap(), &copy).unwrap();

    let watch = Stopwatch::start();
    assert!(node.stop().unwrap().success(), "exit code 0");
    watch.assert_within(Duration::from_secs(3));
    assert_eq!(Dump::of(node.netns()).unwrap(), before, "after SIGTERM");
    for pause in [300, 0] {
        pings[0].more(pause).unwrap();
        node.start().unwrap();
        node.wait_ready().unwrap();
        node.kill().unwrap();
    }
    // The upgrade: the same command line with another program.
    let mut upgrade = node.daemon_command(&Launch::default()).unwrap();
    let words: Vec<_> = upgrade.get_args().map(ToOwned::to_owned).collect();
    let mut next = Command::new(upgrade.get_program());
    next.args(
        words.iter().map(|word| if word == flannel_ctl().unwrap() { copy.as_os_str() } else { word.as_os_str() }),
    );
    upgrade = next;
    let next = Process::spawn("the next version", &mut upgrade, &node.log_file()).unwrap();
    wait_converged(&cluster);
    assert!(fs::read_link(format!("/proc/{}/exe", next.pid())).unwrap().ends_with("flannel-ctl-next"));
    pings[0].more(300).unwrap();

    stream.assert_unbroken();
    for report in pings.map(Ping::stop) {
        println!("{report}");
        report.assert_nothing_lost();
    }
    let now = Dump::of(node.netns()).unwrap();
    assert!(now == before, "{}", before.difference(&now));
    let now = identities(&cluster);
    assert!(now == identity, "made anew:\n{}", identity.difference(&now));
    // What ip says of a namespace that another test takes away while ip looks for names of them all.
    let said = monitor.log().replace("Error: Peer netns reference is invalid.\n", "");
    assert!(said.trim().is_empty(), "five starts wrote to the kernel:\n{said}");
}

#[test]
fn kills_ten_times_a_second_under_load_lose_and_leak_nothing() {
    if skip_unless(&TOOLS) {
        return;
    }
    let cluster = cluster("ffkill", 2);
    let node = cluster.node(1);
    let (before, identity) = (Dump::of(node.netns()).unwrap(), identities(&cluster));
    let pings = pings(&cluster);
    let stream = Stream::start(&cluster, 2, 1);
    let start = Instant::now();
    let mut kills = 0;
    while start.elapsed() < Duration::from_secs(8) {
        pings[0].more(100).unwrap();
        node.kill().unwrap();
        node.start().unwrap();
        kills += 1;
    }
    node.wait_ready().unwrap();
    wait_converged(&cluster);
    stream.assert_unbroken();
    for report in pings.map(Ping::stop) {
        println!("{kills} kills: {report}");
        report.assert_nothing_lost();
    }
    let now = Dump::of(node.netns()).unwrap();
    assert!(now == before, "{}", before.difference(&now));
    let now = identities(&cluster);
    assert!(now == identity, "made anew:\n{}", identity.difference(&now));
    let names = [files(&node.run_dir()), files(&node.state_dir())].concat();
    assert!(names.len() <= 12, "files pile up: {names:?}");
}

#[test]
fn a_peer_that_left_while_the_daemon_was_down_is_gone_after_its_start() {
    if skip_unless(&[&TOOLS[..], &["etcdctl"]].concat()) {
        return;
    }
    let cluster = cluster("ffgone", 3);
    let node = cluster.node(1);
    let gone = cluster.node(3).subnet_env().unwrap();
    let net = gone.subnet(Family::V4).unwrap().replace(".1/24", ".0");
    node.stop().unwrap();
    cluster.node(3).stop().unwrap();
    let ping = cluster.ping(1, 2, Family::V4).unwrap();
    let deleted = cluster.etcdctl(&["del", "--prefix", &format!("/coreos.com/network/subnets/{net}-")]).unwrap();
    assert_eq!(deleted.trim(), "1");
    assert!(Dump::of(node.netns()).unwrap().to_string().contains(&net), "kept while the daemon is down");
    let watch = Stopwatch::start();
    node.start().unwrap();
    wait::until("the peer that left to be gone", wait::SHORT, || {
        (!Dump::of(node.netns()).ok()?.to_string().contains(&net)).then_some(())
    })
    .unwrap();
    println!("gone {watch} after start");
    watch.assert_within(Duration::from_secs(5));
    ping.stop().assert_nothing_lost();
}

#[test]
fn a_second_daemon_with_the_same_run_directory_is_refused_by_pid() {
    if skip_unless(&TOOLS) {
        return;
    }
    let cluster = cluster("ffsec", 2);
    let node = cluster.node(1);
    let before = Dump::of(node.netns()).unwrap();
    let output = node.daemon_command(&Launch::default()).unwrap().output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert!(!output.status.success() && said.contains(&format!("pid {}", node.pid().unwrap())), "{said}");
    assert_eq!(Dump::of(node.netns()).unwrap(), before);
    assert_eq!(node.status().unwrap()["state"], "converged", "and the first one still answers");
}

/// As on a machine with two nodes in two namespaces, started as flannel would be.
#[test]
fn two_flannelds_with_only_a_subnet_file_each_do_not_disturb_each_other() {
    if skip_unless(&TOOLS) {
        return;
    }
    let cluster = Cluster::builder("fftwo").nodes(2).prepare().unwrap();
    let before = pinned();
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("flanneld");
    symlink(flannel_ctl().unwrap(), &program).unwrap();
    let daemons: Vec<_> = cluster
        .nodes()
        .iter()
        .map(|node| {
            let home = dir.path().join(format!("n{}", node.number()));
            fs::create_dir(&home).unwrap();
            let mut command = node.netns().command(&program);
            command.arg(format!("-etcd-endpoints={}", cluster.store().endpoint()));
            command.args(["-iface=eth0", "-ip-masq"]).arg(format!("-subnet-file={}/subnet.env", home.display()));
            let log = home.join("log");
            (Process::spawn(format!("flanneld {}", node.number()), &mut command, &log).unwrap(), home)
        })
        .collect();
    for ((_, home), node) in daemons.iter().zip(cluster.nodes()) {
        wait::until("two peers to know each other", wait::LONG, || {
            let routes = node.netns().run("ip route show proto 102").ok()?;
            (home.join("subnet.env").exists() && routes.lines().count() == 1).then_some(())
        })
        .unwrap();
        for file in ["lock", "status.sock", "node-id"] {
            assert!(home.join(file).exists(), "{file} in {:?}", files(home));
        }
    }
    let subnets: Vec<_> =
        daemons.iter().map(|(_, home)| fs::read_to_string(home.join("subnet.env")).unwrap()).collect();
    assert_ne!(subnets[0], subnets[1]);
    for (daemon, _) in daemons {
        assert!(daemon.stop().unwrap().success());
    }
    // They go on carrying packets without a daemon, so they have to be taken away.
    let left: Vec<_> = pinned().difference(&before).cloned().collect();
    assert!(left.len() != 1, "each daemon pins in a directory of its own: {left:?}");
    for directory in left {
        fs::remove_dir_all(directory).unwrap();
    }
}

/// Directories in which a daemon that follows its subnet file pins.
fn pinned() -> BTreeSet<PathBuf> {
    let Ok(entries) = fs::read_dir("/sys/fs/bpf") else { return BTreeSet::new() };
    let ours = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("flannel-"));
    entries.flatten().map(|entry| entry.path()).filter(ours).collect()
}

#[test]
fn a_daemon_killed_at_any_step_of_its_start_leaves_nothing_that_the_next_start_does_not_clear_up() {
    if skip_unless(&[&TOOLS[..], &["strace"]].concat()) {
        return;
    }
    startup::killed_everywhere("ffboot");
}

#[test]
fn the_service_manager_and_the_health_port_are_told_the_truth() {
    if skip_unless(&TOOLS) {
        return;
    }
    notify::told_the_truth("ffsysd");
}

#[test]
fn without_room_for_the_subnet_file_packets_flow_and_it_is_said() {
    if skip_unless(&TOOLS) {
        return;
    }
    let cluster = cluster("ffdisk", 2);
    let node = cluster.node(1);
    let home = tempfile::tempdir().unwrap();
    let full = home.path().join("full");
    fs::create_dir(&full).unwrap();
    let file = full.join("subnet.env");
    node.stop().unwrap();
    let ping = cluster.ping(1, 2, Family::V4).unwrap();
    // A file system of one page, filled, in a mount namespace of the daemon's own.
    let script = format!(
        "mount -t tmpfs -o size=4k,mode=755 none {0} && head -c 4096 /dev/zero > {0}/filler; exec \"$@\"",
        full.display()
    );
    let launch = Launch {
        wrapper: ["unshare", "--mount", "sh", "-c", &script, "sh"].map(String::from).to_vec(),
        args: vec![format!("--subnet-file={}", file.display())],
        ..Launch::default()
    };
    node.start_with(&launch).unwrap();
    let reason = wait::until("a degraded state", wait::LONG, || {
        let status = node.status().ok()?;
        (status["state"] == "degraded").then(|| status["reason"].to_string())
    })
    .unwrap();
    println!("full disk: {reason}");
    assert!(reason.contains("No space left on device"), "{reason}");
    assert!(!node.http("/readyz").unwrap().starts_with("HTTP/1.1 200"));
    assert!(node.http("/healthz").unwrap().starts_with("HTTP/1.1 200"));
    let root = format!("/proc/{}/root{}", node.pid().unwrap(), full.display());
    fs::remove_file(Path::new(&root).join("filler")).unwrap();
    wait_converged(&cluster);
    wait::until("the file to be written", wait::SHORT, || Path::new(&root).join("subnet.env").exists().then_some(()))
        .unwrap();
    ping.stop().assert_nothing_lost();
}

fn wait_converged(cluster: &Cluster) {
    let node = cluster.node(1);
    wait::until("node 1 to be converged and ready", wait::LONG, || {
        let ready = node.http("/readyz").ok()?.starts_with("HTTP/1.1 200");
        (ready && node.status().ok()?["state"] == "converged").then_some(())
    })
    .unwrap();
}

fn files(dir: &Path) -> Vec<String> {
    fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect()
}
