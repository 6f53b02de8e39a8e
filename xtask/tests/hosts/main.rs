//! lane: e2e
//!
//! Hosts that lack something (nftables, IPv6, file descriptors, a place for the subnet file), and hosts whose
//! interfaces are rebuilt under a running daemon.
#![expect(clippy::unwrap_used, reason = "a test's helper functions are tests too")]

mod flood;
mod iptables;
mod moved;
mod narrow;
mod no_ipv6;
mod public;

use std::process::Output;

use serde_json::Value;
use xtask::lab::{Dump, Launch, Node, flannel_ctl, wait};

const TOOLS: [&str; 5] = ["ip", "bridge", "nft", "ethtool", "unshare"];

/// Waits until a node's status is as asked; on failure the last one is shown.
#[track_caller]
fn wait_status(node: &Node, what: &str, is: impl Fn(&Value) -> bool) -> Value {
    node.wait_status(what, wait::LONG, is).unwrap()
}

#[track_caller]
fn wait_converged(node: &Node) -> Value {
    wait_status(node, "convergence", |status| status["state"] == "converged")
}

/// Waits until the node's kernel is as before.
#[track_caller]
fn same_again(node: &Node, before: &Dump) {
    let mut now = Dump::default();
    wait::until("the state of before", wait::LONG, || {
        now = Dump::of(node.netns()).ok()?;
        (now == *before).then_some(())
    })
    .unwrap_or_else(|error| panic!("{error}\n{}\n{}", before.difference(&now), node.log()));
}

/// A verb of flannel-ctl on the host as the daemon sees it.
fn verb(node: &Node, launch: &Launch, verb: &[&str]) -> Output {
    let mut words = launch.wrapper.clone();
    words.push(flannel_ctl().unwrap().display().to_string());
    let mut command = node.netns().command(&words[0]);
    command.args(&words[1..]).args(verb).arg("--run-dir").arg(node.run_dir()).arg("--state-dir").arg(node.state_dir());
    command.arg("--subnet-file").arg(node.subnet_file()).output().unwrap()
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// What the daemon complained about.
fn complaints(node: &Node) -> Vec<String> {
    let log = node.log();
    log.lines().filter(|line| line.contains(" WARN ") || line.contains(" ERROR ")).map(str::to_owned).collect()
}
