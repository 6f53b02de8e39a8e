//! TEST: an empty network of one's own.

use std::process::Command;

use nix::sched::{CloneFlags, unshare};

/// Runs the test on a thread in a new network namespace, loopback up. Commands that it starts
/// are in there too. Without the privilege it says so and passes, except under CI.
pub(crate) fn isolated(test: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(move || {
        if let Err(error) = unshare(CloneFlags::CLONE_NEWNET) {
            assert!(std::env::var_os("CI").is_none(), "needs a network namespace of its own: {error}");
            eprintln!("SKIPPED: needs root for a network namespace of its own: {error}");
            return;
        }
        ip("link set lo up");
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// `ip ARGS`, which must succeed; returns its output.
pub(crate) fn ip(args: &str) -> String {
    run("ip", args)
}

/// `bridge ARGS`, which must succeed; returns its output.
pub(crate) fn bridge(args: &str) -> String {
    run("bridge", args)
}

fn run(program: &str, args: &str) -> String {
    let output = Command::new(program).args(args.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "{program} {args}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
