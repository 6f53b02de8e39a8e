//! lane: fast
//!
//! `deploy/docker/mk-docker-opts.sh` writes what Docker units made for flannel expect.
#![expect(clippy::unwrap_used, reason = "a test's helper functions are tests too")]

use std::{fs, path::Path, process::Command};

const SUBNET_ENV: &str = "FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.11.1/24\nFLANNEL_MTU=1450\n";

/// Exit status and file written.
fn options(subnet_env: &str, arguments: &[&str], environment: &[(&str, &str)]) -> (Option<i32>, String) {
    let dir = tempfile::tempdir().unwrap();
    let (input, output) = (dir.path().join("subnet.env"), dir.path().join("docker.env"));
    fs::write(&input, subnet_env).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/docker/mk-docker-opts.sh");
    let result = Command::new(script)
        .arg("-f")
        .arg(&input)
        .arg("-d")
        .arg(&output)
        .args(arguments)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap())
        .envs(environment.iter().copied())
        .output()
        .unwrap();
    (result.status.code(), fs::read_to_string(&output).unwrap_or_default())
}

fn with_masq(value: &str) -> String {
    format!("{SUBNET_ENV}FLANNEL_IPMASQ={value}\n")
}

#[test]
fn both_forms_are_written_unless_one_is_chosen() {
    let individual =
        "DOCKER_OPT_BIP=\"--bip=10.5.11.1/24\"\nDOCKER_OPT_IPMASQ=\"--ip-masq=true\"\nDOCKER_OPT_MTU=\"--mtu=1450\"\n";
    let combined = "DOCKER_OPTS=\" --bip=10.5.11.1/24 --ip-masq=true --mtu=1450\"\n";
    let env = with_masq("false");
    assert_eq!(options(&env, &[], &[]), (Some(0), format!("{individual}{combined}")));
    assert_eq!(options(&env, &["-i"], &[]), (Some(0), individual.to_owned()));
    assert_eq!(options(&env, &["-c"], &[]), (Some(0), combined.to_owned()));
    assert_eq!(options(&env, &["-i", "-c"], &[]), (Some(0), format!("{individual}{combined}")));
}

#[test]
fn docker_masquerades_exactly_when_the_agent_does_not() {
    let combined = |masq: &str| options(&with_masq(masq), &["-c"], &[]).1;
    assert!(combined("true").contains(" --ip-masq=false "));
    assert!(combined("false").contains(" --ip-masq=true "));
    let left_out = options(&with_masq("true"), &["-c", "-m"], &[]).1;
    assert_eq!(left_out, "DOCKER_OPTS=\" --bip=10.5.11.1/24 --mtu=1450\"\n");
    assert_eq!(options(&with_masq("maybe"), &["-c"], &[]).0, Some(1));
}

#[test]
fn the_combined_name_and_options_of_the_environment_are_taken() {
    let (status, text) =
        options(SUBNET_ENV, &["-c", "-k", "DOCKER_NETWORK"], &[("DOCKER_OPT_LOG", "--log-level=warn")]);
    assert_eq!(status, Some(0));
    assert_eq!(text, "DOCKER_NETWORK=\" --bip=10.5.11.1/24 --log-level=warn --mtu=1450\"\n");
}

#[test]
fn a_missing_file_gives_no_options_and_help_ends_with_1() {
    assert_eq!(options("", &["-f", "/nonexistent/subnet.env"], &[]), (Some(0), "DOCKER_OPTS=\"\"\n".to_owned()));
    assert_eq!(options(SUBNET_ENV, &["-h"], &[]).0, Some(1));
    assert_eq!(options(SUBNET_ENV, &["-?"], &[]).0, Some(1));
}
