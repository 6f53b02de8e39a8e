//! bpf(2) behind a real seccomp filter, as container runtimes install them.

use std::{mem::offset_of, os::unix::process::CommandExt as _};

use nix::libc;
use xtask::lab::{Cluster, Family, Launch, Process, wait};

use crate::{datapath, pins::links, start, wire};

/// bpf(2) gets this answer from now on, in this thread and all that it starts; everything else is let through.
#[expect(clippy::cast_possible_truncation, reason = "instruction codes have 16 bits")]
fn refuse_bpf(errno: i32) -> std::io::Result<()> {
    const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const IS: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    let step = |code, jf, k| libc::sock_filter { code, jt: 0, jf, k };
    let mut steps = [
        step(LOAD, 0, u32::try_from(offset_of!(libc::seccomp_data, nr)).unwrap()),
        step(IS, 1, u32::try_from(libc::SYS_bpf).unwrap()),
        step(RETURN, 0, libc::SECCOMP_RET_ERRNO | errno.cast_unsigned()),
        step(RETURN, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: 4, filter: steps.as_mut_ptr() };
    // SAFETY: the kernel reads the program, which outlives the call.
    let outcome = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) };
    if outcome == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

pub(crate) fn refused(cluster: &Cluster) {
    let node = cluster.node(1);
    start(node, &Launch::default());
    wire(cluster);
    assert_eq!(datapath(node).0, "ebpf", "{:?}", datapath(node));
    let ping = cluster.ping(1, 2, Family::V4).unwrap();
    node.stop().unwrap();
    for (errno, words) in [(libc::ENOSYS, "a seccomp filter hides it"), (libc::EPERM, "a seccomp filter")] {
        let before = node.log().len();
        let mut command = node.daemon_command(&Launch::default()).unwrap();
        // SAFETY: the child has one thread and makes one system call, without memory of its own.
        unsafe { command.pre_exec(move || refuse_bpf(errno)) };
        let daemon = Process::spawn("the daemon behind a filter", &mut command, &node.log_file()).unwrap();
        node.wait_ready().unwrap();
        wait::until("the node to be converged", wait::LONG, || {
            (node.status().ok()?["state"] == "converged").then_some(())
        })
        .unwrap_or_else(|error| panic!("{error}: {:#}", node.status().unwrap()));
        let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
        assert!(status.contains("Seccomp:\t2"), "it is behind the filter: {status}");
        let (kind, why) = datapath(node);
        println!("{errno}: {why}");
        assert!(kind == "vxlan" && why.starts_with("no BPF fast path: ") && why.contains(words), "{kind}: {why}");
        let said = node.log()[before..].lines().filter(|line| line.contains(" WARN ") && line.contains(words)).count();
        assert_eq!(said, 1, "{}", &node.log()[before..]);
        // Its own pins it cannot see, but remove.
        assert!(links(node).is_empty(), "{:?}", links(node));
        ping.more(50).unwrap();
        drop(daemon);
    }
    start(node, &Launch::default());
    assert_eq!(datapath(node).0, "ebpf", "{:?}", datapath(node));
    ping.stop().assert_nothing_lost();
}
