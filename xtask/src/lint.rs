//! `cargo xtask lint`.

use std::{
    process::{Command, ExitCode},
    time::Instant,
};

use anyhow::Result;

use crate::{
    cargo::{cargo, root, succeed},
    tidy,
    tools::{self, Tool, say},
};

/// All of it, warnings denied; every step runs, the failed ones are listed at the end.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Leave out the dependencies' licences, advisories and sources (cargo-deny takes minutes to install)
    #[arg(long)]
    skip_deny: bool,
}

type Step = (&'static str, fn() -> Result<()>);

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    tools::ensure(&[Tool::Component("cargo-fmt", "rustfmt"), Tool::Component("cargo-clippy", "clippy")])?;
    let mut steps: Vec<Step> = vec![
        ("formatting", formatting),
        ("purity and file lengths", || tidy::check(&root())),
        ("clippy, host", clippy_host),
        ("clippy, BPF target", clippy_bpf),
        ("documentation", documentation),
    ];
    if !args.skip_deny {
        steps.push(("dependencies", dependencies));
    }
    let mut failed = Vec::new();
    for (name, step) in steps {
        say(name);
        let start = Instant::now();
        if let Err(error) = step() {
            eprintln!("xtask: {name}: {error:#}");
            failed.push(name);
        }
        println!("    {:.1} s", start.elapsed().as_secs_f64());
    }
    if failed.is_empty() {
        say("all clean");
        return Ok(ExitCode::SUCCESS);
    }
    say(&format!("failed: {}", failed.join("; ")));
    Ok(ExitCode::FAILURE)
}

fn formatting() -> Result<()> {
    succeed(cargo().args(["fmt", "--all", "--", "--check"]), "cargo fmt")
}

fn clippy_host() -> Result<()> {
    let mut command = cargo();
    succeed(
        command.args(["clippy", "--workspace", "--features", "xtask/bench", "--all-targets", "--", "-D", "warnings"]),
        "cargo clippy",
    )
}

/// What the host pass cannot see: everything behind `cfg(target_arch = "bpf")`.
fn clippy_bpf() -> Result<()> {
    tools::ensure(&[Tool::NightlyWithSource])?;
    let mut command = Command::new("rustup");
    command.current_dir(root()).args(["run", "nightly", "cargo", "clippy", "--package", "flannel-ebpf"]);
    command.args(["--bins", "--lib", "--target", "bpfel-unknown-none", "-Z", "build-std=core"]);
    command.args(["--target-dir", "target/bpf-lint", "--", "-D", "warnings"]);
    // Set by the stable cargo that runs us, for itself.
    command.env_remove("CARGO").env_remove("RUSTUP_TOOLCHAIN");
    if Command::new("rustup")
        .args(["run", "nightly", "cargo-clippy", "--version"])
        .output()
        .is_ok_and(|o| !o.status.success())
    {
        succeed(Command::new("rustup").args(["component", "add", "clippy", "--toolchain", "nightly"]), "rustup")?;
    }
    succeed(&mut command, "cargo clippy for the BPF target")
}

fn documentation() -> Result<()> {
    let mut command = cargo();
    command.args(["doc", "--workspace", "--no-deps", "--lib", "--document-private-items"]);
    succeed(command.env("RUSTDOCFLAGS", "-D warnings"), "cargo doc")
}

fn dependencies() -> Result<()> {
    tools::ensure(&[Tool::CargoDeny])?;
    succeed(cargo().args(["deny", "check", "licenses", "bans", "sources"]), "cargo deny")?;
    match cargo().args(["deny", "check"]).arg("advisories").output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            if said.contains("failed to fetch advisory database") || said.contains("failed to open advisory database") {
                say("advisories: the database cannot be fetched from here; licences, bans and sources were checked");
                return Ok(());
            }
            anyhow::bail!("{said}");
        }
        Err(error) => Err(error.into()),
    }
}
