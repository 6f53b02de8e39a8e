//! lane: bpf
//!
//! The embedded BPF object against the running kernel: packets in, packets out.
#![allow(clippy::unwrap_used, reason = "tests")]

mod counters;
mod deserted;
mod egress;
mod forgery;
mod frame;
mod ingress;
mod instructions;
mod kernel;
mod learning;
mod patience;
mod races;
mod scale;
mod site;

use flannel_ctl::kernel::fastpath;
use xtask::lab::skip_unless;

/// True if the test must return now, having said why.
fn skipped(programs: &[&str]) -> bool {
    if skip_unless(programs) {
        return true;
    }
    if !fastpath::EMBEDDED {
        assert!(std::env::var_os("CI").is_none(), "skipped, and CI is set: built without the BPF programs");
        println!("SKIPPED: built without the BPF programs: build with FLANNEL_BPF=require");
        return true;
    }
    false
}

#[test]
fn the_kernels_verifier_takes_every_program() {
    if !skipped(&[]) {
        fastpath::probe().unwrap();
    }
}
