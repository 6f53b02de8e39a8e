//! PURE: every option of the daemon in one table.
//!
//! clap's command, Go's spelling, the `FLANNELD_*` environment and the defaults are all read
//! from here, so that none of them can disagree with the others.

mod table;

pub use table::{ETCD, PATHS, REMOVED, RUN, SOURCE};

/// One option.
#[derive(Debug, PartialEq, Eq)]
pub struct Flag {
    /// Without dashes, as flannel spells it.
    pub name: &'static str,
    pub kind: Kind,
    /// What stands for the value in help.
    pub value: &'static str,
    /// Text of the default; empty when there is none.
    pub default: &'static str,
    /// The words that are allowed, if it is a choice.
    pub choices: &'static [&'static str],
    /// Whose option it is.
    pub origin: Origin,
    pub help: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// On or off; a value only behind `=`.
    Switch,
    /// The last one given counts.
    One,
    /// Every one given counts.
    Many,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// flanneld has it too.
    Flannel,
    /// flanneld has it, and it does nothing here.
    FlannelIgnored,
    Ours,
}

/// Options under one heading of the help.
#[derive(Debug, PartialEq, Eq)]
pub struct Group {
    pub heading: &'static str,
    pub flags: &'static [Flag],
}

/// An option of an old flanneld, refused with the reason.
#[derive(Debug, PartialEq, Eq)]
pub struct Removed {
    pub name: &'static str,
    pub why: &'static str,
}

impl Flag {
    /// The help text with the default behind it.
    pub fn help_with_default(&self) -> String {
        match self.default {
            "" => self.help.to_owned(),
            default => format!("{} [default: {default}]", self.help),
        }
    }

    const fn one(name: &'static str, value: &'static str, default: &'static str, help: &'static str) -> Self {
        Self { name, kind: Kind::One, value, default, choices: &[], origin: Origin::Flannel, help }
    }

    const fn many(name: &'static str, value: &'static str, help: &'static str) -> Self {
        Self { name, kind: Kind::Many, value, default: "", choices: &[], origin: Origin::Flannel, help }
    }

    const fn switch(name: &'static str, default: &'static str, help: &'static str) -> Self {
        Self { name, kind: Kind::Switch, value: "BOOL", default, choices: &[], origin: Origin::Flannel, help }
    }

    /// A choice; the first word is the default.
    const fn choice(name: &'static str, choices: &'static [&'static str], help: &'static str) -> Self {
        Self { name, kind: Kind::One, value: "WORD", default: choices[0], choices, origin: Origin::Ours, help }
    }

    const fn ours(self) -> Self {
        Self { origin: Origin::Ours, ..self }
    }

    const fn ignored(self) -> Self {
        Self { origin: Origin::FlannelIgnored, ..self }
    }
}

/// The environment variable of an option: `FLANNELD_` and its name in capitals.
pub fn variable(name: &str) -> String {
    format!("FLANNELD_{}", name.to_uppercase().replace('-', "_"))
}

/// The option of that name among all of `run`'s.
pub fn find(name: &str) -> Option<&'static Flag> {
    RUN.iter().flat_map(|group| group.flags).find(|flag| flag.name == name)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// C1.1 of the compatibility notes: what flanneld v0.28.9 prints with `-help`.
    const FLANNELD: &[&str] = &[
        "etcd-cafile",
        "etcd-certfile",
        "etcd-endpoints",
        "etcd-keyfile",
        "etcd-password",
        "etcd-prefix",
        "etcd-username",
        "healthz-ip",
        "healthz-port",
        "iface",
        "iface-can-reach",
        "iface-regex",
        "ip-blackhole-route",
        "ip-masq",
        "ip-masq-fully-random-disable",
        "iptables-forward-rules",
        "iptables-resync",
        "kube-annotation-prefix",
        "kube-api-url",
        "kube-subnet-mgr",
        "kubeconfig-file",
        "log_backtrace_at",
        "net-config-path",
        "public-ip",
        "public-ipv6",
        "set-node-network-unavailable",
        "subnet-file",
        "subnet-lease-renew-margin",
        "v",
        "vmodule",
    ];

    #[test]
    fn every_flag_of_flanneld_is_there_and_marked() {
        let flags = || RUN.iter().flat_map(|group| group.flags);
        let marked: Vec<_> = flags().filter(|flag| flag.origin != Origin::Ours).map(|flag| flag.name).collect();
        assert_eq!(marked.iter().copied().collect::<BTreeSet<_>>(), FLANNELD.iter().copied().collect());
        let names: BTreeSet<_> = flags().map(|flag| flag.name).collect();
        assert_eq!(names.len(), flags().count(), "no name twice");
        assert!(REMOVED.iter().all(|removed| !names.contains(removed.name)));
    }
}
