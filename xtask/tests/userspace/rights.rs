//! With CAP_NET_ADMIN alone, and without any root that counts.

use std::{
    fs,
    net::IpAddr,
    os::unix::fs::{PermissionsExt as _, chown},
    path::{Path, PathBuf},
};

use xtask::lab::{
    Cluster, Family, Launch, Netns, Node, Ping, Process, SubnetEnv, flannel_ctl, run, skip_unless, transfer, wait,
};

use crate::{TOOLS, site::launch};

const NOBODY: u32 = 65534;
const OCTETS: usize = 2 << 20;
/// A device node that everybody may open, in a mount namespace of its own: on this machine root alone may.
const OPEN_TUN: &str =
    "mount -t tmpfs tmpfs /mnt && mknod -m 666 /mnt/tun c 10 200 && mount --bind /mnt/tun /dev/net/tun";
const AS_NOBODY: &str = "setpriv --reuid 65534 --regid 65534 --clear-groups --no-new-privs";

/// A copy of the binary that everybody may run.
fn copy(directory: &Path) -> PathBuf {
    let copy = directory.join("flannel-ctl");
    fs::copy(flannel_ctl().unwrap(), &copy).unwrap();
    for path in [&copy, directory] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    copy
}

/// What somebody with all rights does once.
fn prepare(cluster: &Cluster, directories: &[&Path]) {
    fs::set_permissions(cluster.dir(), fs::Permissions::from_mode(0o711)).unwrap();
    for directory in directories {
        fs::create_dir_all(directory).unwrap();
        chown(*directory, Some(NOBODY), Some(NOBODY)).unwrap();
    }
}

fn effective(node: &Node) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", node.pid().unwrap())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap();
    u64::from_str_radix(line.trim(), 16).unwrap()
}

#[test]
fn the_right_to_change_the_network_is_enough() {
    if skip_unless(&[&TOOLS[..], &["setpriv", "unshare"]].concat()) {
        return;
    }
    let cluster = Cluster::builder("usright").nodes(2).dual_stack().prepare().unwrap();
    cluster.node(2).start_with(&launch("vxlan")).unwrap();
    cluster.node(2).wait_ready().unwrap();
    let node = cluster.node(1);
    let directory = tempfile::tempdir().unwrap();
    let copy = copy(directory.path());
    prepare(&cluster, &[&node.run_dir(), &node.state_dir(), node.bpf_dir()]);
    let script = format!(
        "shift; {OPEN_TUN} && exec {AS_NOBODY} --inh-caps=-all,+net_admin --ambient-caps=-all,+net_admin \
         --bounding-set=-all,+net_admin {} \"$@\"",
        copy.display()
    );
    let wrapper = ["unshare", "-m", "sh", "-c", &script, "sh"].map(String::from).to_vec();
    node.start_with(&Launch { wrapper, ..launch("userspace") }).unwrap();
    node.wait_ready().unwrap();
    node.wait_converged().unwrap();
    // CAP_NET_ADMIN is 12.
    assert_eq!(effective(node), 1 << 12);
    for node in cluster.nodes() {
        node.wire_pod().unwrap();
        node.netns().settle("cni0").unwrap();
        node.pod().netns().settle("eth0").unwrap();
    }
    cluster.assert_whole();
    let [one, two] = [1, 2].map(|number| cluster.node(number).pod());
    for family in [Family::V4, Family::V6] {
        transfer(one.netns(), two.netns(), two.address(family).unwrap(), OCTETS).unwrap();
        transfer(two.netns(), one.netns(), one.address(family).unwrap(), OCTETS).unwrap();
    }
    let status = node.status().unwrap();
    assert_eq!(status["userspace"][0]["missing"], serde_json::json!([]), "{status:#}");
}

/// A node whose root is root of a user namespace alone.
struct Rootless {
    netns: Netns,
    /// Holds user and network namespace.
    holder: Process,
    directory: PathBuf,
    daemon: Option<Process>,
}

