//! lane: e2e
//!
//! Whoever may write to etcd writes nonsense into it, while three good nodes run under a 1 ms ping: the process
//! lives, nobody else's kernel state changes by a byte, no packet is lost, every lease is refused by name with one
//! line in the log, and nothing of it is left once it is deleted.
#![expect(clippy::unwrap_used, reason = "a test's helper functions are tests too")]

use std::{collections::BTreeMap, fs, thread, time::Duration};

use serde_json::{Value, json};
use xtask::lab::{
    Cluster, Dump, Etcd, EtcdCluster, EtcdOptions, Family, Stopwatch, cpu_time, plain_vxlan, skip_unless, stranger,
    wait,
};

const TOOLS: [&str; 4] = ["ip", "nft", "etcd", "etcdctl"];
const SOON: Duration = Duration::from_secs(10);

/// Key, value, and a part of the reason for which node 1 refuses it.
struct Case(String, Vec<u8>, &'static str);

fn good(change: impl Fn(&mut Value)) -> Vec<u8> {
    let mut value = serde_json::from_str(&stranger(250)).unwrap();
    change(&mut value);
    value.to_string().into_bytes()
}

/// Keys that no lease of this network may have, each with a value that would be fine.
fn bad_keys(own: &str, peer: &str) -> Vec<Case> {
    let half = |key: &str| key.replace("-24", "-25");
    let other_half = |key: &str| key.replace(".0-24", ".128-25");
    let escape = "10.244.229.0-24\u{1b}[31m\u{7}red\u{202e}";
    let long = format!("10.244.229.0-24{}", "x".repeat(4096));
    let cases = [
        ("0.0.0.0-0", "outside of the network"),
        ("10.244.0.0-16", "subnet length"),
        ("10.0.0.0-8", "outside of the network"),
        ("192.168.77.0-24", "outside of the network"),
        ("192.168.0.0-16", "outside of the network"),
        ("192.168.255.254-32", "outside of the network"),
        ("127.0.0.0-8", "outside of the network"),
        ("224.0.0.0-4", "outside of the network"),
        ("255.255.255.255-32", "outside of the network"),
        (&half(own), "subnet length"),
        (&other_half(own), "subnet length"),
        (&half(peer), "subnet length"),
        (&other_half(peer), "subnet length"),
        ("10.244.229.77-24", "bits set beyond"),
        ("10.244.229.0-33", "the key is not of the form"),
        ("10.244.229.0-24-24", "the key is not of the form"),
        ("010.244.229.0-24", "the key is not of the form"),
        ("10.244.229.0--1", "the key is not of the form"),
        ("10.244.229.0-\u{662}\u{664}", "the key is not of the form"),
        ("../config", "the key is not of the form"),
        ("", "the key is not of the form"),
        ("fd10:244::-64", "no range of a family"),
        ("10.244.229.0-24&zz", "the key is not of the form"),
        ("10.244.229.0-24&fd10:244::1-64", "bits set beyond"),
        (escape, "the key is not of the form"),
        (&long, "longer than"),
    ];
    cases.into_iter().map(|(key, reason)| Case(key.to_owned(), good(|_| ()), reason)).collect()
}

/// Values that are no lease, and claims that cannot be true.
fn bad_values(own_mac: &str, peer_mac: &str) -> Vec<(Vec<u8>, &'static str)> {
    let mut cases: Vec<(Vec<u8>, &'static str)> = Vec::new();
    for text in ["{{{{", "[1,2]", "\"x\"", "7", "null", "{}", "NaN", "{\"PublicIP\":1e400}", "\u{0}\u{0}"] {
        cases.push((text.into(), "the value is not a lease"));
    }
    cases.push((br#"{"PublicIP":"192.168.100.250","PublicIP":"192.168.100.251"}"#.into(), "not a lease"));
    cases.push((br#"{"PublicIP":"192.168.100.250","NodeName":"\ud800"}"#.into(), "not a lease"));
    cases.push(([b"{\"PublicIP\":\"\xff\xfe\"}".as_slice()].concat(), "not a lease"));
    cases.push((Vec::new(), "is empty"));
    cases.push(([vec![b'['; 20_000], vec![b']'; 20_000]].concat(), "longer than"));
    cases.push(([vec![b'['; 1500], vec![b']'; 1500]].concat(), "nested deeper"));
    cases.push((good(|value| value["Pad"] = "x".repeat(900_000).into()), "longer than"));
    for ip in ["127.0.0.1", "0.0.0.0", "224.0.0.1", "255.255.255.255", "169.254.7.7", "240.0.0.1", "10.244.3.4"] {
        cases.push((good(|value| value["PublicIP"] = ip.into()), "cannot be a node's public address"));
    }
    for ip in [json!("999.1.1.1"), json!("10.0.0.1 "), json!(7), json!("fd00::1"), json!(null)] {
        cases.push((good(|value| value["PublicIP"] = ip.clone()), "not a lease"));
    }
    for data in [json!(null), json!("x"), json!([1]), json!({}), json!({"VNI": 1})] {
        cases.push((good(|value| value["BackendData"] = data.clone()), ""));
    }
    for vni in [json!(99), json!(-1), json!(4_294_967_295_u32), json!(16_777_216), json!(1.5), json!("1")] {
        cases.push((good(|value| value["BackendData"]["VNI"] = vni.clone()), "VNI"));
    }
    for mac in ["01:00:5e:00:00:01", "ff:ff:ff:ff:ff:ff", "00:00:00:00:00:00", "06:00", "zz:zz:zz:zz:zz:zz"] {
        cases.push((good(|value| value["BackendData"]["VtepMAC"] = mac.into()), "VtepMAC"));
    }
    cases.push((good(|value| value["BackendData"]["VtepMAC"] = own_mac.into()), "is our own"));
    cases.push((good(|value| value["BackendData"]["VtepMAC"] = peer_mac.into()), "which came first"));
    cases.push((good(|value| value["BackendType"] = "host-gw".into()), "BackendType"));
    cases.push((good(|value| value["BackendType"] = "\u{1b}]0;owned\u{7}".into()), "BackendType"));
    cases
}

fn dumps(lab: &EtcdCluster) -> Vec<Dump> {
    lab.cluster.nodes().iter().map(|node| Dump::of(node.netns()).unwrap()).collect()
}

fn mac_of(lab: &EtcdCluster, key: &str) -> String {
    let value: Value = serde_json::from_str(&lab.ctl().lease(key).unwrap().unwrap()).unwrap();
    value["BackendData"]["VtepMAC"].as_str().unwrap().to_owned()
}

fn refusals(status: &Value) -> BTreeMap<String, String> {
    let list = status["refused"].as_array().unwrap();
    let text = |entry: &Value, field: &str| entry[field].as_str().unwrap().to_owned();
    list.iter().map(|entry| (text(entry, "key"), text(entry, "reason"))).collect()
}

fn wait_refused(lab: &EtcdCluster, count: usize) {
    for node in 1..=lab.cluster.nodes().len() {
        let all = |status: &Value| status["peers"]["refused"] == count;
        lab.wait_status(node, &format!("{count} leases to be refused"), SOON, all).unwrap();
    }
}

#[test]
fn nonsense_in_etcd_harms_nobody() {
    if skip_unless(&TOOLS) {
        return;
    }
    let lab = EtcdCluster::start(Cluster::builder("fcbad").nodes(3), 1, EtcdOptions::default()).unwrap();
    let pings = [(1, 2), (2, 3)].map(|(from, to)| lab.cluster.ping(from, to, Family::V4).unwrap());
    let (own, peer) = (lab.own_key(1).unwrap(), lab.own_key(2).unwrap());
    let before = dumps(&lab);
    let mut cases = bad_keys(&own, &peer);
    let values = bad_values(&mac_of(&lab, &own), &mac_of(&lab, &peer));
    let free = lab.free_keys().unwrap();
    let on_good_keys = free.into_iter().zip(values).map(|(key, (value, reason))| Case(key, value, reason));
    cases.extend(on_good_keys);
    // An empty value without an etcd lease is a reservation, and refused by nobody.
    let (lease, reserved): (Vec<_>, Vec<_>) = cases.into_iter().partition(|case| !case.1.is_empty());
    for Case(key, value, _) in lease.iter().chain(&reserved) {
        lab.ctl().put(key, value).unwrap();
    }
    wait_refused(&lab, lease.len());
    let status = lab.cluster.node(1).status().unwrap();
    let refused = refusals(&status);
    assert_eq!(refused.len(), lease.len(), "{status:#}");
    for Case(key, value, reason) in &lease {
        let shown: String = key.chars().flat_map(char::escape_debug).take(40).collect();
        let value: String = String::from_utf8_lossy(value).chars().take(80).collect();
        let found = refused.iter().find(|(k, _)| **k == shown || (shown.len() == 40 && k.starts_with(&shown)));
        let (_, said) = found.unwrap_or_else(|| panic!("{key:?} is not in {refused:#?}"));
        assert!(said.contains(reason), "{key:.60} {value}: expected {reason:?}, refused because {said:?}");
    }
    assert_eq!(dumps(&lab), before, "nobody's kernel state has changed");
    // Said once: a second writing of the same is no news, and a flood is cut short.
    for Case(key, value, _) in &lease {
        lab.ctl().put(key, value).unwrap();
    }
    lab.ctl().put("sentinel", b"x").unwrap();
    wait_refused(&lab, lease.len() + 1);
    for node in lab.cluster.nodes() {
        let log = node.log();
        let mut said = BTreeMap::<&str, usize>::new();
        for line in log.lines().filter(|line| line.contains("refused a lease")) {
            let key = line.split("key=").nth(1).unwrap().split(" reason=").next().unwrap();
            *said.entry(key).or_default() += 1;
        }
        assert!(said.len() >= 15 && said.values().all(|count| *count == 1), "{said:#?}");
        assert!(log.contains("more leases are refused than are logged"), "{log}");
        let shown = [log, node.ctl(&["status"]).unwrap_or_else(|error| format!("{error:#}"))].concat();
        let control = shown.chars().find(|c| c.is_control() && *c != '\n' && *c != '\t');
        assert_eq!(control, None, "node {}: a terminal would obey {control:?}", node.number());
        assert!(!shown.contains('\u{202e}'), "text direction is left alone");
        assert!(node.ended().unwrap().is_none());
    }
    for Case(key, ..) in lease.iter().chain(&reserved) {
        lab.ctl().delete(key).unwrap();
    }
    lab.ctl().delete("sentinel").unwrap();
    lab.ctl().delete("10.244.254.0-24&never::-64").unwrap();
    wait_refused(&lab, 0);
    assert_eq!(dumps(&lab), before, "nothing is left of it");
    lab.wait_pictures(SOON).unwrap();
    for ping in pings {
        ping.stop().assert_nothing_lost();
    }
}

#[test]
fn ten_thousand_bad_leases_at_once() {
    if skip_unless(&TOOLS) {
        return;
    }
    let lab = EtcdCluster::start(Cluster::builder("fcflood").nodes(2), 1, EtcdOptions::default()).unwrap();
    let ping = lab.cluster.ping(1, 2, Family::V4).unwrap();
    let before = dumps(&lab);
    let one = lab.cluster.node(1);
    let pid = one.pid().unwrap();
    let (memory, busy) = (resident(pid), cpu_time(pid).unwrap());
    let pad = "x".repeat(3000);
    let keys: Vec<_> = (0..10_000).map(|i| format!("bad-{i}")).collect();
    lab.ctl().many(keys.iter().map(|key| (key.as_str(), Some(pad.as_str())))).unwrap();
    for i in 0..20 {
        lab.ctl().put(&format!("huge-{i}"), &vec![b'['; 900_000]).unwrap();
    }
    wait_refused(&lab, 10_020);
    let (grown, used) = (resident(pid).saturating_sub(memory), cpu_time(pid).unwrap().saturating_sub(busy));
    println!("10,020 bad leases: {} MB more memory, {used:?} of processor time (debug build)", grown / 1_000_000);
    assert!(grown < 30_000_000, "{grown}");
    assert!(used < Duration::from_secs(10), "{used:?}");
    assert_eq!(dumps(&lab), before);

    let free = &lab.free_keys().unwrap()[..20];
    for (i, key) in free.iter().enumerate() {
        lab.ctl().put(key, stranger(300 + i).as_bytes()).unwrap();
        lab.wait_route(1, key, true, Duration::from_secs(1)).unwrap();
    }
    let busy = cpu_time(pid).unwrap();
    for key in free {
        lab.ctl().delete(key).unwrap();
        lab.wait_route(1, key, false, Duration::from_secs(1)).unwrap();
    }
    println!("twenty nodes left in between: {:?} of processor time", cpu_time(pid).unwrap().saturating_sub(busy));
    assert!(one.log().matches("refused a lease").count() < 200, "the log is not flooded");
    lab.ctl().run(&["del", "--prefix", "/coreos.com/network/subnets/bad-"]).unwrap();
    lab.ctl().run(&["del", "--prefix", "/coreos.com/network/subnets/huge-"]).unwrap();
    wait_refused(&lab, 0);
    assert_eq!(dumps(&lab), before);
    ping.stop().assert_nothing_lost();
}

#[test]
fn dual_stack_pairs_are_refused_whole_and_extra_fields_are_welcome() {
    if skip_unless(&TOOLS) {
        return;
    }
    let lab = EtcdCluster::start(Cluster::builder("fcdual").nodes(2).dual_stack(), 1, EtcdOptions::default()).unwrap();
    let pings = [Family::V4, Family::V6].map(|family| lab.cluster.ping(1, 2, family).unwrap());
    let before = dumps(&lab);
    let v6 = "&fd10:244:0:";
    let lease = |change: &dyn Fn(&mut Value)| {
        let mut value: Value = serde_json::from_str(&stranger(250)).unwrap();
        value["PublicIPv6"] = "fd77::250".into();
        value["BackendV6Data"] = value["BackendData"].clone();
        change(&mut value);
        value.to_string()
    };
    let good = |third: u8| format!("10.244.{third}.0-24{v6}a{third:02}::-64");
    let free: Vec<u8> = (1..255)
        .filter(|n| !lab.ctl().leases().unwrap().iter().any(|l| l.key.contains(&format!(".{n}.0-"))))
        .take(12)
        .collect();
    let mut bad = vec![
        (format!("10.244.{}.0-24{v6}b::1-64", free[0]), lease(&|_| ())),
        (format!("10.244.{}.0-24&fd99::-64", free[0]), lease(&|_| ())),
        (format!("10.244.{}.0-24&fd10:244::-48", free[0]), lease(&|_| ())),
        (format!("192.168.7.0-24{v6}c::-64"), lease(&|_| ())),
    ];
    for (third, ip) in free[1..].iter().zip(["fe80::1", "ff02::1", "::", "::1", "::ffff:10.0.0.1", "fd10:244::9", "x"])
    {
        bad.push((good(*third), lease(&|value| value["PublicIPv6"] = ip.into())));
    }
    bad.push((good(free[9]), lease(&|value| value["BackendV6Data"] = Value::Null)));
    bad.push((good(free[10]), lease(&|value| value["BackendV6Data"]["VNI"] = 7.into())));
    for (key, value) in &bad {
        lab.ctl().put(key, value.as_bytes()).unwrap();
    }
    wait_refused(&lab, bad.len());
    assert_eq!(dumps(&lab), before, "not even the good half of a pair is used");
    for (key, _) in &bad {
        lab.ctl().delete(key).unwrap();
    }
    // What flannel of the future may add harms neither a peer's lease nor ours, and survives our writing.
    let key = lab.own_key(1).unwrap();
    let mut ours: Value = serde_json::from_str(&lab.ctl().lease(&key).unwrap().unwrap()).unwrap();
    ours["Rack"] = json!({"row": 7});
    let [held_by, ..] = lab.ctl().revisions(&key).unwrap().unwrap();
    lab.ctl()
        .fed(
            &["put", "--lease", &format!("{held_by:x}"), &format!("/coreos.com/network/subnets/{key}")],
            ours.to_string().as_bytes(),
        )
        .unwrap();
    lab.cluster.node(1).restart().unwrap();
    let kept: Value = serde_json::from_str(&lab.ctl().lease(&key).unwrap().unwrap()).unwrap();
    assert_eq!(kept["Rack"]["row"], 7, "{kept:#}");
    wait_refused(&lab, 0);
    assert_eq!(dumps(&lab), before, "nothing is left of it");
    for ping in pings {
        ping.stop().assert_nothing_lost();
    }
}

#[test]
fn bad_network_configs_are_waited_out_and_said_once_with_every_problem() {
    if skip_unless(&TOOLS) {
        return;
    }
    let lab = EtcdCluster::prepare(Cluster::builder("fcconf").nodes(1), &Etcd::endpoints(1, false), 1, |_| {
        Ok(EtcdOptions::default())
    })
    .unwrap();
    let one = lab.cluster.node(1);
    one.start().unwrap();
    let say = |text: &str| {
        wait::until(&format!("the log to say {text:?}"), SOON, || one.log().contains(text).then_some(()))
            .unwrap_or_else(|error| panic!("{error:#}\n{}", one.log()));
    };
    say("there is no network config");
    for (config, said) in [
        ("{{{{", "config"),
        (r#"{"Network":"10.244.0.0/31"}"#, "Network"),
        (r#"{"Network":"10.244.0.0/16","SubnetLen":8}"#, "SubnetLen"),
        (r#"{"Network":"10.244.0.0/16","SubnetLen":255}"#, "SubnetLen"),
        (r#"{"Network":"10.244.0.0/16","SubnetMin":"10.244.9.0","SubnetMax":"10.244.3.0"}"#, "SubnetMin"),
        (r#"{"Network":"10.244.0.0/16","SubnetMin":"10.9.9.0"}"#, "SubnetMin 10.9.9.0"),
        (r#"{"Network":"127.0.0.0/8"}"#, "Network 127.0.0.0/8"),
        (r#"{"Network":"224.0.0.0/8"}"#, "Network 224.0.0.0/8"),
        (r#"{"Network":"10.244.0.0/16","Backend":{"Type":"carrier-pigeon"}}"#, "carrier-pigeon"),
        (r#"{"Network":"10.244.0.0/16","Backend":[]}"#, "Backend"),
        (
            r#"{"Network":"10.244.0.0/16","Backend":{"Type":"extension","PreStartupCommand":"touch /tmp/fcconf-ran"}}"#,
            "extension",
        ),
        (r#"{"Network":"10.244.0.0/16","EnableIPv6":true}"#, "IPv6Network"),
        (r#"{"EnableIPv4":false}"#, "EnableIPv"),
    ] {
        let lines = one.log().lines().count();
        lab.ctl().publish(config).unwrap();
        let line = wait::until(&format!("{config} to be named"), SOON, || {
            one.log().lines().skip(lines).find(|line| line.contains("WARN")).map(ToOwned::to_owned)
        });
        let line = line.unwrap_or_else(|error| panic!("{error:#}\n{}", one.log()));
        let rest: String = one.log().lines().skip(lines).collect::<Vec<_>>().join("\n");
        assert!(rest.contains(said), "{config}: expected {said:?} in {line}");
        assert!(one.ended().unwrap().is_none(), "waited out, not ended");
    }
    assert!(!fs::exists("/tmp/fcconf-ran").unwrap(), "etcd does not get to run commands");
    let lines = one.log().lines().count();
    let many = r#"{"Network":"10.244.0.0/16","SubnetLen":99,"Backend":{"Type":"vxlan","VNI":-5,"Port":70000}}"#;
    lab.ctl().publish(many).unwrap();
    say("70000");
    lab.ctl().publish(many).unwrap();
    thread::sleep(Duration::from_secs(1));
    let said: String = one.log().lines().skip(lines).collect::<Vec<_>>().join("\n");
    for problem in ["SubnetLen 99", "Backend.VNI -5", "Backend.Port 70000"] {
        assert_eq!(said.matches(problem).count(), 1, "every problem, once: {problem} in {said}");
    }
    lab.ctl().publish(&plain_vxlan(&[Family::V4])).unwrap();
    let begun = Stopwatch::start();
    one.wait_ready().unwrap();
    println!("picked up {begun} after it was right");
    begun.assert_within(Duration::from_secs(3));

    // Changed under a running node: told, not mixed in.
    let before = Dump::of(one.netns()).unwrap();
    lab.ctl().publish(r#"{"Network":"10.99.0.0/16","Backend":{"Type":"vxlan","VNI":9}}"#).unwrap();
    let told = |status: &Value| status["network"]["problem"].as_str().is_some_and(|text| text.contains("changed"));
    lab.wait_status(1, "the new config to be told", SOON, told).unwrap();
    lab.ctl().run(&["del", "/coreos.com/network/config"]).unwrap();
    let told = |status: &Value| status["network"]["problem"].as_str().is_some_and(|text| text.contains("deleted"));
    lab.wait_status(1, "the deletion to be told", SOON, told).unwrap();
    assert_eq!(Dump::of(one.netns()).unwrap(), before);
    lab.ctl().publish(&plain_vxlan(&[Family::V4])).unwrap();
    lab.wait_status(1, "all to be well", SOON, |status| status["network"]["problem"].is_null()).unwrap();
}

fn resident(pid: u32) -> u64 {
    let statm = fs::read_to_string(format!("/proc/{pid}/statm")).unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}
