//! lane: bpf
//!
//! The embedded BPF object against the running kernel.
#![expect(clippy::unwrap_used, reason = "a test's helper functions are tests too")]

use std::{net::Ipv4Addr, process::Command};

use aya::{
    Ebpf, TestRun, TestRunOptions,
    programs::{LinkOrder, SchedClassifier, TcAttachType, tc::TcAttachOptions},
};
use flannel_common::Counter;
use flannel_ctl::bpf;
use xtask::lab::{Netns, run, skip_unless};

const PORT: u16 = 8472;
/// `TC_ACT_UNSPEC`, as the kernel's `u32` return value shows it: the next program, or the stack, decides.
const NEXT: u32 = u32::MAX;

/// The uplink program, verified and loaded, or nothing if this machine cannot.
fn loaded(port: u16) -> Option<Ebpf> {
    if skip_unless(&["ip", "ping"]) {
        return None;
    }
    if !bpf::EMBEDDED {
        assert!(std::env::var_os("CI").is_none(), "skipped, and CI is set: built without the BPF programs");
        println!("SKIPPED: built without the BPF programs: build with FLANNEL_BPF=require");
        return None;
    }
    let mut bpf = bpf::load(port).unwrap();
    program(&mut bpf).load().unwrap();
    Some(bpf)
}

fn program(bpf: &mut Ebpf) -> &mut SchedClassifier {
    bpf.program_mut(bpf::UPLINK_INGRESS).unwrap().try_into().unwrap()
}

fn verdict(bpf: &mut Ebpf, frame: &[u8]) -> u32 {
    let mut out = vec![0; frame.len()];
    let options = TestRunOptions { data_in: Some(frame), data_out: Some(&mut out), ..TestRunOptions::default() };
    let result = program(bpf).test_run(options).unwrap();
    assert_eq!(out, frame, "the program only looks");
    result.return_value
}

fn counters(bpf: &Ebpf) -> (u64, u64) {
    (bpf::counter(bpf, Counter::UplinkIngress).unwrap(), bpf::counter(bpf, Counter::UplinkVxlan).unwrap())
}

/// Ethernet, IPv4 or IPv6, UDP to the port, a VXLAN header for VNI 1.
fn udp(family: u16, port: u16) -> Vec<u8> {
    let mut frame = vec![2; 12];
    frame.extend(family.to_be_bytes());
    if family == 0x0800 {
        frame.extend([0x45, 0, 0, 36, 0, 0, 0x40, 0, 64, 17, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2]);
    } else {
        frame.extend([0x60, 0, 0, 0, 0, 16, 17, 64]);
        frame.extend([0; 32]);
    }
    frame.extend(50_000_u16.to_be_bytes());
    frame.extend(port.to_be_bytes());
    frame.extend([0, 16, 0, 0]);
    frame.extend([0x08, 0, 0, 0, 0, 0, 1, 0]);
    frame
}

#[test]
fn tunnel_packets_are_told_from_others_and_all_are_left_alone() {
    let Some(mut bpf) = loaded(PORT) else { return };
    let mut arp = vec![0xff; 12];
    arp.extend([0x08, 0x06]);
    arp.extend([0; 46]);
    let steps: [(&str, Vec<u8>, u64); 6] = [
        ("VXLAN over IPv4", udp(0x0800, PORT), 1),
        ("VXLAN over IPv6", udp(0x86dd, PORT), 2),
        ("another UDP port", udp(0x0800, 53), 2),
        ("ARP", arp, 2),
        ("cut in the UDP header", udp(0x0800, PORT)[..36].to_vec(), 2),
        ("VXLAN again", udp(0x0800, PORT), 3),
    ];
    for (seen, (what, frame, tunnel)) in steps.into_iter().enumerate() {
        assert_eq!(verdict(&mut bpf, &frame), NEXT, "{what}");
        assert_eq!(counters(&bpf), (seen as u64 + 1, tunnel), "{what}");
    }
}

#[test]
fn the_tunnel_port_is_chosen_when_loading() {
    let Some(mut bpf) = loaded(4789) else { return };
    verdict(&mut bpf, &udp(0x0800, PORT));
    verdict(&mut bpf, &udp(0x0800, 4789));
    assert_eq!(counters(&bpf), (2, 1));
}

#[test]
fn attached_by_tcx_it_counts_a_ping_which_still_arrives() {
    let Some(mut bpf) = loaded(PORT) else { return };
    let here = Netns::create("flab-bpf-a").unwrap();
    let there = Netns::create("flab-bpf-b").unwrap();
    let (near, far) = (Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, 2));
    here.ip(&format!(
        "link add eth0 type veth peer name eth0 netns {}\naddress add {near}/24 dev eth0\nlink set eth0 up\n",
        there.name()
    ))
    .unwrap();
    there.ip(&format!("address add {far}/24 dev eth0\nlink set eth0 up\n")).unwrap();

    let link = here
        .enter(|| {
            program(&mut bpf).attach_with_options(
                "eth0",
                TcAttachType::Ingress,
                TcAttachOptions::TcxOrder(LinkOrder::default()),
            )
        })
        .unwrap()
        .unwrap();
    run(here.command("ping").args(["-c", "3", "-i", "0.01", "-W", "2", &far.to_string()])).unwrap();
    let (all, tunnel) = counters(&bpf);
    assert!(all >= 3, "three echo replies at least, counted {all}");
    assert_eq!(tunnel, 0);

    program(&mut bpf).detach(link).unwrap();
    run(here.command("ping").args(["-c", "1", "-W", "2", &far.to_string()])).unwrap();
    assert_eq!(counters(&bpf).0, all, "a detached program sees nothing");
    drop((here, there));
    let left = run(Command::new("ip").args(["netns", "list"])).unwrap();
    assert!(!left.contains("flab-bpf"), "namespaces left behind: {left}");
}
