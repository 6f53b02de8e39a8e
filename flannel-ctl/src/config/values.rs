//! PURE: option texts as given, and how they become values or problems.

use std::{collections::BTreeMap, fmt, path::Path};

use super::{
    Problem,
    flags::{Flag, Group, Kind, Origin, REMOVED, variable},
};

/// The texts given on the command line. Printing it shows names only: one is a password.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Values(BTreeMap<&'static str, Vec<String>>);

impl Values {
    pub fn insert(&mut self, name: &'static str, texts: Vec<String>) {
        self.0.insert(name, texts);
    }
}

impl fmt::Debug for Values {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// What the options are resolved against.
#[derive(Clone, Copy)]
pub struct World<'a> {
    /// Environment variable by name.
    pub variable: &'a dyn Fn(&str) -> Option<String>,
    /// Relative paths start here.
    pub current_dir: &'a Path,
    /// Called as `flanneld`: a bad environment variable is passed over with a warning, as flanneld
    /// does; as `flannel-ctl run` it is an error like any other.
    pub as_flanneld: bool,
    /// This binary was built with the BPF programs.
    pub has_bpf: bool,
}

/// One text with the name that its author knows it by.
struct Given {
    key: String,
    text: String,
    from_environment: bool,
}

/// Takes options out of [`Values`] and the environment; a flag beats its variable.
pub(super) struct Reader<'a> {
    groups: &'static [Group],
    values: &'a Values,
    pub world: World<'a>,
    pub problems: Vec<Problem>,
    pub warnings: Vec<String>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(groups: &'static [Group], values: &'a Values, world: World<'a>) -> Self {
        Self { groups, values, world, problems: Vec::new(), warnings: Vec::new() }
    }

    /// The last text given that reads as `T`. An empty text counts as none.
    pub(super) fn last<T>(&mut self, name: &str, read: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        self.all(name, read).pop()
    }

    /// Every text given that reads as `T`.
    pub(super) fn all<T>(&mut self, name: &str, read: impl Fn(&str) -> Result<T, String>) -> Vec<T> {
        let flag = self.flag(name);
        let mut read_texts = Vec::new();
        for given in self.given(flag) {
            match read(&given.text) {
                Ok(value) => read_texts.push(value),
                Err(rule) if given.from_environment && self.world.as_flanneld => {
                    self.warnings.push(format!(
                        "{} passed over: {}",
                        given.key,
                        Problem::new("value", shown(&given.text), rule)
                    ));
                }
                Err(rule) => self.problems.push(Problem::new(given.key, shown(&given.text), rule)),
            }
        }
        read_texts
    }

    /// The last text given, or the table's default.
    pub(super) fn or_default<T>(&mut self, name: &str, read: impl Fn(&str) -> Result<T, String>) -> T {
        let default = self.flag(name).default;
        match self.last(name, &read) {
            Some(value) => value,
            None => read(default).unwrap_or_else(|rule| unreachable!("default {default:?} of --{name}: {rule}")),
        }
    }

    /// One of the words of the table, in the same order as `meanings`.
    pub(super) fn choice<T: Copy>(&mut self, name: &str, meanings: &[T]) -> T {
        let choices = self.flag(name).choices;
        self.or_default(name, |text| {
            choices
                .iter()
                .zip(meanings)
                .find(|(word, _)| **word == text)
                .map(|(_, meaning)| *meaning)
                .ok_or_else(|| format!("must be one of {}", choices.join(", ")))
        })
    }

    pub(super) fn is_given(&self, name: &str) -> bool {
        !self.given(self.flag(name)).is_empty()
    }

    /// What was given, fit to be shown.
    pub(super) fn texts(&self, flag: &Flag) -> Vec<String> {
        self.given(flag).iter().map(|given| shown(&given.text)).collect()
    }

    /// Options and variables of flannel's that were set and do nothing here.
    pub(super) fn warn_of_ignored(&mut self) {
        for flag in self.groups.iter().flat_map(|group| group.flags) {
            if flag.origin == Origin::FlannelIgnored && self.is_given(flag.name) {
                self.warnings.push(format!("--{} has no effect: {}", flag.name, flag.help));
            }
        }
        for removed in REMOVED {
            let name = variable(removed.name);
            if (self.world.variable)(&name).is_some_and(|text| !text.is_empty()) {
                self.warnings.push(format!("{name} has no effect: {}", removed.why));
            }
        }
    }

    fn flag(&self, name: &str) -> &'static Flag {
        let flags = self.groups.iter().flat_map(|group| group.flags);
        flags.into_iter().find(|flag| flag.name == name).unwrap_or_else(|| unreachable!("no option --{name} here"))
    }

    fn given(&self, flag: &Flag) -> Vec<Given> {
        if let Some(texts) = self.values.0.get(flag.name) {
            let texts = texts.iter().filter(|text| !text.is_empty() || flag.kind == Kind::Switch);
            let key = || format!("--{}", flag.name);
            let all: Vec<_> =
                texts.map(|text| Given { key: key(), text: text.clone(), from_environment: false }).collect();
            return all;
        }
        let key = variable(flag.name);
        let text = (self.world.variable)(&key).filter(|text| !text.is_empty());
        text.map(|text| Given { key, text, from_environment: true }).into_iter().collect()
    }
}

/// Without the password of a URL.
fn shown(text: &str) -> String {
    match (text.find("://"), text.rfind('@')) {
        (Some(start), Some(end)) if start < end => format!("{}://***{}", &text[..start], &text[end..]),
        _ => text.to_owned(),
    }
}
