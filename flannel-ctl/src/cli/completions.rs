//! `flannel-ctl completions`.

use std::process::ExitCode;

use clap::CommandFactory;
use clap_complete::Shell;

use super::{Cli, run_args::AS_FLANNELD};
use crate::output;

/// Arguments of `completions`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Shell to write for
    pub shell: Shell,
}

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    output::emit(&script(args.shell)?)?;
    Ok(ExitCode::SUCCESS)
}

fn script(shell: Shell) -> anyhow::Result<String> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "flannel-ctl", &mut script);
    let script = String::from_utf8(script)?;
    Ok(match shell {
        // clap_complete 4.6 sets `cmd` to one name and looks for another when the program's own
        // has a hyphen, and offers hidden options.
        Shell::Bash => script.replace("flannel__subcmd__ctl", "flannel__ctl").replace(&format!(" --{AS_FLANNELD}"), ""),
        _ => script,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bash_finds_the_options_of_every_verb() {
        let script = script(Shell::Bash).unwrap();
        let names = script.lines().filter_map(|line| line.trim().strip_prefix("cmd=\"")?.strip_suffix('"'));
        let names: Vec<&str> = names.filter(|name| !name.is_empty()).collect();
        assert!(names.len() > 12, "{names:?}");
        for name in names {
            assert!(script.lines().any(|line| line.trim() == format!("{name})")), "{name} leads nowhere");
        }
        assert!(!script.contains(AS_FLANNELD));
    }
}
