//! The verbs beside a real API server, and the daemon under flannel's name.

use std::os::unix::fs::symlink;

use xtask::lab::{Family, Process, flannel_ctl, run, wait};

use crate::site::{Site, skip, source_args};

#[test]
fn verbs_see_what_the_daemon_sees_and_change_nothing() {
    if skip() {
        return;
    }
    let site = Site::start("rkverb", 2, &[Family::V4]);
    site.ghost("outside", "10.99.0.0/24", "192.168.66.66", "46:82:fb:f7:52:66");
    let node = site.cluster.node(2);
    let ask = |verb: &[&str]| {
        let mut command = node.netns().command(flannel_ctl().unwrap());
        run(command.args(verb).args(source_args(site.cluster.dir())))
    };
    let list = ask(&["leases", "list"]).unwrap();
    for part in ["10.244.0.0/24", "10.244.1.0/24", "10.99.0.0/24", "not a subnet of the network", "rkverb1"] {
        assert!(list.contains(part), "{part}: {list}");
    }
    assert!(ask(&["config", "show"]).unwrap().contains("10.244.0.0/16"));
    for verb in [["leases", "reserve", "10.244.7.0/24"], ["leases", "release", "10.244.0.0/24"]] {
        let error = ask(&verb).unwrap_err().to_string();
        assert!(error.contains("kube-controller-manager"), "{error}");
    }
    wait::until("the refused node", wait::LONG, || {
        node.status().ok()?.to_string().contains("10.99.0.0/24 is outside of the network").then_some(())
    })
    .unwrap();
    let peers = node.ctl(&["peers"]).unwrap();
    assert!(peers.contains("rkverb1") && !peers.contains("outside"), "{peers}");
    println!("{peers}\n{}", node.ctl(&["status"]).unwrap());

    let version = || site.server.get(&["node", &site.name(2)]).unwrap()["metadata"]["resourceVersion"].clone();
    let before = version();
    let told = |verb: &str| {
        let mut command = node.verb(&[verb, "--node-name", &site.name(2), "--iface", "eth0", "--ip-masq"]).unwrap();
        command.args(source_args(site.cluster.dir()));
        let output = command.output().unwrap();
        [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap()).concat()
    };
    let plan = told("plan");
    assert!(plan.contains("nothing") && !plan.contains("annotation"), "{plan}");
    let check = told("check");
    assert!(check.contains("answers, 3 nodes") && check.contains("its status may be patched"), "{check}");
    println!("{plan}\n{check}");
    assert_eq!(version(), before, "both only asked");
}

#[test]
fn as_flanneld_with_flannels_own_words() {
    if skip() {
        return;
    }
    let site = Site::prepare("rkname", 2, &[Family::V4]);
    let node = site.cluster.node(2);
    // Only its pod says which node this is, as in flannel's own manifest, whose role has one right more.
    site.server.kubectl(&["create", "clusterrole", "pods", "--verb=get", "--resource=pods"]).unwrap();
    site.server.kubectl(&["create", "clusterrolebinding", "pods", "--clusterrole=pods", "--user=daemon"]).unwrap();
    let pod = serde_json::json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "ds-1", "namespace": "flannel-ctl"},
        "spec": {"nodeName": site.name(2), "hostNetwork": true, "containers": [{"name": "x", "image": "x"}]}});
    wait::until("the pod to be taken", wait::LONG, || site.server.fed(&["create", "-f", "-"], &pod.to_string()).ok())
        .unwrap();
    let program = site.cluster.dir().join("flanneld");
    symlink(flannel_ctl().unwrap(), &program).unwrap();
    let path = |name: &str| site.cluster.dir().join(name).display().to_string();
    let mut command = node.netns().command(&program);
    command.args(["-kube-subnet-mgr", "-ip-masq", "-iface=eth0", "-healthz-ip=127.0.0.1", "-healthz-port=10256"]);
    command.arg(format!("-kubeconfig-file={}", path("kubeconfig")));
    command.arg(format!("-net-config-path={}", path("net-conf.json")));
    command.arg(format!("-subnet-file={}", node.subnet_file().display()));
    command.arg(format!("-bpf-dir={}", node.bpf_dir().display()));
    command.envs([("POD_NAME", "ds-1"), ("POD_NAMESPACE", "flannel-ctl")]).env_remove("NODE_NAME");
    let daemon = Process::spawn("flanneld", &mut command, &node.log_file()).unwrap();
    node.wait_ready().unwrap_or_else(|error| panic!("{error:#}\n{}", node.log()));
    site.cluster.node(1).start().unwrap();
    site.cluster.node(1).wait_ready().unwrap();
    for node in site.cluster.nodes() {
        node.wire_pod().unwrap();
    }
    site.cluster.assert_whole();
    drop(daemon);
}
