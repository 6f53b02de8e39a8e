//! What no compiler checks: pure rooms touch no world, and files stay short.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};
use xtask::lab::run;

/// Files and directories that compute and do nothing else; time and random numbers come in as arguments.
const PURE: [&str; 10] = [
    "flannel-common/src",
    "flannel-ctl/src/model",
    "flannel-ctl/src/plan",
    "flannel-ctl/src/alloc",
    "flannel-ctl/src/filter",
    "flannel-ctl/src/store/mvcc",
    "flannel-ctl/src/traffic",
    "flannel-ctl/src/userspace/packet",
    "flannel-ctl/src/config/netconf.rs",
    "flannel-ctl/src/config/netconf",
];

/// What gives the world away.
const WORLDLY: [&str; 15] = [
    "tokio::",
    "aya::",
    "rtnetlink",
    "netlink_packet",
    "netlink_sys",
    "nix::",
    "std::fs",
    "std::process",
    "std::env",
    "TcpStream",
    "UdpSocket",
    "Instant::now",
    "SystemTime::now",
    "rand::",
    "thread::sleep",
];

const WARN_LINES: usize = 400;
const MAX_LINES: usize = 600;

/// Every finding, one line each.
pub(crate) fn check(root: &Path) -> Result<()> {
    let mut found = Vec::new();
    for file in rust_files(root)? {
        let text = fs::read_to_string(root.join(&file)).with_context(|| format!("reading {}", file.display()))?;
        let lines = text.lines().count();
        if lines > MAX_LINES {
            found.push(format!("{}: {lines} lines, {MAX_LINES} is the limit", file.display()));
        } else if lines > WARN_LINES {
            println!("    {}: {lines} lines; {WARN_LINES} ask for a split", file.display());
        }
        if PURE.iter().any(|room| file.starts_with(room)) && !is_test_file(&file) {
            found.extend(worldly(&text).map(|(n, name)| format!("{}:{n}: {name} in a pure room", file.display())));
        }
    }
    ensure!(found.is_empty(), "\n  {}", found.join("\n  "));
    Ok(())
}

/// Line numbers and names of what a pure room must not use; comments and the tests at the end may.
fn worldly(text: &str) -> impl Iterator<Item = (usize, &'static str)> {
    text.lines()
        .enumerate()
        .take_while(|(_, line)| line.trim() != "#[cfg(test)]")
        .filter(|(_, line)| !line.trim_start().starts_with("//"))
        .filter_map(|(at, line)| Some((at + 1, *WORLDLY.iter().find(|name| mentions(line, name))?)))
}

/// As a path of its own: `rand::` does not stand in `Operand::`.
fn mentions(line: &str, name: &str) -> bool {
    let begins = |at: usize| !line[..at].ends_with(|before: char| before.is_alphanumeric() || before == '_');
    line.match_indices(name).any(|(at, _)| begins(at))
}

fn is_test_file(file: &Path) -> bool {
    let stem = file.file_stem().unwrap_or_default().to_string_lossy();
    stem == "tests" || stem.ends_with("_tests") || file.iter().any(|part| part == "tests")
}

/// What git tracks, or would track.
fn rust_files(root: &Path) -> Result<Vec<PathBuf>> {
    let mut git = std::process::Command::new("git");
    git.current_dir(root).args(["ls-files", "--cached", "--others", "--exclude-standard", "*.rs"]);
    let files = run(&mut git)?;
    Ok(files.lines().map(PathBuf::from).filter(|file| root.join(file).exists()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_world_is_found_in_code_but_not_in_comments_or_tests() {
        let text = "use crate::Operand::{self};\n// Instant::now is not ours\nlet t = Instant::now();\n\
                    #[cfg(test)]\nmod tests { use std::fs; }\n";
        assert_eq!(worldly(text).collect::<Vec<_>>(), [(3, "Instant::now")]);
    }
}
