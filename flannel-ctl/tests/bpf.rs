//! lane: bpf
//!
//! The embedded BPF object against the running kernel.

use flannel_ctl::kernel::fastpath;
use xtask::lab::skip_unless;

#[test]
fn the_kernels_verifier_takes_every_program() {
    if skip_unless(&["ip"]) {
        return;
    }
    if !fastpath::EMBEDDED {
        assert!(std::env::var_os("CI").is_none(), "skipped, and CI is set: built without the BPF programs");
        println!("SKIPPED: built without the BPF programs: build with FLANNEL_BPF=require");
        return;
    }
    fastpath::probe().unwrap();
}
