//! lane: e2e
//!
//! TLS, client certificates, users and several endpoints through the real binary, while a 1 ms ping runs: whatever
//! is wrong between the daemon and etcd costs no packet, is said once with its cure, and is over when it is mended.
#![expect(clippy::unwrap_used, reason = "a test's helper functions are tests too")]

mod pki;
mod secrets;

use std::time::{Duration, Instant};

use pki::Pki;
use serde_json::Value;
use xtask::lab::{
    Cluster, Etcd, EtcdCluster, EtcdOptions, Etcdctl, Family, GATEWAY_V4, Launch, Node, Ping, cpu_time, plain_vxlan,
    skip_unless, stranger, wait,
};

const TOOLS: [&str; 5] = ["ip", "nft", "etcd", "etcdctl", "openssl"];
/// What is mended is taken up within 5 s; the rest is for a loaded machine.
const RECOVERY: Duration = Duration::from_secs(10);

/// Two whole nodes on this etcd. `endpoints` is what the daemons are told.
fn start(prefix: &str, endpoints: &str, members: usize, options: EtcdOptions, launch: Launch) -> EtcdCluster {
    let lab = prepare(prefix, endpoints, members, options, launch);
    lab.cluster.bring_up().unwrap();
    lab.whole().unwrap();
    lab
}

fn prepare(prefix: &str, endpoints: &str, members: usize, options: EtcdOptions, launch: Launch) -> EtcdCluster {
    let builder = Cluster::builder(prefix).nodes(2).launches(vec![launch]);
    let lab = EtcdCluster::prepare(builder, endpoints, members, |_| Ok(options)).unwrap();
    lab.ctl().publish(&plain_vxlan(&[Family::V4])).unwrap();
    lab
}

fn with_args(args: Vec<String>) -> Launch {
    Launch { args, ..Launch::default() }
}

fn ping(lab: &EtcdCluster) -> Ping {
    let ping = lab.cluster.ping(1, 2, Family::V4).unwrap();
    ping.more(50).unwrap();
    ping
}

/// A watch that was granted once goes on, and so does a TLS connection: etcd looks again only at the next one.
/// Deleting our lease would be noticed at once too, but by the peers as well.
fn break_connections(lab: &EtcdCluster) {
    lab.etcd.kill(0).unwrap();
    lab.etcd.restart(0).unwrap();
}

/// Until the node's status, or before it has one, says that etcd turns us down for this reason.
fn wait_refused(lab: &EtcdCluster, texts: &[&str]) {
    let refused = |status: &Value| {
        let detail = status["source"]["detail"].as_str().unwrap_or_default();
        status["source"]["connected"] == false && texts.iter().all(|text| detail.contains(text))
    };
    lab.wait_status(1, "the refusal to be in the status", wait::LONG, refused).unwrap();
}

fn wait_recovered(lab: &EtcdCluster, what: &str) {
    let well = |status: &Value| status["source"]["connected"] == true && status["state"] == "converged";
    let took = lab.wait_status(1, what, RECOVERY, well).unwrap();
    println!("{what}: well again {took:.1?} after it was mended");
}

/// What a node logs and uses while it is turned down: one line with the cure, and next to no processor time.
struct Calm<'a> {
    node: &'a Node,
    pid: u32,
    lines: usize,
}

impl<'a> Calm<'a> {
    /// Starts the daemon as it was told to, and watches from there.
    fn watch_start(node: &'a Node) -> Self {
        let lines = node.log().lines().count();
        node.start().unwrap();
        Self { node, pid: node.pid().unwrap(), lines }
    }

    fn watch_start_with(node: &'a Node, launch: &Launch) -> Self {
        let lines = node.log().lines().count();
        node.start_with(launch).unwrap();
        Self { node, pid: node.pid().unwrap(), lines }
    }

    fn watch(node: &'a Node) -> Self {
        Self { node, pid: node.pid().unwrap(), lines: node.log().lines().count() }
    }

