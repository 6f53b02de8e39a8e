//! The binary as its users meet it: texts, exit codes, and the name that it is called by.

use std::{
    os::unix::process::CommandExt,
    process::{Command, Output, Stdio},
};

/// The binary with nothing of our environment but where to find things.
fn called(name: &str, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_flannel-ctl"));
    command.arg0(name).args(args).env_clear().env("COLUMNS", "100").stdin(Stdio::null());
    command
}

fn run(name: &str, args: &[&str]) -> Output {
    called(name, args).output().expect("run the binary")
}

/// What it said on one stream; nothing on the other, and the exit code as expected.
fn said(output: &Output, code: i32, on_stdout: bool) -> String {
    let [stdout, stderr] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    assert_eq!(output.status.code(), Some(code), "{stdout}{stderr}");
    let (speaks, silent) = if on_stdout { (stdout, stderr) } else { (stderr, stdout) };
    assert_eq!(silent, "");
    speaks
}

#[test]
fn help_of_the_program() {
    insta::assert_snapshot!(said(&run("flannel-ctl", &["--help"]), 0, true));
}

#[test]
fn help_of_run() {
    insta::assert_snapshot!(said(&run("flannel-ctl", &["run", "--help"]), 0, true));
}

#[test]
fn help_of_flanneld() {
    insta::assert_snapshot!(said(&run("/opt/bin/flanneld", &["-help"]), 0, false));
    assert_eq!(run("flanneld", &["-h"]).stderr, run("flanneld", &["--help"]).stderr);
}

#[test]
fn flanneld_tells_its_version_on_standard_error() {
    let wanted = format!("v{}\n", env!("CARGO_PKG_VERSION"));
    for args in [&["-version"][..], &["--version"], &["-v", "4", "-version=true"]] {
        assert_eq!(said(&run("flanneld", args), 0, false), wanted);
    }
}

#[test]
fn every_bad_option_of_run_is_told_at_once() {
    let args =
        ["run", "--datapath=warp", "--iface-regex", "eth[", "--ip-masq=yes", "--healthz-port=x", "--etcd-keyfile=k"];
    let output = called("flannel-ctl", &args).env("FLANNELD_LEASE_TTL", "soon").output().unwrap();
    insta::assert_snapshot!(said(&output, 2, false));
}

#[test]
fn flanneld_passes_over_a_bad_variable_and_refuses_bad_options() {
    let args = ["-iptables-resync", "0", "-etcd-endpoints=ftp://a"];
    let output = called("flanneld", &args).env("FLANNELD_HEALTHZ_PORT", "x").output().unwrap();
    insta::assert_snapshot!(said(&output, 2, false));
}

#[test]
fn what_flanneld_cannot_read_ends_with_code_2() {
    let texts: Vec<_> = [&["-bogus"][..], &["-ip-masq", "false", "-iface", "eth1"], &["-networks=a,b"], &["-iface"]]
        .iter()
        .map(|args| said(&run("flanneld", args), 2, false))
        .collect();
    insta::assert_snapshot!(texts.join("\n"));
}

#[test]
fn a_removed_option_says_what_became_of_it() {
    let text = said(&run("flannel-ctl", &["run", "--listen=:8888"]), 2, false);
    assert!(text.contains("--listen: client/server mode was removed"), "{text}");
}

#[test]
fn an_unknown_verb_or_option_is_a_usage_error() {
    said(&run("flannel-ctl", &["fly"]), 2, false);
    said(&run("flannel-ctl", &[]), 2, false);
    let text = said(&run("flannel-ctl", &["run", "--ifaces=eth0"]), 2, false);
    assert!(text.contains("'--iface'"), "{text}");
}

#[test]
fn the_version_is_a_document_too() {
    let text = said(&run("flannel-ctl", &["version", "--output=json"]), 0, true);
    let document: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(document["version"], env!("CARGO_PKG_VERSION"));
    assert!(document["bpf"].is_boolean());
    assert!(said(&run("flannel-ctl", &["version"]), 0, true).contains(env!("CARGO_PKG_VERSION")));
}

#[test]
fn completions_know_options_and_choices() {
    for shell in ["bash", "zsh", "fish"] {
        let script = said(&run("flannel-ctl", &["completions", shell]), 0, true);
        assert!(script.contains("datapath") && script.contains("userspace"), "{shell}");
    }
}

#[test]
fn every_verb_has_a_man_page() {
    let dir = tempfile::tempdir().unwrap();
    let pages = dir.path().join("man1");
    said(&run("flannel-ctl", &["man", pages.to_str().unwrap()]), 0, true);
    for page in ["flannel-ctl.1", "flannel-ctl-run.1", "flannel-ctl-status.1", "flannel-ctl-cleanup.1"] {
        let text = std::fs::read_to_string(pages.join(page)).unwrap();
        assert!(text.contains(".TH"), "{page}");
    }
}

#[test]
fn a_reader_that_went_away_is_no_failure() {
    for args in [&["run", "--help"][..], &["version"], &["completions", "bash"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = called("flannel-ctl", args).stdout(writer).stderr(Stdio::piped()).output().unwrap();
        assert_eq!(said(&output, 0, false), "", "{args:?}");
    }
}
