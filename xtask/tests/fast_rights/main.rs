//! lane: bpf
//!
//! What the fast path needs of rights and of the kernel, and what a node does that has less.
#![expect(clippy::unwrap_used, reason = "a test's helper functions are tests too")]

mod seccomp;

#[path = "../fast_life/pins.rs"]
#[expect(dead_code, reason = "what else is seen of pins is for others")]
mod pins;

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown},
    path::{Path, PathBuf},
};

use pins::{EGRESS_FAST, INGRESS_FAST, count, links};
use xtask::lab::{Cluster, Family, Launch, Node, flannel_ctl, run, skip_unless, wait};

const TOOLS: [&str; 5] = ["ip", "nft", "bpftool", "setpriv", "strace"];
const NOBODY: u32 = 65534;

/// Nodes whose daemons are started by the test.
fn cluster(prefix: &str) -> Cluster {
    let cluster = Cluster::builder(prefix).nodes(2).prepare().unwrap();
    cluster.node(2).start().unwrap();
    cluster.node(2).wait_ready().unwrap();
    cluster
}

/// A copy of the binary that everybody may run.
fn copy(directory: &Path) -> PathBuf {
    let copy = directory.join("flannel-ctl");
    fs::copy(flannel_ctl().unwrap(), &copy).unwrap();
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(directory, fs::Permissions::from_mode(0o755)).unwrap();
    copy
}

/// As a user without rights, but for these capabilities.
fn nobody(copy: &Path, capabilities: &str) -> Launch {
    let script = format!(
        "shift; exec setpriv --reuid {NOBODY} --regid {NOBODY} --clear-groups --no-new-privs \
         --inh-caps=-all,{capabilities} --ambient-caps=-all,{capabilities} --bounding-set=-all,{capabilities} \
         {} \"$@\"",
        copy.display()
    );
    Launch { wrapper: ["sh", "-c", &script, "sh"].map(String::from).to_vec(), ..Launch::default() }
}

/// What somebody with all rights does once, for a daemon that has none.
fn prepare_for_nobody(cluster: &Cluster, node: &Node) {
    fs::set_permissions(cluster.dir(), fs::Permissions::from_mode(0o711)).unwrap();
    for directory in [&node.run_dir(), &node.state_dir(), node.bpf_dir()] {
        fs::create_dir_all(directory).unwrap();
        chown(directory, Some(NOBODY), Some(NOBODY)).unwrap();
    }
}

fn start(node: &Node, launch: &Launch) {
    node.start_with(launch).unwrap();
    node.wait_ready().unwrap();
    wait::until("the node to be converged", wait::LONG, || (node.status().ok()?["state"] == "converged").then_some(()))
        .unwrap_or_else(|error| panic!("{error}: {:#}", node.status().unwrap()));
}

fn datapath(node: &Node) -> (String, String) {
    let status = node.status().unwrap();
    ["kind", "why"].map(|field| status["datapath"][field].as_str().unwrap().to_owned()).into()
}

fn wire(cluster: &Cluster) {
    for node in cluster.nodes() {
        node.wire_pod().unwrap();
        node.netns().settle("cni0").unwrap();
        node.pod().netns().settle("eth0").unwrap();
    }
    cluster.assert_whole();
}

#[test]
fn two_capabilities_are_enough_and_without_one_of_them_it_is_the_kernel_path() {
    if skip_unless(&TOOLS) {
        return;
    }
    let cluster = cluster("pxrights");
    let node = cluster.node(1);
    let directory = tempfile::tempdir().unwrap();
    let copy = copy(directory.path());
    prepare_for_nobody(&cluster, node);
    start(node, &nobody(&copy, "+net_admin,+bpf"));
    let status = fs::read_to_string(format!("/proc/{}/status", node.pid().unwrap())).unwrap();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap().trim();
    // CAP_NET_ADMIN is 12, CAP_BPF 39.
    assert_eq!(u64::from_str_radix(effective, 16).unwrap(), 1 << 12 | 1 << 39);
    assert_eq!(datapath(node).0, "ebpf", "{:?}", datapath(node));
    wire(&cluster);
    wait::until("the pod's attachments", wait::LONG, || (links(node).len() == 5).then_some(())).unwrap();
    for link in links(node).keys() {
        assert_eq!(fs::metadata(node.bpf_dir().join(link)).unwrap().uid(), NOBODY, "{link}");
    }
    let server = cluster.node(2).pod();
    let address = server.address(Family::V4).unwrap();
    let datagrams = datagrams::Datagrams::start(node.pod().netns(), server.netns(), address);
    for slot in [EGRESS_FAST, INGRESS_FAST] {
        let goal = count(node, slot) + 200;
        wait::until("the fast path to carry packets", wait::LONG, || (count(node, slot) >= goal).then_some(()))
            .unwrap();
    }
    node.kill().unwrap();
    start(node, &nobody(&copy, "+net_admin,+bpf"));
    assert_eq!(links(node).len(), 5);

    node.stop().unwrap();
    start(node, &nobody(&copy, "+net_admin"));
    let (kind, why) = datapath(node);
    assert_eq!(kind, "vxlan");
    assert!(why.contains("Operation not permitted") && why.contains("CAP_BPF"), "{why}");
    assert!(links(node).is_empty());
    let (sent, received) = datagrams.stop();
    assert_eq!(sent, received, "datagrams were lost");
}

