//! What a test needs from the machine, and what happens where that is missing.

use std::{
    path::PathBuf,
    process::{Command, Stdio},
};

/// Why the lab cannot work here for want of privileges: one line, or nothing.
pub fn missing_root() -> Option<String> {
    (!nix::unistd::geteuid().is_root())
        .then(|| "root is needed to make network namespaces: run it with sudo, or in a container with CAP_SYS_ADMIN and CAP_NET_ADMIN".to_owned())
}

/// True if the test must return now because root or a program is missing.
///
/// Says so in a line that starts with `SKIPPED:`, which the test lanes count; with `CI` set a skip is a failure.
///
/// ```no_run
/// if xtask::lab::skip_unless(&["tshark"]) {
///     return;
/// }
/// ```
///
/// # Panics
///
/// With `CI` set.
#[must_use]
pub fn skip_unless(programs: &[&str]) -> bool {
    let missing = missing_root().or_else(|| {
        let program = programs.iter().find(|program| !on_path(program))?;
        Some(format!("{program} is missing: `cargo xtask test` installs it, or says how"))
    });
    let Some(reason) = missing else { return false };
    skip(&reason);
    true
}

/// Somebody else's program that no package brings, by the environment variable that names it; without it the test is skipped
/// as by [`skip_unless`]. `what` is it, such as `flannel's own daemon`.
///
/// # Panics
///
/// With `CI` set.
pub fn given_program(variable: &str, what: &str) -> Option<PathBuf> {
    let help = format!(
        "set {variable} to the path of {what} (docs/testing.md, \"Other people's programs\", says how to build it)"
    );
    let reason = match std::env::var_os(variable).map(PathBuf::from) {
        Some(path) if path.is_file() => return Some(path),
        Some(path) => format!("{variable}={} is no file: {help}", path.display()),
        None => format!("{variable} is not set: {help}"),
    };
    skip(&reason);
    None
}

fn skip(reason: &str) {
    assert!(std::env::var_os("CI").is_none(), "skipped, and CI is set: {reason}");
    println!("SKIPPED: {reason}");
}

/// Whether a program can be found by name.
pub fn on_path(program: &str) -> bool {
    let found = Command::new("sh").args(["-c", "command -v \"$0\"", program]).stdout(Stdio::null()).status();
    found.is_ok_and(|status| status.success())
}
