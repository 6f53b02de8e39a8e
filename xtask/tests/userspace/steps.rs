//! Kernels that lack what helps: the same octets arrive, by more calls.

use std::path::Path;

use serde_json::Value;
use xtask::lab::{Cluster, Family, Launch, Node, flannel_ctl, run, skip_unless, transfer, wait};

use crate::{
    TOOLS,
    site::{cluster, count, launch},
};

const OCTETS: usize = 4 << 20;
/// In the order of output.
const ALL: [&str; 6] = ["tso", "uso", "udp_gso", "udp_gro", "batches", "multi_queue"];
/// `UDP_SEGMENT` and `UDP_GRO` at level `SOL_UDP`; the flags of `TUNSETOFFLOAD` for UDP, and all of them.
const SEGMENT: &str = "setsockopt:17:103=ENOPROTOOPT";
const GRO: &str = "setsockopt:17:104=ENOPROTOOPT";
const USO: &str = "ioctl:0x400454d0:0x60=EINVAL";
const OFFLOAD: &str = "ioctl:0x400454d0:0x7f=EINVAL";
const SEND: &str = "sendmmsg=ENOSYS";
const RECEIVE: &str = "recvmmsg=EPERM";

fn wrapper(rules: &[&str]) -> Vec<String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/userspace/refuse.py");
    let mut words = vec!["python3".to_owned(), script.display().to_string()];
    words.extend(rules.iter().chain([&"--"]).map(ToString::to_string));
    words
}

/// What `check` says of it.
fn checked(cluster: &Cluster, node: &Node, rules: &[&str]) -> String {
    let words = wrapper(rules);
    let mut command = node.netns().command(&words[0]);
    command.args(&words[1..]).arg(flannel_ctl().unwrap());
    command.args(["check", "--datapath", "userspace", "--iface", "eth0", "--output", "json"]);
    command.arg("--run-dir").arg(node.run_dir()).arg("--state-dir").arg(node.state_dir());
    command.args(["--etcd-endpoints", &cluster.store().endpoint()]);
    let output = command.output().unwrap();
    let findings: Value = serde_json::from_slice(&output.stdout).unwrap();
    let finding = findings.as_array().unwrap().iter().find(|finding| finding["name"] == "userspace offloads");
    finding.unwrap_or_else(|| panic!("{findings:#}"))["detail"].as_str().unwrap().to_owned()
}

fn carries(cluster: &Cluster) {
    let [one, two] = [1, 2].map(|number| cluster.node(number).pod());
    for family in [Family::V4, Family::V6] {
        transfer(one.netns(), two.netns(), two.address(family).unwrap(), OCTETS).unwrap();
        transfer(two.netns(), one.netns(), one.address(family).unwrap(), OCTETS).unwrap();
    }
}

#[test]
fn what_this_kernel_lacks_is_found_out_told_and_done_without() {
    if skip_unless(&[&TOOLS[..], &["python3"]].concat()) {
        return;
    }
    let cluster = cluster("usstep", &["userspace", "vxlan"]);
    let node = cluster.node(1);
    for (rules, missing) in [
        (&[][..], &[][..]),
        (&[SEGMENT], &["udp_gso"]),
        (&[GRO], &["udp_gro"]),
        (&[USO], &["uso"]),
        (&[SEND], &["batches"]),
        (&[SEGMENT, GRO, SEND], &["udp_gso", "udp_gro", "batches"]),
        (&[SEGMENT, GRO, OFFLOAD, RECEIVE], &["tso", "uso", "udp_gso", "udp_gro", "batches"]),
    ] {
        node.stop().unwrap();
        node.start_with(&Launch { wrapper: wrapper(rules), ..launch("userspace") }).unwrap();
        node.wait_ready().unwrap();
        node.wait_converged().unwrap();
        carries(&cluster);
        let engine = node.status().unwrap()["userspace"][0].clone();
        assert_eq!(engine["missing"], serde_json::json!(missing), "{rules:?}: {engine:#}");
        let told = checked(&cluster, node, rules);
        let on = ALL.iter().filter(|name| !missing.contains(name)).copied().collect::<Vec<_>>().join(" ");
        let not = if missing.is_empty() { String::new() } else { format!("; not {}", missing.join(" ")) };
        assert!(told.starts_with(&format!("{on}{not} (")), "{rules:?}: {told}");
        if rules == [SEGMENT] {
            // Something to mend, so that the loop turns and reads the counters.
            node.netns().run("ip route flush proto 102").unwrap();
            let count = |what: &str| count(node, Family::V4, what);
            wait::until("packets to be counted", wait::LONG, || (count("sent_packets") > 1000).then_some(())).unwrap();
            assert!(count("sent_calls") * 2 < count("sent_packets"), "several packets to a call");
        }
    }

    // A device from before: whoever made it did not think of several queues.
    node.stop().unwrap();
    for device in ["flannel.1", "flannel-v6.1"] {
        node.netns().run(&format!("ip link delete {device}")).unwrap();
        run(node.netns().command("ip").args(["tuntap", "add", device, "mode", "tun", "vnet_hdr"])).unwrap();
    }
    node.start_with(&launch("userspace")).unwrap();
    node.wait_ready().unwrap();
    node.wait_converged().unwrap();
    carries(&cluster);
    let engine = node.status().unwrap()["userspace"][0].clone();
    assert_eq!(engine["missing"], serde_json::json!(["multi_queue"]), "{engine:#}");
}
