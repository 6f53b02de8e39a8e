//! Pins that nobody looks after any more: who leased what is not known to them, so they leave packets to the kernel path.

use std::process::Command;

use flannel_common::{Counter, SETTINGS_MAP};
use serde_json::Value;
use xtask::lab::{Node, flannel_ctl, run, wait};

use crate::{
    cluster,
    pins::{EGRESS_FAST, INGRESS_FAST, count, maps, pins, wait_fast},
    traffic::Traffic,
};

/// Minutes later: where the deadline is in the settings, there is the first nanosecond now.
fn let_the_deadline_pass(node: &Node) {
    const DEADLINE: std::ops::Range<usize> = 16..24;
    let path = maps(node).join(SETTINGS_MAP).display().to_string();
    let bpftool = |words: &str| run(Command::new("bpftool").args(words.split(' '))).unwrap();
    let shown: Value = serde_json::from_str(&bpftool(&format!("-j map lookup pinned {path} key 0 0 0 0"))).unwrap();
    let mut value: Vec<_> = shown["value"].as_array().unwrap().iter().map(|octet| octet.as_str().unwrap()).collect();
    for (at, octet) in value[DEADLINE].iter_mut().enumerate() {
        *octet = if at == 0 { "0x01" } else { "0x00" };
    }
    bpftool(&format!("map update pinned {path} key 0 0 0 0 value {}", value.join(" ")));
}

pub(crate) fn over_and_back(prefix: &str) {
    let deserted = [Counter::EgressDeserted, Counter::IngressDeserted].map(|counter| counter.slot() as usize);
    let cluster = cluster(prefix);
    let node = cluster.node(1);
    let traffic = Traffic::start(&cluster);
    wait_fast(node);
    let before = pins(node);
    node.kill().unwrap();
    let_the_deadline_pass(node);
    let fast = || [EGRESS_FAST, INGRESS_FAST].map(|slot| count(node, slot));
    // The deadline was later when these flows were proved: the last proof runs out.
    wait::until("the last fast packet", wait::LONG, || {
        let then = fast();
        traffic.more(100);
        (fast() == then).then_some(())
    })
    .unwrap();
    let (then, left) = (fast(), deserted.map(|slot| count(node, slot)));
    traffic.more(500);
    assert_eq!(fast(), then, "nothing is proved any more");
    for (slot, left) in deserted.into_iter().zip(left) {
        assert!(count(node, slot) >= left + 500);
    }
    let mut flows = Command::new(flannel_ctl().unwrap());
    let flows = run(flows.args(["flows", "--limit", "0", "--bpf-dir"]).arg(node.bpf_dir())).unwrap();
    assert!(flows.contains("no_daemon") && !flows.contains("expired"), "{flows}");

    node.start().unwrap();
    node.wait_converged().unwrap();
    wait_fast(node);
    let ended = deserted.map(|slot| count(node, slot));
    traffic.more(500);
    assert_eq!(deserted.map(|slot| count(node, slot)), ended, "a daemon is at work again");
    assert_eq!(pins(node), before, "links are replaced in place, maps are kept");
    traffic.assert_nothing_lost();
}
