//! PURE: what is wrong with a setting, collected until everything has been looked at.

use std::fmt;

/// One setting that breaks one rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The key of the network config (`Backend.VNI`) or the option (`--iptables-resync`).
    pub key: String,
    /// The value as it was written, shortened; `None` when it is missing.
    pub value: Option<String>,
    /// The rule that it breaks.
    pub rule: String,
}

impl Problem {
    pub fn new(key: impl Into<String>, value: impl AsRef<str>, rule: impl Into<String>) -> Self {
        Self { key: key.into(), value: Some(shorten(value.as_ref())), rule: rule.into() }
    }

    /// The setting is not there, and should be.
    pub fn missing(key: impl Into<String>, rule: impl Into<String>) -> Self {
        Self { key: key.into(), value: None, rule: rule.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            Some(value) => write!(f, "{} {value}: {}", self.key, self.rule),
            None => write!(f, "{} is missing: {}", self.key, self.rule),
        }
    }
}

/// Everything that is wrong with flannel's network config. Never empty.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ConfigErrors(pub Vec<Problem>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        list(f, "the network config is refused", &self.0)
    }
}

/// Everything that is wrong with the command line and the environment. Never empty.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct FlagErrors(pub Vec<Problem>);

impl fmt::Display for FlagErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        list(f, "the options are refused", &self.0)
    }
}

fn list(f: &mut fmt::Formatter<'_>, head: &str, problems: &[Problem]) -> fmt::Result {
    match problems {
        [only] => write!(f, "{head}: {only}"),
        several => {
            write!(f, "{head} for {} reasons:", several.len())?;
            several.iter().try_for_each(|problem| write!(f, "\n  {problem}"))
        }
    }
}

/// Long enough to recognise a value, short enough for a log line, harmless to a terminal.
fn shorten(value: &str) -> String {
    const LONGEST: usize = 72;
    let mut short = String::new();
    for (position, letter) in value.chars().enumerate() {
        if position == LONGEST {
            short.push('…');
            break;
        }
        if letter.is_control() {
            short.extend(letter.escape_default());
        } else {
            short.push(letter);
        }
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_problem_is_one_line_and_several_are_a_list() {
        let first = Problem::new("SubnetLen", "31", "at most 30");
        let second = Problem::missing("Network", "required while EnableIPv4 is true");
        assert_eq!(
            ConfigErrors(vec![first.clone()]).to_string(),
            "the network config is refused: SubnetLen 31: at most 30"
        );
        assert_eq!(
            ConfigErrors(vec![first, second]).to_string(),
            "the network config is refused for 2 reasons:\n  SubnetLen 31: at most 30\n  Network is missing: required while EnableIPv4 is true"
        );
    }

    #[test]
    fn hostile_values_are_cut_and_escaped() {
        let problem = Problem::new("Network", format!("\u{1b}[2J{}", "x".repeat(5000)), "no CIDR");
        assert!(problem.to_string().len() < 120 && !problem.to_string().contains('\u{1b}'), "{problem}");
    }
}