    /// Three seconds of it; `cure` is what the line has to name.
    fn assert(&self, cure: &str) {
        let (used, lines) = (cpu_time(self.pid).unwrap(), self.node.log().lines().count());
        // Absence can only be seen by waiting.
        std::thread::sleep(Duration::from_secs(3));
        let busy = cpu_time(self.pid).unwrap().saturating_sub(used);
        let log = self.node.log();
        let more: Vec<_> = log.lines().skip(lines).collect();
        assert!(more.len() <= 1, "said again and again: {more:#?}");
        let warnings = log.lines().skip(self.lines).filter(|line| line.contains(" WARN "));
        let said = warnings.filter(|line| line.contains(cure)).count();
        assert!((1..=2).contains(&said), "{said} warnings name the cure {cure:?}:\n{log}");
        assert_eq!((self.node.pid(), self.node.ended().unwrap()), (Some(self.pid), None), "the same process");
        assert!(busy < Duration::from_millis(300), "{busy:?} of processor time in 3 s");
        println!("{cure:.30}...: {said} line(s), {busy:?} of processor time in 3 s");
    }
}

/// A lease that another node writes now arrives.
fn assert_follows(lab: &EtcdCluster, ctl: &Etcdctl) {
    let taken = ctl.leases().unwrap();
    let mut free = (1..255).map(|third| format!("10.244.{third}.0-24"));
    let key = free.find(|key| taken.iter().all(|lease| lease.key != *key)).unwrap();
    ctl.put(&key, stranger(9).as_bytes()).unwrap();
    lab.wait_route(1, &key, true, wait::SHORT).unwrap();
    ctl.delete(&key).unwrap();
    lab.wait_route(1, &key, false, wait::SHORT).unwrap();
}

#[test]
fn tls_with_a_ca_alone_and_the_wrong_one_and_an_expired_server() {
    if skip_unless(&TOOLS) {
        return;
    }
    let pki = Pki::new();
    let lab = start("fpca", &Etcd::endpoints(1, true), 1, pki.etcd(false), with_args(pki.arguments(false)));
    let one = lab.cluster.node(1);
    let ping = ping(&lab);
    assert_follows(&lab, lab.ctl());

    // Wrong from the start, and mended.
    one.stop().unwrap();
    pki.put_in_use("ca.pem", "other/ca.pem");
    let calm = Calm::watch_start(one);
    wait_refused(&lab, &["invalid peer certificate", "the CA file must be the one that signed etcd's certificate"]);
    calm.assert("the CA file must be the one that signed");
    pki.put_in_use("ca.pem", "ca.pem");
    wait_recovered(&lab, "a wrong CA at start");

    // The server's certificate expires while we run.
    let calm = Calm::watch(one);
    pki.put_in_use("server.pem", "expired-server.pem");
    break_connections(&lab);
    wait_refused(&lab, &["xpired", "both must be in date"]);
    calm.assert("both must be in date");
    pki.put_in_use("server.pem", "server.pem");
    wait_recovered(&lab, "an expired server certificate");
    assert_follows(&lab, lab.ctl());
    ping.stop().assert_nothing_lost();
}

#[test]
fn client_certificates_and_an_expired_one() {
    if skip_unless(&TOOLS) {
        return;
    }
    let pki = Pki::new();
    let lab = start("fpcert", &Etcd::endpoints(1, true), 1, pki.etcd(true), with_args(pki.arguments(true)));
    let one = lab.cluster.node(1);
    let ping = ping(&lab);
    assert_follows(&lab, lab.ctl());

    // Ours expires while we run; it is noticed with the next connection.
    let calm = Calm::watch(one);
    pki.put_in_use("client.pem", "expired-client.pem");
    break_connections(&lab);
    wait_refused(&lab, &["client certificate"]);
    calm.assert("client certificate");
    pki.put_in_use("client.pem", "client.pem");
    wait_recovered(&lab, "an expired client certificate");

    // None at all, from the start.
    one.stop().unwrap();
    let calm = Calm::watch_start_with(one, &with_args(pki.arguments(false)));
    wait_refused(&lab, &["client certificate"]);
    calm.assert("client certificate");
    one.stop().unwrap();
    one.start().unwrap();
    one.wait_ready().unwrap();
    assert_follows(&lab, lab.ctl());
    ping.stop().assert_nothing_lost();
}

