//! What `iptables-save` prints.

use std::collections::BTreeMap;

/// One table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// Chain to policy; `-` for chains that people made.
    pub chains: BTreeMap<String, String>,
    /// Chain to its rules, in order, without the leading `-A CHAIN `.
    pub rules: BTreeMap<String, Vec<String>>,
}

impl Table {
    /// The table of that name; an empty one if it is not in the text.
    pub fn parse(text: &str, name: &str) -> Self {
        let mut table = Self::default();
        let mut inside = false;
        for line in text.lines() {
            if let Some(begins) = line.strip_prefix('*') {
                inside = begins.trim() == name;
            } else if !inside {
            } else if let Some(chain) = line.strip_prefix(':') {
                let mut words = chain.split_whitespace();
                if let (Some(chain), Some(policy)) = (words.next(), words.next()) {
                    table.chains.insert(chain.to_owned(), policy.to_owned());
                }
            } else if let Some((chain, rule)) = line.strip_prefix("-A ").and_then(|rest| rest.split_once(' ')) {
                table.rules.entry(chain.to_owned()).or_default().push(rule.trim_end().to_owned());
            }
        }
        table
    }

    /// Rules of a chain; none if there is no such chain.
    pub fn chain(&self, name: &str) -> &[String] {
        self.rules.get(name).map_or(&[], Vec::as_slice)
    }
}

/// Where a rule jumps to.
pub fn target(rule: &str) -> Option<&str> {
    let mut words = rule.split_whitespace();
    words.find(|word| matches!(*word, "-j" | "-g"))?;
    words.next()
}

/// The rule carries this comment.
pub fn has_comment(rule: &str, comment: &str) -> bool {
    rule.contains(&format!("--comment \"{comment}\"")) || rule.contains(&format!("--comment {comment} "))
}

/// It stops every packet that gets there.
pub fn stops_all(rule: &str) -> bool {
    let rule = match rule.strip_prefix("-m comment --comment ") {
        Some(rest) if rest.starts_with('"') => rest[1..].split_once("\" ").map_or("", |(_, rest)| rest),
        Some(rest) => rest.split_once(' ').map_or("", |(_, rest)| rest),
        None => rule,
    };
    rule.starts_with("-j DROP") || rule.starts_with("-j REJECT")
}
