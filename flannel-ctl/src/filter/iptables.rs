//! The policy as `iptables-restore` text, under flannel's own chain names and comments, so that
//! either daemon cleans up after the other.

use std::fmt::Write as _;

use ipnet::IpNet;

use super::saved::{Table, has_comment, stops_all, target};
use crate::model::{Family, FilterPolicy, Masquerade};

/// A chain of ours and the jump to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    pub table: &'static str,
    pub name: &'static str,
    /// The built-in chain that jumps to it, exactly once.
    pub hook: &'static str,
    /// On every rule.
    pub comment: &'static str,
    /// As `iptables-save` prints them. Without rules there is to be no chain.
    pub rules: Vec<String>,
}

impl Chain {
    /// Masquerading in the nat table.
    pub fn masquerade(family: Family, policy: Option<&FilterPolicy>) -> Self {
        let comment = "flanneld masq";
        let ours = policy.into_iter().flat_map(|policy| &policy.masquerade);
        let rules: Vec<_> = ours
            .filter(|masquerade| Family::of_net(&masquerade.network) == family)
            .flat_map(|masquerade| masquerade_rules(masquerade, comment))
            .collect();
        Self { table: "nat", name: "FLANNEL-POSTRTG", hook: "POSTROUTING", comment, rules }
    }

    /// Forwarding in the filter table.
    pub fn forward(family: Family, policy: Option<&FilterPolicy>) -> Self {
        let comment = "flanneld forward";
        let ours = policy.into_iter().flat_map(|policy| &policy.forward);
        let rules = ours
            .filter(|net| Family::of_net(net) == family)
            .flat_map(|net| {
                [
                    format!("-s {net} {} -j ACCEPT", commented(comment)),
                    format!("-d {net} {} -j ACCEPT", commented(comment)),
                ]
            })
            .collect();
        Self { table: "filter", name: "FLANNEL-FWD", hook: "FORWARD", comment, rules }
    }

    /// The same chain, not wanted.
    #[must_use]
    pub fn absent(self) -> Self {
        Self { rules: Vec::new(), ..self }
    }

    /// What to feed `iptables-restore --noflush` so that the chain and its jump become what is
    /// wanted; `None` if they are. One table is one transaction: the old chain is in force up
    /// to the moment in which the new one is.
    pub fn converge(&self, now: &Table) -> Option<String> {
        let hook = now.chain(self.hook);
        let exists = now.chains.contains_key(self.name);
        let jump = format!("{} -j {}", commented(self.comment), self.name);
        let stop = hook.iter().position(|rule| stops_all(rule));
        let ours: Vec<usize> = (0..hook.len()).filter(|index| self.is_ours(&hook[*index])).collect();
        let wanted = !self.rules.is_empty();
        let settled = if wanted {
            let placed = matches!(ours[..], [at] if hook[at] == jump && stop.is_none_or(|stop| at < stop));
            placed && now.chain(self.name) == self.rules
        } else {
            ours.is_empty() && !exists
        };
        if settled {
            return None;
        }
        let mut text = format!("*{}\n:{} - [0:0]\n", self.table, self.name);
        for rule in &self.rules {
            writeln!(text, "-A {} {rule}", self.name).expect("a String takes it");
        }
        for index in &ours {
            writeln!(text, "-D {} {}", self.hook, hook[*index]).expect("a String takes it");
        }
        if wanted {
            // flannel appends; behind a rule that stops everything that would be in vain.
            match stop {
                Some(stop) => {
                    let place = stop - ours.iter().filter(|index| **index < stop).count() + 1;
                    writeln!(text, "-I {} {place} {jump}", self.hook)
                }
                None => writeln!(text, "-A {} {jump}", self.hook),
            }
            .expect("a String takes it");
        } else {
            writeln!(text, "-X {}", self.name).expect("a String takes it");
        }
        text += "COMMIT\n";
        Some(text)
    }

    /// A jump to our chain, or one of the rules that flannel put straight into the built-in
    /// chain before v0.20.
    fn is_ours(&self, rule: &str) -> bool {
        target(rule) == Some(self.name) || has_comment(rule, self.comment)
    }
}

/// Something in this FORWARD chain would kill our packets unless they are accepted in it.
pub fn forward_needs_accept(filter: &Table) -> bool {
    filter.chains.get("FORWARD").is_some_and(|policy| policy == "DROP")
        || filter.chains.contains_key("DOCKER-USER")
        || filter.chain("FORWARD").iter().any(|rule| stops_all(rule))
}

fn masquerade_rules(masquerade: &Masquerade, comment: &str) -> Vec<String> {
    let Masquerade { network, subnet, exclude, fully_random } = masquerade;
    let multicast = match network {
        IpNet::V4(_) => "224.0.0.0/4",
        IpNet::V6(_) => "ff00::/8",
    };
    let comment = commented(comment);
    let target = if *fully_random { "MASQUERADE --random-fully" } else { "MASQUERADE" };
    let mut rules = vec![
        format!("-m mark --mark 0x4000/0x4000 {comment} -j RETURN"),
        format!("-s {subnet} -d {network} {comment} -j RETURN"),
        format!("-s {network} -d {subnet} {comment} -j RETURN"),
        format!("! -s {network} -d {subnet} {comment} -j RETURN"),
    ];
    rules.extend(exclude.iter().map(|net| format!("-s {network} -d {} {comment} -j RETURN", net.trunc())));
    rules.push(format!("-s {network} ! -d {multicast} {comment} -j {target}"));
    rules.push(format!("! -s {network} -d {network} {comment} -j {target}"));
    rules
}

fn commented(comment: &str) -> String {
    format!("-m comment --comment \"{comment}\"")
}

#[cfg(test)]
#[path = "iptables_tests.rs"]
mod tests;
