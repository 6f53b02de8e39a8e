//! The verbs beside a Kubernetes source, and the daemon under flannel's name.

use std::os::unix::fs::symlink;

use xtask::lab::{Family, Netns, Ping, Process, flannel_ctl, run, skip_unless, wait};

use crate::site::{Site, TOOLS};

/// Runs a verb with the options of the site.
fn ask(site: &Site, verb: &[&str]) -> anyhow::Result<String> {
    let mut command = site.cluster.node(1).netns().command(flannel_ctl()?);
    run(command.args(verb).args(site.source_args()))
}

#[test]
fn verbs_see_what_the_daemon_sees_and_change_nothing() {
    if skip_unless(&TOOLS) {
        return;
    }
    let site = Site::start("fkverb", 2, &[Family::V4]);
    site.api.add_peer("outside", "10.99.0.0/24", "192.168.66.66", "46:82:fb:f7:52:66");
    let writes = || site.api.count("patch");
    let before = writes();
    let list = ask(&site, &["leases", "list"]).unwrap();
    for part in ["10.244.1.0/24", "10.244.2.0/24", "10.99.0.0/24", "not a subnet of the network", "fkverb2"] {
        assert!(list.contains(part), "{part}: {list}");
    }
    assert!(ask(&site, &["config", "show"]).unwrap().contains("10.244.0.0/16"));
    for verb in [["leases", "reserve", "10.244.7.0/24"], ["leases", "release", "10.244.2.0/24"]] {
        let error = ask(&site, &verb).unwrap_err().to_string();
        assert!(error.contains("kube-controller-manager"), "{error}");
    }
    let node = site.cluster.node(1);
    let peers = node.ctl(&["peers"]).unwrap();
    assert!(peers.contains("fkverb2") && !peers.contains("outside"), "{peers}");
    let status = node.status().unwrap().to_string();
    assert!(status.contains("10.99.0.0/24 is outside of the network"), "{status}");

    let told = |verb: &str| {
        let mut command = node.verb(&[verb, "--node-name", &site.name(1), "--iface", "eth0", "--ip-masq"]).unwrap();
        command.args(site.source_args());
        let output = command.output().unwrap();
        [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap()).concat()
    };
    let plan = told("plan");
    assert!(plan.contains("nothing") && !plan.contains("annotation"), "{plan}");
    let check = told("check");
    assert!(check.contains("answers, 3 nodes") && check.contains("its status may be patched"), "{check}");
    site.api.refuse("patch", "nodes/status");
    let check = told("check");
    assert!(check.contains("the verb patch on nodes/status"), "{check}");
    assert_eq!(writes(), before + 2, "both only asked whether they might");
    let dialled = "198.51.100.9";
    assert!(!check.contains(dialled), "{check}");
    site.api.annotate(&site.name(1), &[("node-public-ip", Some(dialled))]);
    let check = told("check");
    assert!(check.contains(&format!("peers dial {dialled}")), "as run would: {check}");
    site.assert_discreet();
}

