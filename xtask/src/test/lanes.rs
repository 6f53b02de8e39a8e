//! Which test program belongs to which lane, and what a lane needs.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{
    cargo::cargo,
    tools::{self, Tool},
};

const IP: Tool = Tool::Program("ip", "iproute2");
const NFT: Tool = Tool::Program("nft", "nftables");
const PING: Tool = Tool::Program("ping", "iputils-ping");
const BPFTOOL: Tool = Tool::Program("bpftool", "bpftool");
const STRACE: Tool = Tool::Program("strace", "strace");
const IPERF3: Tool = Tool::Program("iperf3", "iperf3");

/// What clusters and their store take.
const BASICS: [Tool; 9] = [
    IP,
    NFT,
    Tool::Program("iptables", "iptables"),
    PING,
    Tool::Program("etcd", "etcd-server"),
    Tool::Program("etcdctl", "etcd-client"),
    Tool::Program("openssl", "openssl"),
    Tool::Program("tcpdump", "tcpdump"),
    Tool::Program("tshark", "tshark"),
];

/// What a test needs from the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Lane {
    Fast,
    Netns,
    Bpf,
    E2e,
    Kernels,
    Real,
}

impl Lane {
    pub(crate) const ALL: [Self; 6] = [Self::Fast, Self::Netns, Self::Bpf, Self::E2e, Self::Kernels, Self::Real];

    /// What runs unasked: everything that needs nothing but packages.
    pub(crate) fn unasked(self) -> bool {
        self != Self::Real
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Fast => "fast",
            Self::Netns => "netns",
            Self::Bpf => "bpf",
            Self::E2e => "e2e",
            Self::Kernels => "kernels",
            Self::Real => "real",
        }
    }

    pub(crate) fn about(self) -> &'static str {
        match self {
            Self::Fast => "formatting and unit tests; without root the kernel's part of them is skipped",
            Self::Netns => "stores, sources of leases and the lab itself, with real servers",
            Self::Bpf => "the BPF programs in the running kernel",
            Self::E2e => "whole clusters through the built binary",
            Self::Kernels => "other kernels than this machine's, under emulation",
            Self::Real => "beside flannel's own daemon and Kubernetes' own API server, where variables name them",
        }
    }

    pub(crate) fn tools(self) -> Vec<Tool> {
        match self {
            Self::Fast => vec![Tool::Component("cargo-fmt", "rustfmt")],
            Self::Netns => BASICS.to_vec(),
            Self::Bpf => [&[IP, NFT, PING, BPFTOOL, STRACE, IPERF3][..], &tools::BPF].concat(),
            Self::E2e | Self::Real => {
                let more = [
                    Tool::Program("ethtool", "ethtool"),
                    STRACE,
                    Tool::Program("scapy", "python3-scapy"),
                    Tool::Program("conntrack", "conntrack"),
                    IPERF3,
                    BPFTOOL,
                ];
                [&BASICS[..], &more].concat()
            }
            Self::Kernels => vec![
                IP,
                NFT,
                BPFTOOL,
                Tool::Program("busybox", "busybox-static"),
                Tool::Program("cpio", "cpio"),
                Tool::Program("depmod", "kmod"),
                Tool::Program("qemu-system-x86_64", "qemu-system-x86"),
                Tool::Program("xz", "xz-utils"),
            ],
        }
    }

    /// A test program says its lane in its first lines, `//! lane: NAME`; otherwise xtask's own are end-to-end
    /// tests, and the rest is fast.
    fn of(package: &str, kind: &str, source: &Path) -> Result<Self> {
        let text = fs::read_to_string(source).with_context(|| format!("reading {}", source.display()))?;
        let said = text.lines().take_while(|line| line.starts_with("//!")).find_map(|l| l.strip_prefix("//! lane: "));
        match said {
            Some(said) => match Self::ALL.into_iter().find(|lane| lane.name() == said.trim()) {
                Some(lane) => Ok(lane),
                None => bail!("{}: there is no lane {said}", source.display()),
            },
            None if package == "xtask" && kind == "test" => Ok(Self::E2e),
            None => Ok(Self::Fast),
        }
    }
}

/// A built test program.
#[derive(Debug)]
pub(crate) struct Program {
    pub(crate) lane: Lane,
    /// `flannel-ctl bpf`: package and target.
    pub(crate) name: String,
    pub(crate) executable: PathBuf,
    pub(crate) package_dir: PathBuf,
}

/// What one build gives.
#[derive(Debug, Default)]
pub(crate) struct Built {
    pub(crate) programs: Vec<Program>,
    /// flannel-ctl itself, which cargo builds for its integration tests.
    pub(crate) binary: PathBuf,
}

/// Builds every test program once, in one set of features and one profile, and the binary that they start.
pub(crate) fn build(chosen: &[Lane]) -> Result<Built> {
    let mut command = cargo();
    command.args(["test", "--workspace", "--no-run", "--message-format", "json-render-diagnostics"]);
    if chosen.contains(&Lane::Bpf) && std::env::var_os("FLANNEL_BPF").is_none() && tools::ensure(&tools::BPF).is_err() {
        eprintln!("xtask: without these the BPF tests cannot run");
    }
    let output =
        command.stdin(Stdio::null()).stderr(Stdio::inherit()).output().context("running cargo test --no-run")?;
    ensure!(output.status.success(), "the tests do not build");
    let mut built = Built::default();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let message: serde_json::Value = serde_json::from_str(line).context("reading cargo's messages")?;
        let text = |pointer: &str| message.pointer(pointer).and_then(serde_json::Value::as_str);
        let is_test = message.pointer("/profile/test").and_then(serde_json::Value::as_bool) == Some(true);
        let (Some("compiler-artifact"), Some(executable)) = (text("/reason"), text("/executable")) else { continue };
        if !is_test {
            if text("/target/name") == Some("flannel-ctl") {
                built.binary = executable.into();
            }
            continue;
        }
        let manifest = Path::new(text("/manifest_path").context("an artifact without manifest path")?);
        let package_dir = manifest.parent().context("a manifest without directory")?.to_owned();
        let package = package_dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let kind = text("/target/kind/0").unwrap_or_default();
        let source = Path::new(text("/target/src_path").context("a target without source")?);
        built.programs.push(Program {
            lane: Lane::of(&package, kind, source)?,
            name: format!("{package} {} ({kind})", text("/target/name").unwrap_or_default()),
            executable: executable.into(),
            package_dir,
        });
    }
    built.programs.sort_by(|a, b| a.name.cmp(&b.name));
    ensure!(!built.binary.as_os_str().is_empty(), "cargo did not say where it put flannel-ctl");
    Ok(built)
}
