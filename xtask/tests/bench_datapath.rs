//! lane: e2e
//!
//! The benchmark of the datapaths runs, and its runs went the way that their labels say.

use std::process::Command;

use xtask::lab::{Netns, flannel_ctl, skip_unless};

#[test]
fn kernel_vxlan_and_plain_routes_are_measured_on_the_way_that_they_name() {
    if skip_unless(&["ip", "nft", "iptables", "ethtool", "iperf3"]) {
        return;
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    command.env("FLANNEL_CTL_BIN", flannel_ctl().unwrap()).args(["bench", "datapath", "--this-build"]);
    command.args(["--modes", "host,host-gw,vxlan-service", "--wire", "seg", "--metrics", "stream1,udp-rr1,udp512"]);
    // Disturbed or not, and fast or not: this machine is never quiet.
    command.args(["--rounds", "1", "--seconds", "1", "--warmup", "0", "--disturbed-above", "1000"]);
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "a run is void or failed:\n{text}\n{}", String::from_utf8_lossy(&output.stderr));
    for row in ["TCP, 1 stream, Gbit/s", "UDP request/response, 1 flow, 1/s", "UDP 512 B received, 1/s"] {
        let line = text.lines().find(|line| line.starts_with(&format!("| {row} |")));
        let line = line.unwrap_or_else(|| panic!("no row {row} in\n{text}"));
        let cells = line.split('|').map(str::trim).filter(|cell| !cell.is_empty());
        let numbers = cells.skip(1).filter(|cell| *cell != "-").count();
        assert_eq!(numbers, 3, "three modes, each with a number: {line}\n{text}");
    }
    let left: Vec<_> = Netns::list().into_iter().filter(|name| name.starts_with("dp")).collect();
    assert_eq!(left, Vec::<String>::new(), "nothing is left behind");
}