#[path = "../fast_life/traffic.rs"]
#[expect(dead_code, reason = "the pings and the stream are for others")]
mod datagrams;
#[path = "../life/stream.rs"]
mod stream;

#[test]
fn behind_a_seccomp_filter_a_node_is_on_the_kernel_path_and_says_why() {
    if skip_unless(&TOOLS) {
        return;
    }
    let cluster = cluster("pxfence");
    seccomp::refused(&cluster);
}

/// The kernel's refusal, and words of the line that tells of it.
#[test]
fn a_kernel_that_refuses_bpf_leaves_a_node_on_the_kernel_path_that_says_why() {
    if skip_unless(&TOOLS) {
        return;
    }
    let cluster = cluster("pxrefuse");
    let node = cluster.node(1);
    start(node, &Launch::default());
    wire(&cluster);
    assert_eq!(datapath(node).0, "ebpf", "{:?}", datapath(node));
    let ping = cluster.ping(1, 2, Family::V4).unwrap();
    for (error, words) in [
        ("ENOSYS", "built without BPF"),
        ("EPERM", "needs CAP_BPF and CAP_NET_ADMIN"),
        ("E2BIG", "too old"),
        ("ENOMEM", "--max-flows"),
    ] {
        node.stop().unwrap();
        let before = node.log().len();
        let wrapper = format!("strace -f -qqq -o /dev/null -e trace=bpf -e inject=bpf:error={error}");
        start(node, &Launch { wrapper: wrapper.split(' ').map(String::from).collect(), ..Launch::default() });
        let (kind, why) = datapath(node);
        println!("{error}: {why}");
        assert_eq!(kind, "vxlan");
        assert!(why.starts_with("no BPF fast path: ") && why.contains(words), "{error}: {why}");
        assert!(!why.contains('\n') && why.len() < 400, "{why}");
        let log = node.log()[before..].to_owned();
        let said: Vec<_> = log.lines().filter(|line| line.contains(" WARN ") || line.contains("ERROR")).collect();
        assert_eq!(said.len(), 1, "{said:#?}");
        assert!(said[0].contains("no fast path") && said[0].contains(words), "{said:?}");
        assert!(links(node).is_empty());
        // strace ends with its child; signalled first it would leave it.
        let pid = node.netns().run(&format!("pgrep -P {}", node.pid().unwrap())).unwrap();
        run(std::process::Command::new("kill").arg(pid.trim())).unwrap();
        assert!(node.wait_end(wait::SHORT).unwrap().success());
        start(node, &Launch::default());
        assert_eq!(datapath(node).0, "ebpf", "{:?}", datapath(node));
    }
    // Somebody else's directory, and one that is no BPF file system and cannot become one.
    let directory = tempfile::tempdir().unwrap();
    let theirs = Path::new("/sys/fs/bpf/pxrefuse-theirs");
    fs::create_dir_all(theirs).unwrap();
    chown(theirs, Some(NOBODY), None).unwrap();
    for (place, words) in [(theirs, "belongs to user 65534"), (Path::new("/proc/flannel"), "make /proc/flannel")] {
        node.stop().unwrap();
        let args = vec!["--bpf-dir".to_owned(), place.display().to_string()];
        start(node, &Launch { args, ..Launch::default() });
        let (kind, why) = datapath(node);
        println!("{}: {why}", place.display());
        assert!(kind == "vxlan" && why.contains(words), "{kind}: {why}");
    }
    fs::remove_dir(theirs).unwrap();
    drop(directory);
    ping.stop().assert_nothing_lost();
}
