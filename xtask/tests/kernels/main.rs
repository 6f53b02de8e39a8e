//! lane: kernels
//!
//! Other kernels than this machine's, booted under emulation: the shipped binary loads its programs, and a transfer
//! takes the fast path, or the stated other one. Packages come from the mirrors at hand.
#![cfg(target_arch = "x86_64")]
#![expect(clippy::unwrap_used, reason = "a test's helper functions are tests too")]

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use flannel_common::Counter;
use serde_json::Value;
use xtask::lab::{Process, flannel_ctl, skip_unless};

const TOOLS: [&str; 9] = ["apt-get", "bpftool", "busybox", "cpio", "depmod", "ip", "nft", "qemu-system-x86_64", "xz"];
/// Emulated, beside others, on a machine of a few cores.
const PATIENCE: Duration = Duration::from_mins(5);
const FAST: [Counter; 2] = [Counter::EgressFast, Counter::IngressFast];

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kernels").join(name)
}

/// One guest at a time: several are slower together than one after the other.
static MACHINE: Mutex<()> = Mutex::new(());

/// What the guest told, by key; `None` if no mirror has such a kernel. `tunnel`: the module that its tunnels are made of.
fn boot(series: &str, tunnel: &str) -> Option<BTreeMap<String, String>> {
    let _alone = MACHINE.lock().unwrap_or_else(PoisonError::into_inner);
    let kernel = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/kernels").join(series);
    let fetched = Command::new("sh").arg(script("fetch.sh")).arg(series).arg(&kernel).stdin(Stdio::null()).status();
    match fetched.unwrap().code() {
        Some(0) => {}
        Some(3) => {
            println!("SKIPPED: no package mirror at hand has Linux {series}");
            return None;
        }
        code => panic!("fetching Linux {series}: exit code {code:?}"),
    }
    let work = tempfile::tempdir().unwrap();
    let root = work.path().join("root");
    let mut build = Command::new("sh");
    build
        .arg(script("initramfs.sh"))
        .arg(&kernel)
        .arg(flannel_ctl().unwrap())
        .arg(script("init.sh"))
        .arg(&root)
        .arg(tunnel);
    assert!(build.stdin(Stdio::null()).status().unwrap().success());
    let image = std::fs::read_dir(kernel.join("x/boot")).unwrap().map(|entry| entry.unwrap().path());
    let image = image.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("vmlinuz")).last();
    let log = work.path().join("console");
    let mut machine = Command::new("qemu-system-x86_64");
    machine.args("-accel tcg,thread=multi -cpu max -smp 2 -m 1024 -nographic -no-reboot -nic none".split(' '));
    machine.arg("-kernel").arg(image.unwrap()).arg("-initrd").arg(root.with_extension("img"));
    machine.args(["-append", "console=ttyS0 quiet panic=-1"]);
    let machine = Process::spawn(format!("Linux {series}"), &mut machine, &log).unwrap();
    let ended = machine.wait(PATIENCE);
    let said = String::from_utf8_lossy(&std::fs::read(&log).unwrap()).into_owned();
    ended.unwrap_or_else(|error| panic!("{error}:\n{said}"));
    let lines = said.lines().filter_map(|line| line.trim_end().split_once("result "));
    let results: BTreeMap<_, _> = lines
        .map(|(_, line)| line.split_once(' ').unwrap_or((line, "")))
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect();
    println!("{}", said.lines().filter(|line| !line.contains("result counters")).collect::<Vec<_>>().join("\n"));
    assert!(results.contains_key("end"), "the guest did not come to its end");
    Some(results)
}

/// Sums over the processors, by slot.
fn counters(results: &BTreeMap<String, String>) -> Vec<u64> {
    let slots: Value = serde_json::from_str(&results["counters"]).unwrap();
    let sum = |slot: &Value| {
        let values = slot["formatted"]["values"].as_array().unwrap();
        values.iter().map(|cpu| cpu["value"].as_u64().unwrap()).sum()
    };
    slots.as_array().unwrap().iter().map(sum).collect()
}

/// What holds on whichever path; whether the datapath is BPF, why, and how many packets the VXLAN device carried.
fn sound(results: &BTreeMap<String, String>) -> (bool, String, u64) {
    assert!(results["ping"].contains(" 0% packet loss"), "{}", results["ping"]);
    assert_eq!(results["payload"], "same");
    assert_eq!(results["failed"], "0");
    assert_eq!(results["left"], "0", "cleanup left something");
    let mended: u64 = results["mended"].parse().unwrap();
    assert!(mended < 5, "{mended} repairs where nobody broke anything");
    let status: Value = serde_json::from_str(&results["status"]).unwrap();
    let number = |key: &str| results[key].parse::<u64>().unwrap();
    let why = status["datapath"]["why"].as_str().unwrap().to_owned();
    (status["datapath"]["kind"] == "ebpf", why, number("device-after") - number("device-before"))
}

fn takes_the_fast_path(series: &str) {
    if skip_unless(&TOOLS) {
        return;
    }
    let Some(results) = boot(series, "vxlan") else { return };
    let (bpf, why, device) = sound(&results);
    assert!(bpf, "{why}");
    let counters = counters(&results);
    let fast = FAST.map(|counter| counters[counter as usize]);
    println!("{}: {fast:?} packets on the fast path, {device} through the VXLAN device", results["kernel"]);
    assert!(fast.iter().all(|packets| *packets > 500), "{fast:?}");
    assert!(device * 4 < fast[0] + fast[1], "{device} packets through the VXLAN device, fast: {fast:?}");
}

#[test]
fn linux_6_12_has_links() {
    takes_the_fast_path("6.12");
}

#[test]
fn linux_6_1_has_filters() {
    takes_the_fast_path("6.1");
}

#[test]
fn linux_5_10_takes_the_programs_and_stays_on_the_kernel_path() {
    if skip_unless(&TOOLS) {
        return;
    }
    let Some(results) = boot("5.10", "vxlan") else { return };
    let (bpf, why, device) = sound(&results);
    assert!(!bpf && why.contains("only from 5.13 on"), "{why}");
    assert!(device > 500, "{device} packets through the VXLAN device");
}

#[test]
fn linux_6_12_without_vxlan_carries_packets_in_user_space() {
    if skip_unless(&TOOLS) {
        return;
    }
    let Some(results) = boot("6.12", "tun") else { return };
    let (bpf, why, device) = sound(&results);
    let status: Value = serde_json::from_str(&results["status"]).unwrap();
    assert_eq!(status["datapath"]["kind"], "userspace", "{why}");
    assert!(!bpf && why.contains("auto: the kernel has no VXLAN device"), "{why}");
    assert!(device > 500, "{device} packets through the TUN device");
}