#[test]
fn as_flanneld_with_flannels_own_words_and_devices() {
    if skip_unless(&TOOLS) {
        return;
    }
    let site = Site::prepare("fkname", 2, &[Family::V4]);
    let node = site.cluster.node(1);
    site.api.place_pod("kube-flannel", "ds-1", &site.name(1));
    // What flannel told of the device that a reboot took away.
    let mac = "46:82:fb:f7:52:99";
    site.api.annotate(
        &site.name(1),
        &[("backend-type", Some("vxlan")), ("backend-data", Some(&format!(r#"{{"VNI":1,"VtepMAC":"{mac}"}}"#)))],
    );
    let program = site.cluster.dir().join("flanneld");
    symlink(flannel_ctl().unwrap(), &program).unwrap();
    let mut command = node.netns().command(&program);
    command.args(["-kube-subnet-mgr", "-ip-masq", "-iface=eth0", "-healthz-ip=127.0.0.1", "-healthz-port=10256"]);
    let path = |name: &str| site.cluster.dir().join(name).display().to_string();
    command.arg(format!("-kubeconfig-file={}", path("kubeconfig")));
    command.args(["-kube-api-url", &site.api.url(), "-kube-annotation-prefix", "flannel.alpha.coreos.com"]);
    command.arg(format!("-net-config-path={}", path("net-conf.json")));
    command.arg(format!("-subnet-file={}", node.subnet_file().display()));
    command.arg(format!("-bpf-dir={}", node.bpf_dir().display()));
    command.arg("-set-node-network-unavailable=false");
    command.envs([("POD_NAME", "ds-1"), ("POD_NAMESPACE", "kube-flannel")]).env_remove("NODE_NAME");
    let daemon = Process::spawn("flanneld", &mut command, &node.log_file()).unwrap();
    node.wait_ready().unwrap_or_else(|error| panic!("{error:#}\n{}", node.log()));
    assert!(device(node.netns()).contains(mac), "{}", device(node.netns()));
    site.cluster.node(2).start().unwrap();
    site.cluster.node(2).wait_ready().unwrap();
    for node in site.cluster.nodes() {
        node.wire_pod().unwrap();
    }
    site.cluster.assert_whole();
    let told = site.api.node(&site.name(1)).unwrap()["status"]["conditions"].to_string();
    assert!(!told.contains("FlannelIsUp"), "{told}");
    drop(daemon);
}

fn device(netns: &Netns) -> String {
    netns.run("ip -o link show dev flannel.1").unwrap()
}

#[test]
fn another_range_and_hostile_nodes_cost_only_whom_they_concern() {
    if skip_unless(&TOOLS) {
        return;
    }
    let site = Site::start("fkbad", 3, &[Family::V4]);
    let ping: Ping = site.cluster.ping(1, 2, Family::V4).unwrap();
    let good = r#"{"VNI":1,"VtepMAC":"46:82:fb:f7:52:66"}"#;
    site.api.add_peer("thief", "10.244.2.0/24", "192.168.66.1", "46:82:fb:f7:52:61");
    site.api.add_peer("loop", "10.244.61.0/24", "127.0.0.1", "46:82:fb:f7:52:62");
    site.api.add_peer("wide", "10.244.0.0/17", "192.168.66.3", "46:82:fb:f7:52:63");
    site.api.add_peer("cast", "10.244.63.0/24", "192.168.66.4", "ff:ff:ff:ff:ff:ff");
    site.api.add_peer("deep", "10.244.64.0/24", "192.168.66.5", "46:82:fb:f7:52:65");
    site.api.annotate("deep", &[("backend-data", Some(&"[".repeat(3000)))]);
    site.api.add_peer("good", "10.244.66.0/24", "192.168.66.66", "46:82:fb:f7:52:00");
    site.api.annotate("good", &[("backend-data", Some(good))]);
    for number in [1, 2] {
        site.wait_peers(number, 3);
        let status = site.cluster.node(number).status().unwrap();
        let refused = status["leases"]["refused"].as_array().or(status["refused"].as_array());
        println!("{}", refused.map_or(0, Vec::len));
        let text = status.to_string();
        for name in ["node thief: its podCIDR", "loopback", "not a /24", "not the address of one interface"] {
            assert!(text.contains(name), "{name}: {status:#}");
        }
    }
    // The third node is registered anew, and gets another range.
    let third = site.cluster.node(3);
    site.api.set_cidrs(&site.name(3), &["10.244.33.0/24"]);
    wait::until("subnet.env to say so", wait::LONG, || {
        (third.subnet_env().ok()?.get("SUBNET") == Some("10.244.33.1/24")).then_some(())
    })
    .unwrap_or_else(|error| panic!("{error}: {}", third.log()));
    third.wire_pod().unwrap();
    site.cluster.assert_whole();
    ping.more(100).unwrap();
    let report = ping.stop();
    println!("{report}");
    report.assert_nothing_lost();
}