#[test]
fn user_and_password_wrong_changed_and_without_rights() {
    if skip_unless(&TOOLS) {
        return;
    }
    let options = EtcdOptions { client: vec!["--user".into(), format!("root:{ROOT}")], ..EtcdOptions::default() };
    let lab = prepare("fpuser", &Etcd::endpoints(1, false), 1, options, user(NODE));
    enable_users(lab.ctl());
    lab.cluster.bring_up().unwrap();
    lab.whole().unwrap();
    let one = lab.cluster.node(1);
    let ping = ping(&lab);
    assert_follows(&lab, lab.ctl());

    // Wrong from the start; mended on etcd's side.
    one.stop().unwrap();
    let calm = Calm::watch_start_with(one, &user("not-the-password"));
    wait_refused(&lab, &["invalid user ID or password", "check user, password"]);
    calm.assert("check user, password");
    set_password(lab.ctl(), "not-the-password");
    wait_recovered(&lab, "a wrong password at start");

    // Changed under a running daemon.
    let calm = Calm::watch(one);
    set_password(lab.ctl(), "changed-by-the-operator");
    break_connections(&lab);
    wait_refused(&lab, &["check user, password"]);
    calm.assert("check user, password");
    set_password(lab.ctl(), "not-the-password");
    wait_recovered(&lab, "a changed password");

    // The right to read and write is taken away, and given back.
    let calm = Calm::watch(one);
    lab.ctl().run(&["role", "revoke-permission", "flannel", PREFIX, "--prefix=true"]).unwrap();
    wait_refused(&lab, &["permission denied", "right to read and write below the prefix"]);
    calm.assert("right to read and write below the prefix");
    grant(lab.ctl());
    wait_recovered(&lab, "a right that was revoked");
    assert_follows(&lab, lab.ctl());
    ping.stop().assert_nothing_lost();
}

#[test]
fn the_first_endpoint_is_dead_from_the_start_and_the_one_in_use_dies_later() {
    if skip_unless(&TOOLS) {
        return;
    }
    let dead = format!("http://{GATEWAY_V4}:2349,http://192.168.254.1:2379");
    let endpoints = format!("{dead},{}", Etcd::endpoints(3, false));
    let lab = start("fpends", &endpoints, 3, EtcdOptions::default(), Launch::default());
    let one = lab.cluster.node(1);
    let ping = ping(&lab);
    let in_use = || {
        let log = one.log();
        let last = log.lines().rfind(|line| line.contains("connected to etcd")).unwrap();
        (0..3).find(|member| last.contains(&format!("{GATEWAY_V4}:{}", 2379 + 10 * member))).unwrap()
    };
    for round in 0..2 {
        let member = in_use();
        let killed = Instant::now();
        lab.etcd.kill(member).unwrap();
        wait::until("another member to be in use", wait::LONG, || {
            (in_use() != member && one.status().ok()?["source"]["connected"] == true).then_some(())
        })
        .unwrap();
        println!("round {round}: member {member} killed, member {} in use {:?} after", in_use(), killed.elapsed());
        assert_follows(&lab, &lab.ctl().at((member + 1) % 3));
        lab.etcd.restart(member).unwrap();
    }
    ping.stop().assert_nothing_lost();
    // A daemon that starts meanwhile is not held up for long by the two that are dead.
    one.restart().unwrap();
}

const ROOT: &str = "r00t-Geheimnis";
const NODE: &str = "n0de-Geheimnis";
const PREFIX: &str = "/coreos.com/network/";

/// The node's user, by environment.
fn user(password: &str) -> Launch {
    let pairs = [("FLANNELD_ETCD_USERNAME", "node"), ("FLANNELD_ETCD_PASSWORD", password)];
    Launch { env: pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).to_vec(), ..Launch::default() }
}

fn enable_users(ctl: &Etcdctl) {
    for command in [
        &["user", "add", &format!("root:{ROOT}")][..],
        &["user", "add", &format!("node:{NODE}")],
        &["role", "add", "root"],
        &["role", "add", "flannel"],
        &["user", "grant-role", "root", "root"],
        &["user", "grant-role", "node", "flannel"],
    ] {
        ctl.run(command).unwrap();
    }
    grant(ctl);
    ctl.run(&["auth", "enable"]).unwrap();
}

fn grant(ctl: &Etcdctl) {
    ctl.run(&["role", "grant-permission", "flannel", "readwrite", PREFIX, "--prefix=true"]).unwrap();
}

fn set_password(ctl: &Etcdctl, password: &str) {
    ctl.fed(&["user", "passwd", "node", "--interactive=false"], format!("{password}\n").as_bytes()).unwrap();
}
