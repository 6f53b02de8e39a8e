//! lane: e2e
//!
//! Many nodes start at the same moment: everybody gets a subnet of its own, and nobody ends.
#![expect(clippy::unwrap_used, reason = "a test's helper functions are tests too")]

use std::{
    collections::BTreeSet,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use xtask::lab::{Cluster, Etcd, EtcdCluster, EtcdOptions, SubnetEnv, flannel_ctl, skip_unless, stranger, wait};

const TOOLS: [&str; 4] = ["ip", "nft", "etcd", "etcdctl"];

/// A daemon called as flannel's would be, with nothing but its subnet file to tell it from the others.
struct Daemon {
    child: Child,
    subnet_file: PathBuf,
    log: PathBuf,
}

impl Daemon {
    /// In the node's namespace. `address` is on its loopback, so that each has a public address of its own.
    fn start(lab: &EtcdCluster, dir: &Path, number: usize, address: &str) -> Self {
        let home = dir.join(format!("d{number}"));
        fs::create_dir_all(&home).unwrap();
        let (subnet_file, log) = (home.join("subnet.env"), home.join("log"));
        let out = File::create(&log).unwrap();
        let mut command = lab.cluster.node(1).netns().command("bash");
        // argv[0] decides: this is flannel's command line.
        command.args(["-c", "exec -a flanneld \"$0\" \"$@\""]).arg(flannel_ctl().unwrap());
        command.arg(format!("-etcd-endpoints={}", Etcd::endpoints(1, false)));
        command.arg(format!("-subnet-file={}", subnet_file.display()));
        command.args(["-iface=eth0", &format!("-public-ip={address}")]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(out);
        Self { child: command.spawn().unwrap(), subnet_file, log }
    }

    fn subnet(&self) -> Option<String> {
        SubnetEnv::read(&self.subnet_file).ok()?.get("SUBNET").map(ToOwned::to_owned)
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Ended already is as good.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn prepare(prefix: &str, network: &str) -> EtcdCluster {
    let lab = EtcdCluster::prepare(Cluster::builder(prefix).nodes(1), &Etcd::endpoints(1, false), 1, |_| {
        Ok(EtcdOptions::default())
    })
    .unwrap();
    lab.ctl().publish(network).unwrap();
    lab
}

fn start_all(lab: &EtcdCluster, count: usize) -> Vec<Daemon> {
    let addresses: Vec<_> = (0..count).map(|i| format!("192.168.7.{}", i + 1)).collect();
    let lines: Vec<_> = addresses.iter().map(|address| format!("address add {address}/32 dev eth0\n")).collect();
    lab.cluster.node(1).netns().ip(&lines.concat()).unwrap();
    let dir = lab.cluster.dir().to_owned();
    let begun = Instant::now();
    let mut daemons: Vec<_> =
        addresses.iter().enumerate().map(|(i, address)| Daemon::start(lab, &dir, i, address)).collect();
    let what = format!("{count} subnet files");
    let all = wait::until(&what, Duration::from_secs(40), || {
        daemons.iter().all(|daemon| daemon.subnet().is_some()).then_some(())
    });
    if let Err(error) = all {
        let late = daemons.iter().find(|daemon| daemon.subnet().is_none()).unwrap();
        panic!("{error:#}\n{}", late.said());
    }
    println!("{count} daemons started at once: all have a subnet after {:?}", begun.elapsed());
    for daemon in &mut daemons {
        assert_eq!(daemon.child.try_wait().unwrap(), None, "nobody ends:\n{}", daemon.said());
    }
    let subnets: BTreeSet<_> = daemons.iter().filter_map(Daemon::subnet).collect();
    assert_eq!(subnets.len(), count, "every subnet once");
    let races: usize = daemons.iter().map(|daemon| daemon.said().matches("another node was faster").count()).sum();
    println!("{races} races lost and won at the next try");
    daemons
}

#[test]
fn a_hundred_nodes_start_at_once() {
    if skip_unless(&TOOLS) {
        return;
    }
    let lab = prepare("fchundred", r#"{"Network":"10.244.0.0/16","Backend":{"Type":"alloc"}}"#);
    let daemons = start_all(&lab, 100);
    assert_eq!(lab.ctl().leases().unwrap().len(), 100, "one lease each, and nothing left over from races");
    drop(daemons);
}

#[test]
fn thirty_nodes_start_at_once_in_a_range_that_is_nearly_full() {
    if skip_unless(&TOOLS) {
        return;
    }
    // 64 subnets less the first, which flannel does not use, and 33 that are taken or reserved.
    let lab = prepare("fcnarrow", r#"{"Network":"10.244.0.0/18","SubnetLen":24,"Backend":{"Type":"alloc"}}"#);
    let keys: Vec<_> = (1..=33).map(|i| format!("10.244.{i}.0-24")).collect();
    let reserved = r#"{"PublicIP":"0.0.0.0"}"#;
    let taken = stranger(9);
    let value = |i: usize| Some(if i.is_multiple_of(2) { reserved } else { taken.as_str() });
    lab.ctl().many(keys.iter().enumerate().map(|(i, key)| (key.as_str(), value(i)))).unwrap();
    let daemons = start_all(&lab, 30);
    for daemon in &daemons {
        let subnet = daemon.subnet().unwrap().replace(".1/", ".0-");
        assert!(!keys.contains(&subnet), "{subnet} was not free");
    }
    drop(daemons);
}
