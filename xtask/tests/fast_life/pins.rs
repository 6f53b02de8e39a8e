//! What a node has of the fast path in the kernel.

use std::{collections::BTreeMap, fs, path::PathBuf};

use flannel_common::Counter;
use serde_json::Value;
use xtask::lab::{Node, run, wait};

/// Slots of `COUNTERS`.
pub(crate) const EGRESS_FAST: usize = Counter::EgressFast.slot() as usize;
pub(crate) const INGRESS_FAST: usize = Counter::IngressFast.slot() as usize;

fn bpftool(arguments: &[&str]) -> Option<Value> {
    let text = run(std::process::Command::new("bpftool").arg("-j").args(arguments)).ok()?;
    serde_json::from_str(&text).ok()
}

/// Name and kernel's number of everything pinned, by directory and file name.
pub(crate) fn pins(node: &Node) -> BTreeMap<String, u64> {
    let mut found = BTreeMap::new();
    for directory in fs::read_dir(node.bpf_dir()).into_iter().flatten().flatten() {
        let kind = if directory.file_name() == "links" { "link" } else { "map" };
        for pin in fs::read_dir(directory.path()).into_iter().flatten().flatten() {
            let name = format!("{}/{}", directory.file_name().display(), pin.file_name().display());
            let path = pin.path().display().to_string();
            match bpftool(&[kind, "show", "pinned", &path]) {
                Some(shown) => drop(found.insert(name, shown["id"].as_u64().unwrap())),
                None => assert!(!pin.path().exists(), "{path} cannot be shown"),
            }
        }
    }
    found
}

/// The attachments alone.
pub(crate) fn links(node: &Node) -> BTreeMap<String, u64> {
    pins(node).into_iter().filter(|(name, _)| name.starts_with("links/")).collect()
}

/// The program that an attachment runs.
pub(crate) fn program(node: &Node, link: &str) -> u64 {
    let path = node.bpf_dir().join(link).display().to_string();
    bpftool(&["link", "show", "pinned", &path]).unwrap()["prog_id"].as_u64().unwrap()
}

/// The only directory of maps.
pub(crate) fn maps(node: &Node) -> PathBuf {
    let mut maps: Vec<_> = fs::read_dir(node.bpf_dir())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("maps-v"))
        .collect();
    assert_eq!(maps.len(), 1, "{maps:?}");
    maps.remove(0)
}

/// How many entries a map has room for.
pub(crate) fn room(node: &Node, map: &str) -> u64 {
    let path = maps(node).join(map).display().to_string();
    bpftool(&["map", "show", "pinned", &path]).unwrap()["max_entries"].as_u64().unwrap()
}

/// What a counter says, over all processors.
pub(crate) fn count(node: &Node, slot: usize) -> u64 {
    let path = maps(node).join("COUNTERS").display().to_string();
    let slots = bpftool(&["map", "dump", "pinned", &path]).unwrap();
    let octet = |value: &Value| u64::from_str_radix(value.as_str().unwrap().trim_start_matches("0x"), 16).unwrap();
    let number = |octets: &Value| octets.as_array().unwrap().iter().rev().fold(0, |sum, next| sum << 8 | octet(next));
    slots[slot]["values"].as_array().unwrap().iter().map(|cpu| number(&cpu["value"])).sum()
}

/// Waits until the fast path carries more packets, both ways.
pub(crate) fn wait_fast(node: &Node) {
    for slot in [EGRESS_FAST, INGRESS_FAST] {
        let goal = count(node, slot) + 200;
        wait::until("the fast path to carry packets", wait::LONG, || (count(node, slot) >= goal).then_some(()))
            .unwrap();
    }
}
