//! The options of [`crate::config::flags`] as clap arguments, for every verb that takes them.

use std::{env, marker::PhantomData, path::PathBuf};

use anyhow::Context;
use clap::{
    Arg, ArgAction, ArgMatches, Command,
    builder::{PossibleValue, TypedValueParser},
    error::ErrorKind,
};

use crate::{
    config::{
        EtcdConfig, FlagErrors, Settings,
        flags::{self, Flag, Group, Kind},
        resolve,
        settings::{Paths, SourceChoice},
        values::{Values, World},
    },
    kernel::fastpath,
};

/// All options of `run`; `#[command(flatten)]` it into a verb's arguments.
pub type RunArgs = FlagArgs<Run>;
/// The options that say where etcd is.
pub type EtcdArgs = FlagArgs<Etcd>;
/// The options that say where leases are kept.
pub type SourceArgs = FlagArgs<Source>;
/// The options that say where the daemon's files are.
pub type PathArgs = FlagArgs<Files>;

/// Hidden option that stands for `argv[0]`: see [`crate::config::go_flags`].
pub const AS_FLANNELD: &str = "as-flanneld";

/// A part of the table of options.
pub trait Part {
    const GROUPS: &'static [Group];
    /// Takes [`AS_FLANNELD`] as well.
    const RUNS: bool = false;
}

#[derive(Clone, Debug)]
pub struct Run;
#[derive(Clone, Debug)]
pub struct Etcd;
#[derive(Clone, Debug)]
pub struct Source;
#[derive(Clone, Debug)]
pub struct Files;

impl Part for Run {
    const GROUPS: &'static [Group] = flags::RUN;
    const RUNS: bool = true;
}

impl Part for Etcd {
    const GROUPS: &'static [Group] = flags::ETCD;
}

impl Part for Source {
    const GROUPS: &'static [Group] = flags::SOURCE;
}

impl Part for Files {
    const GROUPS: &'static [Group] = flags::PATHS;
}

/// The texts given for one part of the table.
#[derive(Clone, Debug)]
pub struct FlagArgs<P> {
    values: Values,
    as_flanneld: bool,
    part: PhantomData<P>,
}

impl RunArgs {
    /// With the environment; every problem at once.
    pub fn settings(&self) -> anyhow::Result<Settings> {
        self.resolve(resolve::settings)
    }
}

impl EtcdArgs {
    pub fn etcd(&self) -> anyhow::Result<EtcdConfig> {
        self.resolve(resolve::etcd)
    }
}

impl SourceArgs {
    pub fn source(&self) -> anyhow::Result<(SourceChoice, PathBuf)> {
        self.resolve(resolve::whole_source)
    }
}

impl PathArgs {
    pub fn paths(&self) -> anyhow::Result<Paths> {
        self.resolve(resolve::paths)
    }
}

impl<P> FlagArgs<P> {
    fn resolve<T>(&self, with: impl Fn(&Values, World<'_>) -> Result<T, FlagErrors>) -> anyhow::Result<T> {
        let current_dir: PathBuf = env::current_dir().context("find the current directory")?;
        let variable = |name: &str| env::var_os(name).map(|text| text.to_string_lossy().into_owned());
        let world = World {
            variable: &variable,
            current_dir: &current_dir,
            as_flanneld: self.as_flanneld,
            has_bpf: fastpath::EMBEDDED,
        };
        Ok(with(&self.values, world)?)
    }
}

impl<P: Part> clap::Args for FlagArgs<P> {
    fn augment_args(command: Command) -> Command {
        let hidden = Arg::new(AS_FLANNELD).long(AS_FLANNELD).action(ArgAction::SetTrue).hide(true);
        let flags = P::GROUPS.iter().flat_map(|group| group.flags.iter().map(|flag| arg(flag, group.heading)));
        command.args(P::RUNS.then_some(hidden)).args(flags)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl<P: Part> clap::FromArgMatches for FlagArgs<P> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut values = Values::default();
        for flag in P::GROUPS.iter().flat_map(|group| group.flags) {
            if let Some(texts) = matches.get_many::<String>(flag.name) {
                values.insert(flag.name, texts.cloned().collect());
            }
        }
        Ok(Self { values, as_flanneld: P::RUNS && matches.get_flag(AS_FLANNELD), part: PhantomData })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

fn arg(flag: &'static Flag, heading: &'static str) -> Arg {
    let arg = Arg::new(flag.name)
        .long(flag.name)
        .value_name(flag.value)
        .help(flag.help_with_default())
        .help_heading(heading)
        .value_parser(AnyText { choices: flag.choices });
    let arg = if flag.name == "v" { arg.short('v') } else { arg };
    match flag.kind {
        Kind::Switch => arg
            .action(ArgAction::Set)
            .overrides_with(flag.name)
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true"),
        Kind::One => arg.action(ArgAction::Set).overrides_with(flag.name),
        Kind::Many => arg.action(ArgAction::Append),
    }
}

/// Takes any text, so that what is wrong with it is told together with everything else that is
/// wrong; the choices are there for help and completions.
#[derive(Clone)]
struct AnyText {
    choices: &'static [&'static str],
}

impl TypedValueParser for AnyText {
    type Value = String;

