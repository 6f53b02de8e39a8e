//! PURE: flanneld's command line, as Go's `flag` package reads it, in `flannel-ctl run`'s words.
//!
//! We deviate knowingly: flanneld answers an unknown option with exit code 0, and silently
//! ignores everything behind the first word that is no option (`-ip-masq true -iface eth1` never
//! sees `-iface`). Here both are errors, with exit code 2: a node whose options were not
//! understood must not look well.

use std::fmt::Write as _;

use super::flags::{self, Kind, REMOVED, RUN};

/// What flanneld was asked to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// Run with these options, each in the form `--name=value`.
    Run(Vec<String>),
    Version,
    Help,
}

/// Why the command line cannot be read. The first reason ends the reading, as in Go: what stands
/// behind an unknown option may be its value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GoFlagError {
    #[error("bad flag syntax: {0}")]
    Syntax(String),
    #[error("flag provided but not defined: -{0}")]
    Unknown(String),
    #[error("-{name}: {why}")]
    Removed { name: &'static str, why: &'static str },
    #[error("flag needs an argument: -{0}")]
    NoValue(String),
    #[error(
        "{0:?} is not an option, and flanneld would ignore everything from there on \
         (an option that is on or off takes its value only behind =, as in -ip-masq=false)"
    )]
    Stray(String),
}

/// Translates what stands behind the program's name.
pub fn translate(args: &[String]) -> Result<Asked, GoFlagError> {
    let mut run = Vec::new();
    let mut version = false;
    let mut rest = args.iter();
    while let Some(arg) = rest.next() {
        let Some(body) = arg.strip_prefix("--").or_else(|| arg.strip_prefix('-')).filter(|_| arg != "-") else {
            return Err(GoFlagError::Stray(arg.clone()));
        };
        if body.is_empty() {
            // "--": what follows is no option any more.
            match rest.next() {
                Some(stray) => return Err(GoFlagError::Stray(stray.clone())),
                None => break,
            }
        }
        if body.starts_with(['-', '=']) {
            return Err(GoFlagError::Syntax(arg.clone()));
        }
        let (name, value) = match body.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (body, None),
        };
        match name {
            "h" | "help" => return Ok(Asked::Help),
            "version" => {
                version = !matches!(value, Some("false" | "False" | "FALSE" | "f" | "F" | "0"));
                continue;
            }
            _ => {}
        }
        let Some(flag) = flags::find(name) else {
            return Err(match REMOVED.iter().find(|removed| removed.name == name) {
                Some(removed) => GoFlagError::Removed { name: removed.name, why: removed.why },
                None => GoFlagError::Unknown(name.to_owned()),
            });
        };
        let value = match (flag.kind, value) {
            (_, Some(value)) => value,
            (Kind::Switch, None) => "true",
            (Kind::One | Kind::Many, None) => rest.next().ok_or_else(|| GoFlagError::NoValue(name.to_owned()))?,
        };
        run.push(format!("--{name}={value}"));
    }
    Ok(if version { Asked::Version } else { Asked::Run(run) })
}

/// What `flanneld -help` prints.
pub fn usage() -> String {
    let mut text = String::from(
        "Usage: flanneld [OPTION]...\n\nOne dash or two, -name=value or -name value; BOOL only behind =, and true without it.\n\
         Every option can also be given as an environment variable: FLANNELD_ETCD_ENDPOINTS.\n\
         Run, state and BPF directories follow the directory of -subnet-file unless they are given.\n",
    );
    for group in RUN {
        let written = write!(text, "\n{}:\n", group.heading);
        written.expect("writing to a String cannot fail");
        for flag in group.flags {
            let value = match flag.kind {
                Kind::Switch => "[=BOOL]".to_owned(),
                Kind::One | Kind::Many => format!(" {}", flag.value),
            };
            let choices = match flag.choices {
                [] => String::new(),
                words => format!(" ({})", words.join(", ")),
            };
            let written = writeln!(text, "  -{}{value}\n        {}{choices}", flag.name, flag.help_with_default());
            written.expect("writing to a String cannot fail");
        }
    }
    text.push_str("\n  -version\n        Print the version and exit\n  -h, -help\n        Print this and exit\n");
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(line: &str) -> Result<Asked, GoFlagError> {
        translate(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    fn run(line: &str) -> Vec<String> {
        match read(line) {
            Ok(Asked::Run(args)) => args,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn one_dash_or_two_with_and_without_equals() {
        let wanted = ["--iface=eth1", "--etcd-prefix=/x", "--v=4", "--ip-masq=true", "--kube-subnet-mgr=false"];
        assert_eq!(run("-iface=eth1 -etcd-prefix /x --v 4 --ip-masq -kube-subnet-mgr=false"), wanted);
        assert_eq!(run("--iface eth1 --etcd-prefix=/x -v=4 -ip-masq=true --kube-subnet-mgr=false"), wanted);
    }

    #[test]
    fn a_value_may_look_like_anything() {
        assert_eq!(
            run("-iface-regex=a=b -etcd-password --x -public-ip="),
            ["--iface-regex=a=b", "--etcd-password=--x", "--public-ip="]
        );
    }

    #[test]
    fn our_options_have_the_same_spelling() {
        assert_eq!(run("-datapath vxlan -state-dir=/x"), ["--datapath=vxlan", "--state-dir=/x"]);
    }

    #[test]
    fn what_go_would_ignore_is_an_error() {
        for line in ["-ip-masq false -iface eth1", "eth1", "-", "-- x"] {
            assert!(matches!(read(line), Err(GoFlagError::Stray(_))), "{line}");
        }
        assert_eq!(run("-ip-masq --"), ["--ip-masq=true"]);
    }

    #[test]
    fn errors_name_the_option() {
        assert_eq!(read("-v 1 -bogus=1"), Err(GoFlagError::Unknown("bogus".into())));
        assert_eq!(read("-iface"), Err(GoFlagError::NoValue("iface".into())));
        assert_eq!(read("---iface"), Err(GoFlagError::Syntax("---iface".into())));
        assert_eq!(read("-=x"), Err(GoFlagError::Syntax("-=x".into())));
        let removed = read("--networks a,b").unwrap_err().to_string();
        assert!(removed.starts_with("-networks: multi-network mode was removed"), "{removed}");
    }

    #[test]
    fn version_and_help() {
        assert_eq!(read("-version"), Ok(Asked::Version));
        assert_eq!(read("--version=true -v 3"), Ok(Asked::Version));
        assert_eq!(run("-version=false"), [""; 0]);
        assert_eq!(read("-version -bogus"), Err(GoFlagError::Unknown("bogus".into())));
        assert_eq!(read("-h"), Ok(Asked::Help));
        assert_eq!(read("-iface x --help -bogus"), Ok(Asked::Help));
    }

    proptest! {
        #[test]
        fn no_arguments_panic_and_all_are_kept(args in proptest::collection::vec("-{0,3}(iface|v|ip-masq|version|h|x)?(=.{0,3})?", 0..6)) {
            if let Ok(Asked::Run(run)) = translate(&args) {
                prop_assert!(run.iter().all(|arg| arg.starts_with("--") && arg.contains('=')));
                prop_assert!(run.len() <= args.len());
            }
        }
    }
}
