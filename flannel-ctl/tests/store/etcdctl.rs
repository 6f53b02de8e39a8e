//! With etcd's own command line.

use std::net::SocketAddr;
use std::process::{Command, Stdio};

use crate::directory;
use crate::process::{Process, installed};

struct Etcdctl(SocketAddr);

impl Etcdctl {
    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("etcdctl");
        command.env("ETCDCTL_API", "3").args(["--endpoints", &self.0.to_string()]).args(args);
        command
    }

    fn run(&self, args: &[&str]) -> String {
        let output = self.command(args).output().expect("runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
        // Some answers come on standard error.
        format!("{}{}", text(&output.stdout), text(&output.stderr))
    }

    fn fail(&self, args: &[&str]) -> String {
        let output = self.command(args).output().expect("runs");
        assert!(!output.status.success(), "{args:?} succeeded");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    fn with_input(&self, args: &[&str], input: &str) -> String {
        let mut child = self.command(args).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("starts");
        std::io::Write::write_all(&mut child.stdin.take().expect("piped"), input.as_bytes()).expect("writes");
        String::from_utf8_lossy(&child.wait_with_output().expect("ends").stdout).trim().to_owned()
    }
}

#[test]
fn etcdctl_finds_an_etcd() {
    if !installed("etcdctl", "etcd-client") {
        return;
    }
    let directory = directory();
    let store = Process::store(&directory.path().join("store.redb"), &[]);
    let ctl = Etcdctl(store.address);

    assert_eq!(ctl.run(&["put", "a", "1"]), "OK");
    assert_eq!(ctl.run(&["put", "--prev-kv", "a", "2"]), "OK\na\n1");
    assert_eq!(ctl.run(&["get", "a"]), "a\n2");
    assert_eq!(ctl.run(&["get", "--rev", "2", "a"]), "a\n1");
    assert_eq!(ctl.run(&["put", "ab", "3"]), "OK");
    assert_eq!(ctl.run(&["get", "--prefix", "a", "--keys-only", "--order", "DESCEND"]), "ab\n\na");
    assert!(
        ctl.run(&["get", "--prefix", "a", "--write-out", "json", "--limit", "1"]).contains(r#""more":true,"count":2"#)
    );
    assert_eq!(ctl.run(&["del", "ab"]), "1");

    let txn = "version(\"a\") = \"2\"\nvalue(\"a\") != \"9\"\n\nput b x\nget a\n\nput c y\n\n";
    assert_eq!(ctl.with_input(&["txn"], txn), "SUCCESS\n\nOK\n\na\n2");
    assert_eq!(ctl.with_input(&["txn"], "create(\"a\") = \"0\"\n\nput b z\n\nget b\n\n"), "FAILURE\n\nb\nx");

    let granted = ctl.run(&["lease", "grant", "100"]);
    let lease = granted.split_whitespace().nth(1).expect("an id").to_owned();
    assert!(granted.ends_with("granted with TTL(100s)"), "{granted}");
    assert_eq!(ctl.run(&["put", "--lease", &lease, "leased", "1"]), "OK");
    assert_eq!(ctl.run(&["lease", "list"]), format!("found 1 leases\n{lease}"));
    assert_eq!(ctl.run(&["lease", "keep-alive", "--once", &lease]), format!("lease {lease} keepalived with TTL(100)"));
    let left = ctl.run(&["lease", "timetolive", "--keys", &lease]);
    assert!(left.contains("granted with TTL(100s), remaining(") && left.ends_with("attached keys([leased])"), "{left}");
    assert_eq!(ctl.run(&["lease", "revoke", &lease]), format!("lease {lease} revoked"));
    assert_eq!(ctl.run(&["get", "leased"]), "");
    assert_eq!(ctl.run(&["lease", "timetolive", &lease]), format!("lease {lease} already expired"));

    assert_eq!(ctl.run(&["compaction", "4"]), "compacted revision 4");
    assert!(ctl.fail(&["get", "--rev", "3", "a"]).contains("required revision has been compacted"));
    assert!(ctl.fail(&["watch", "--rev", "3", "a"]).contains("watch is canceled by the server"));
    // It would go on for ever, so the command that it runs for an event ends it.
    let report = "echo $ETCD_WATCH_EVENT_TYPE; kill $PPID";
    let mut watch = ctl.command(&["watch", "--rev", "4", "--prefix", "ab", "--", "sh", "-c", report]);
    let seen = String::from_utf8_lossy(&watch.output().expect("runs").stdout).into_owned();
    assert!(seen.starts_with("PUT\nab\n3\nDELETE\nab\n"), "{seen}");

    assert!(ctl.run(&["endpoint", "health"]).contains("is healthy"));
    assert!(ctl.run(&["endpoint", "status"]).contains(", 3.4.0+flannel-ctl."));
    assert!(ctl.run(&["member", "list"]).contains(&format!("started, flannel-ctl-store, , http://{}", store.address)));
    assert!(ctl.fail(&["user", "add", "root:x"]).contains("is not part of this embedded single-node store"));
    // Clients that bring a password get on without, as with an etcd whose authentication is off.
    assert!(ctl.run(&["--user", "root:x", "get", "--print-value-only", "a"]).starts_with('2'));
    assert_eq!(store.terminate(), Some(0));
}