impl Rootless {
    fn start(cluster: &Cluster, name: &str) -> Self {
        let directory = cluster.dir().join(name);
        prepare(cluster, &[&directory]);
        let log = directory.join("holder.log");
        let mut command = std::process::Command::new("unshare");
        let script = format!("{OPEN_TUN}; exec {AS_NOBODY} unshare -Urn sh -c 'echo in; exec sleep 600'");
        let holder = Process::spawn("the user namespace", command.args(["-m", "sh", "-c", &script]), &log).unwrap();
        wait::until("the user namespace", wait::LONG, || holder.log().contains("in").then_some(()))
            .unwrap_or_else(|error| panic!("{error}: {}", holder.log()));
        let netns = Netns::attach(name, holder.pid()).unwrap();
        cluster.underlay().plug(&netns, 9).unwrap();
        netns.settle("eth0").unwrap();
        Self { netns, holder, directory, daemon: None }
    }

    /// With a device node that it may open, or the machine's.
    fn daemon(&mut self, copy: &Path, endpoint: &str, open: bool) {
        let holder = self.holder.pid();
        let mounts = if open { format!("nsenter -t {holder} -m --") } else { String::new() };
        let script = format!(
            "exec {mounts} {AS_NOBODY} nsenter -t {holder} -U -n --preserve-credentials {} run --datapath userspace \
             --ip-masq --etcd-endpoints {endpoint} --iface eth0 --node-name rootless --run-dir {dir}/run \
             --state-dir {dir}/state --subnet-file {dir}/run/subnet.env --bpf-dir {dir}/bpf",
            copy.display(),
            dir = self.directory.display(),
        );
        let mut command = std::process::Command::new("sh");
        let log = self.directory.join(format!("daemon-{open}.log"));
        self.daemon = Some(Process::spawn("the rootless daemon", command.args(["-c", &script]), &log).unwrap());
    }

    fn log(&self) -> String {
        self.daemon.as_ref().map(Process::log).unwrap_or_default()
    }

    fn ctl(&self, copy: &Path, verb: &str) -> Option<String> {
        run(std::process::Command::new(copy).arg(verb).arg("--run-dir").arg(self.directory.join("run"))).ok()
    }
}

#[test]
fn a_user_namespace_without_real_root_is_enough() {
    if skip_unless(&[&TOOLS[..], &["setpriv", "unshare", "nsenter"]].concat()) {
        return;
    }
    let cluster = Cluster::builder("usless").nodes(1).launches(vec![launch("vxlan")]).start().unwrap();
    cluster.node(1).wait_converged().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let copy = copy(directory.path());
    let mut rootless = Rootless::start(&cluster, "usless9");

    // The machine's own device node, which is root's, says what is missing.
    if fs::metadata("/dev/net/tun").unwrap().permissions().mode() & 0o006 == 0 {
        rootless.daemon(&copy, &cluster.store().endpoint(), false);
        wait::until("the reason to be told", wait::LONG, || {
            rootless.log().contains("access to /dev/net/tun").then_some(())
        })
        .unwrap_or_else(|error| panic!("{error}: {}", rootless.log()));
        rootless.daemon.take().unwrap().stop().unwrap();
    }

    rootless.daemon(&copy, &cluster.store().endpoint(), true);
    wait::until("the rootless node to be converged", wait::LONG, || rootless.ctl(&copy, "status").map(drop))
        .unwrap_or_else(|error| panic!("{error}: {}", rootless.log()));
    let shown = rootless.ctl(&copy, "status").unwrap();
    assert!(shown.contains("userspace") && shown.contains("udp_gso"), "{shown}");
    let env = SubnetEnv::read(&rootless.directory.join("run/subnet.env")).unwrap();
    let base = env.subnet(Family::V4).unwrap().replace(".1/24", ".0");
    let own: IpAddr = base.parse().unwrap();
    let pod = cluster.node(1).pod();
    let there = pod.address(Family::V4).unwrap();
    Ping::until_answered(&rootless.netns, there).unwrap();
    transfer(&rootless.netns, pod.netns(), there, OCTETS).unwrap();
    transfer(pod.netns(), &rootless.netns, own, OCTETS).unwrap();
    let device = rootless.netns.run("ip link show flannel.1").unwrap();
    assert!(device.contains("qlen 2000"), "{device}");
    let rules = rootless.netns.run("nft list ruleset").unwrap();
    assert!(rules.contains("flannel-ctl") && rules.contains("masquerade"), "{rules}");
    assert!(!rootless.log().contains("ERROR"), "{}", rootless.log());
}