    fn parse_ref(&self, command: &Command, _arg: Option<&Arg>, value: &std::ffi::OsStr) -> Result<String, clap::Error> {
        value.to_str().map(str::to_owned).ok_or_else(|| clap::Error::new(ErrorKind::InvalidUtf8).with_cmd(command))
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        if self.choices.is_empty() {
            return None;
        }
        Some(Box::new(self.choices.iter().map(|word| PossibleValue::new(*word))))
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;
    use crate::config::go_flags::{self, Asked};

    #[derive(Debug, Parser)]
    struct Only {
        #[command(flatten)]
        options: RunArgs,
    }

    fn given(args: &[&str]) -> Values {
        let only = Only::try_parse_from(std::iter::once("x").chain(args.iter().copied())).unwrap();
        only.options.values
    }

    fn values(texts: &[(&'static str, &[&str])]) -> Values {
        let mut values = Values::default();
        for (name, texts) in texts {
            values.insert(name, texts.iter().map(|&text| text.to_owned()).collect());
        }
        values
    }

    #[derive(Debug, Parser)]
    struct Parts {
        #[command(flatten)]
        etcd: EtcdArgs,
        #[command(flatten)]
        paths: PathArgs,
    }

    #[test]
    fn the_commands_are_sound() {
        crate::cli::Cli::command().debug_assert();
        Parts::command().debug_assert();
    }

    #[test]
    fn parts_of_the_table_stand_beside_each_other() {
        let parts = Parts::try_parse_from(["x", "--etcd-prefix=/a", "--run-dir=/b"]).unwrap();
        assert_eq!(parts.etcd.etcd().unwrap().prefix, "/a");
        assert_eq!(parts.paths.paths().unwrap().subnet_file, PathBuf::from("/b/subnet.env"));
    }

    #[test]
    fn the_last_one_counts_and_lists_keep_all() {
        let read = given(&[
            "--etcd-prefix=/a",
            "--iface=a",
            "--etcd-prefix",
            "/b",
            "--iface",
            "b",
            "--ip-masq",
            "--ip-masq=false",
        ]);
        assert_eq!(read, values(&[("etcd-prefix", &["/b"]), ("iface", &["a", "b"]), ("ip-masq", &["false"])]));
        assert_eq!(given(&["--ip-masq", "--etcd-cafile="]), values(&[("ip-masq", &["true"]), ("etcd-cafile", &[""])]));
    }

    #[test]
    fn whatever_go_flags_translate_to_is_understood() {
        for flag in flags::RUN.iter().flat_map(|group| group.flags) {
            let Ok(Asked::Run(args)) = go_flags::translate(&[format!("-{}=-x,=y", flag.name)]) else { panic!() };
            let args: Vec<_> = args.iter().map(String::as_str).collect();
            assert_eq!(given(&args), values(&[(flag.name, &["-x,=y"])]));
        }
    }
}
