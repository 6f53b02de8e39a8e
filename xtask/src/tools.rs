//! What the lanes need beyond cargo: found, installed, or named with the command that installs it.

use std::{
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Result, bail};
use xtask::lab::{missing_root, on_path};

use crate::cargo::succeed;

/// Something that can be missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tool {
    /// A program and the Debian package that has it.
    Program(&'static str, &'static str),
    /// Rust's nightly toolchain with its library sources: builds the BPF programs.
    NightlyWithSource,
    /// Links the BPF programs.
    BpfLinker,
    /// A component of the default toolchain, and the program that shows it is there.
    Component(&'static str, &'static str),
    /// Judges the dependencies.
    CargoDeny,
}

const BPF_LINKER: [&str; 5] = ["install", "bpf-linker", "--version", "0.10.3", "--locked"];
const CARGO_DENY: [&str; 5] = ["install", "cargo-deny", "--version", "0.20.2", "--locked"];
const NIGHTLY: [&str; 7] = ["toolchain", "install", "nightly", "--profile", "minimal", "--component", "rust-src"];

impl Tool {
    fn is_there(self) -> bool {
        match self {
            Self::Program(program, _) | Self::Component(program, _) => on_path(program),
            Self::NightlyWithSource => nightly_sysroot()
                .is_some_and(|sysroot| Path::new(&sysroot).join("lib/rustlib/src/rust/library/core").is_dir()),
            Self::BpfLinker => on_path("bpf-linker"),
            Self::CargoDeny => on_path("cargo-deny"),
        }
    }

    /// Program and arguments that install it.
    fn install(self) -> (&'static str, Vec<&'static str>) {
        match self {
            Self::Program(_, package) => ("apt-get", vec!["install", "--yes", "--no-install-recommends", package]),
            Self::NightlyWithSource if nightly_sysroot().is_some() => {
                ("rustup", vec!["component", "add", "rust-src", "--toolchain", "nightly"])
            }
            Self::NightlyWithSource => ("rustup", NIGHTLY.to_vec()),
            Self::BpfLinker => ("cargo", BPF_LINKER.to_vec()),
            Self::Component(_, component) => ("rustup", vec!["component", "add", component]),
            Self::CargoDeny => ("cargo", CARGO_DENY.to_vec()),
        }
    }
}

/// What the BPF programs are built with.
pub(crate) const BPF: [Tool; 2] = [Tool::NightlyWithSource, Tool::BpfLinker];

/// Installs what is missing, telling so; what cannot be installed is an error that names every command to type.
pub(crate) fn ensure(wanted: &[Tool]) -> Result<()> {
    let missing: Vec<Tool> = wanted.iter().copied().filter(|tool| !tool.is_there()).collect();
    let (packages, others): (Vec<Tool>, Vec<Tool>) = missing.into_iter().partition(|t| matches!(t, Tool::Program(..)));
    let mut failed = Vec::new();
    if !packages.is_empty() {
        let mut names: Vec<_> = packages.iter().filter_map(|tool| tool.install().1.pop()).collect();
        names.sort_unstable();
        names.dedup();
        let line = format!("apt-get install --yes --no-install-recommends {}", names.join(" "));
        if missing_root().is_some() || !on_path("apt-get") || apt(&names).is_err() {
            failed.push(line);
        }
    }
    for tool in others {
        let (program, arguments) = tool.install();
        let line = format!("{program} {}", arguments.join(" "));
        say(&format!("installing: {line}"));
        if succeed(Command::new(program).args(&arguments), &line).is_err() || !tool.is_there() {
            failed.push(line);
        }
    }
    if failed.is_empty() {
        return Ok(());
    }
    bail!("something is missing that could not be installed from here; as root, type:\n  {}", failed.join("\n  "));
}

/// A progress line, at once.
pub(crate) fn say(line: &str) {
    println!("==> {line}");
    // A closed standard output is no reason to stop working.
    drop(std::io::stdout().flush());
}

fn apt(packages: &[&str]) -> Result<()> {
    let apt_get = |arguments: &[&str]| {
        let mut command = Command::new("apt-get");
        // RUNLEVEL=1: the etcd package would start a server of its own.
        command.args(["--quiet", "--yes"]).args(arguments).stdin(Stdio::null()).stdout(Stdio::null());
        command.envs([("DEBIAN_FRONTEND", "noninteractive"), ("RUNLEVEL", "1")]);
        succeed(&mut command, &format!("apt-get {}", arguments.join(" ")))
    };
    let mut install = vec!["install", "--no-install-recommends"];
    install.extend(packages);
    say(&format!("installing with apt-get: {}", packages.join(" ")));
    // An old package list names files that the mirror has no longer; a fresh machine has none.
    apt_get(&["update"])?;
    apt_get(&install)
}

fn nightly_sysroot() -> Option<String> {
    let answer = Command::new("rustup").args(["run", "nightly", "rustc", "--print", "sysroot"]).output().ok()?;
    answer.status.success().then(|| String::from_utf8_lossy(&answer.stdout).trim().to_owned())
}
