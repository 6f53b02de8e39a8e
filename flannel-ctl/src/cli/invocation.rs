//! From argv to a verb: by the name we were called, in clap's spelling or in Go's.

use std::{
    ffi::{OsStr, OsString},
    path::Path,
    process::ExitCode,
};

use clap::{
    Parser,
    error::{ContextKind, ContextValue, ErrorKind},
};

use super::{Cli, run_args::AS_FLANNELD, version};
use crate::config::{
    ConfigErrors, FlagErrors,
    flags::REMOVED,
    go_flags::{self, Asked},
};

/// Bad options or a bad network config.
pub const USAGE: u8 = 2;

/// What argv comes to.
#[derive(Debug)]
pub enum Invocation {
    Verb(Box<Cli>),
    /// Nothing to do but to say this, and to exit with that code.
    Say {
        text: String,
        on_stdout: bool,
        code: u8,
    },
}

/// Reads argv, the program's name included.
pub fn read(args: impl IntoIterator<Item = OsString>) -> Invocation {
    let args: Vec<OsString> = args.into_iter().collect();
    let name = args.first().and_then(|name| Path::new(name).file_name());
    if name == Some(OsStr::new("flanneld")) { as_flanneld(&args[1..]) } else { parse(args) }
}

/// The exit code for a verb's error.
pub fn exit_code(error: &anyhow::Error) -> ExitCode {
    let usage = error.chain().any(|cause| cause.is::<FlagErrors>() || cause.is::<ConfigErrors>());
    if usage { ExitCode::from(USAGE) } else { ExitCode::FAILURE }
}

fn as_flanneld(args: &[OsString]) -> Invocation {
    let refuse = |why: &dyn std::fmt::Display| Invocation::Say {
        text: format!("flanneld: {why}\nUsage: flanneld [OPTION]...; flanneld -help lists the options\n"),
        on_stdout: false,
        code: USAGE,
    };
    let texts: Result<Vec<String>, _> = args.iter().cloned().map(OsString::into_string).collect();
    let texts = match texts {
        Ok(texts) => texts,
        Err(arg) => return refuse(&format_args!("{} is not valid UTF-8", arg.display())),
    };
    // Both go to standard error with exit code 0, as flanneld has it.
    let say = |text| Invocation::Say { text, on_stdout: false, code: 0 };
    match go_flags::translate(&texts) {
        Ok(Asked::Version) => say(format!("{}\n", version::as_flanneld())),
        Ok(Asked::Help) => say(go_flags::usage()),
        Ok(Asked::Run(options)) => {
            let fixed = ["flannel-ctl".to_owned(), "run".to_owned(), format!("--{AS_FLANNELD}")];
            parse(fixed.into_iter().chain(options).map(OsString::from))
        }
        Err(error) => refuse(&error),
    }
}

fn parse(args: impl IntoIterator<Item = OsString>) -> Invocation {
    match Cli::try_parse_from(args) {
        Ok(cli) => Invocation::Verb(Box::new(cli)),
        Err(error) => Invocation::Say {
            text: why_removed(&error).unwrap_or_else(|| error.render().to_string()),
            on_stdout: !error.use_stderr(),
            code: if error.use_stderr() { USAGE } else { 0 },
        },
    }
}

/// An option of an old flanneld is answered with what became of it.
fn why_removed(error: &clap::Error) -> Option<String> {
    let Some(ContextValue::String(arg)) = error.get(ContextKind::InvalidArg) else { return None };
    let name = arg.trim_start_matches('-').split('=').next()?;
    let removed = REMOVED.iter().find(|removed| error.kind() == ErrorKind::UnknownArgument && removed.name == name)?;
    Some(format!("error: --{}: {}\n", removed.name, removed.why))
}
