//! Why no interface was good enough.

use std::fmt;

use super::UplinkPolicy;
use crate::model::LinkInfo;

/// No interface fits: what was asked for, and why each one was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct NoUplink {
    /// What named no interface at all: "--iface=eth9: no interface has this name".
    pub unmatched: Vec<String>,
    /// Every interface with its addresses, and why it was refused.
    pub refused: Vec<RefusedLink>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedLink {
    /// Name and addresses.
    pub link: String,
    pub why: String,
}

impl fmt::Display for NoUplink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no interface can carry the tunnel")?;
        self.unmatched.iter().try_for_each(|line| write!(f, "\n  {line}"))?;
        if self.refused.is_empty() {
            return f.write_str("\nthere are no interfaces at all");
        }
        f.write_str("\ninterfaces that are there:")?;
        self.refused.iter().try_for_each(|refused| write!(f, "\n  {}: {}", refused.link, refused.why))
    }
}

/// What was refused so far.
#[derive(Default)]
pub(super) struct Refusals {
    unmatched: Vec<String>,
    /// Interface index and reason.
    refused: Vec<(u32, String)>,
}

impl Refusals {
    pub(super) fn add(&mut self, link: Option<&LinkInfo>, by: &str, why: &str) {
        match link {
            Some(link) => {
                let line = format!("{why} (named by {by})");
                if !self.refused.contains(&(link.index, line.clone())) {
                    self.refused.push((link.index, line));
                }
            }
            None => self.unmatched.push(format!("{by}: {why}")),
        }
    }

    pub(super) fn into_error(self, links: &[LinkInfo], policy: &UplinkPolicy) -> NoUplink {
        let why = |link: &LinkInfo| {
            let own = self.refused.iter().filter(|(index, _)| *index == link.index);
            let reasons: Vec<_> = own.map(|(_, why)| why.as_str()).collect();
            if reasons.is_empty() { not_named(link, policy) } else { reasons.join("; ") }
        };
        let refused = links.iter().map(|link| RefusedLink { link: describe(link), why: why(link) }).collect();
        NoUplink { unmatched: self.unmatched, refused }
    }
}

fn not_named(link: &LinkInfo, policy: &UplinkPolicy) -> String {
    let regex = policy.regexes.iter().find(|regex| regex.is_match(&link.name));
    match regex {
        Some(regex) if !link.up => format!("is down (named by --iface-regex={regex})"),
        Some(regex) => format!("is our own tunnel device (named by --iface-regex={regex})"),
        None if policy.regexes.is_empty() && policy.ifaces.is_empty() => "was not named by any rule".into(),
        None => "matches no --iface and no --iface-regex".into(),
    }
}

fn describe(link: &LinkInfo) -> String {
    let addresses: Vec<_> = link.addresses.iter().map(|address| address.net().to_string()).collect();
    let state = if link.up { "" } else { ", down" };
    match addresses.as_slice() {
        [] => format!("{} (no addresses{state})", link.name),
        some => format!("{} ({}{state})", link.name, some.join(", ")),
    }
}
