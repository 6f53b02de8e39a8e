//! The binary: parse, run, exit code.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use flannel_ctl::{
    cli::{
        self,
        invocation::{self, Invocation},
    },
    output,
};

fn main() -> ExitCode {
    match invocation::read(std::env::args_os()) {
        Invocation::Verb(cli) => cli::dispatch(&cli).unwrap_or_else(|error| {
            complain(&format!("flannel-ctl: {error:#}\n"));
            invocation::exit_code(&error)
        }),
        Invocation::Say { text, on_stdout: false, code } => {
            complain(&text);
            ExitCode::from(code)
        }
        Invocation::Say { text, on_stdout: true, code } => match output::emit(&text) {
            Ok(()) => ExitCode::from(code),
            Err(error) => {
                complain(&format!("flannel-ctl: write to standard output: {error}\n"));
                ExitCode::FAILURE
            }
        },
    }
}

fn complain(text: &str) {
    // Nobody is left to tell when standard error itself is gone.
    drop(io::stderr().lock().write_all(text.as_bytes()));
}
