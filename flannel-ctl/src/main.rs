//! The binary: parse, run, exit code.

use std::process::ExitCode;

use clap::Parser;
use flannel_ctl::cli::{self, Cli};

fn main() -> ExitCode {
    match cli::dispatch(&Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            let mut stderr = std::io::stderr().lock();
            // Nobody is left to tell when standard error itself is gone.
            drop(std::io::Write::write_fmt(&mut stderr, format_args!("flannel-ctl: {error:#}\n")));
            ExitCode::FAILURE
        }
    }
}
