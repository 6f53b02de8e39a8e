//! Why a node does not start: another one lives with its identity or its address.

use std::fmt;

use crate::{
    alloc,
    model::{LeaseRecord, LeaseValue},
};

/// A living node holds a lease that cannot be held twice.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Contested {
    pub clash: Clash,
    /// Its name and address, as its lease says.
    pub holder: String,
    pub holding: Holding,
    /// It was asked at an earlier start, and not again now.
    pub remembered: bool,
}

/// What two nodes have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clash {
    NodeId,
    PublicAddress,
}

/// One lease from its creation to its end, whatever is written into it meanwhile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holding {
    pub key: String,
    /// etcd's create revision.
    pub created: i64,
}

impl Holding {
    pub fn of(record: &LeaseRecord) -> Self {
        Self { key: record.key.clone(), created: record.created }
    }
}

impl Contested {
    pub(super) fn new(record: &LeaseRecord, us: &LeaseValue, remembered: bool) -> Self {
        let clash =
            if alloc::owner(&record.value, us) == alloc::Owner::Us { Clash::NodeId } else { Clash::PublicAddress };
        let holder = alloc::parse(&record.value).map_or_else(|| record.key.clone(), |value| name(&value));
        Self { clash, holder, holding: Holding::of(record), remembered }
    }
}

/// A node as its lease names it, bounded and printable: whoever may write to the store may write any name.
pub(super) fn name(value: &LeaseValue) -> String {
    let address = match value.public_ipv6 {
        Some(ip) if value.public_ip.is_unspecified() => ip.to_string(),
        _ => value.public_ip.to_string(),
    };
    let name: String = value.node_name.chars().take(64).flat_map(char::escape_debug).collect();
    if name.is_empty() { address } else { format!("{name} ({address})") }
}

impl fmt::Display for Contested {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { clash, holder, holding: Holding { key, .. }, remembered } = self;
        let answered = if *remembered { "answered an earlier start and still holds" } else { "lives and holds" };
        match clash {
            Clash::NodeId => write!(
                f,
                "{holder} has this node's id, {answered} {key}: one of the two machines is a copy of the other; on the \
                 copy remove the identity with `flannel-ctl cleanup --forget-node` and start again, which gives it a \
                 subnet of its own"
            )?,
            Clash::PublicAddress => write!(
                f,
                "{holder} has this node's public address, {answered} {key}: peers cannot reach two nodes at one \
                 address; give this one another with --iface or --public-ip"
            )?,
        }
        write!(f, " (if {holder} is gone for good: `flannel-ctl leases release {key} --force`)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_who_has_it_and_what_to_do() {
        let us = serde_json::from_str(r#"{"PublicIP":"10.0.0.2","NodeID":"a"}"#).unwrap();
        let record = |value: &str| LeaseRecord {
            key: "10.5.1.0-24".into(),
            value: value.into(),
            created: 5,
            modified: 6,
            lease_id: 1,
        };
        let text = |value: &str, remembered| Contested::new(&record(value), &us, remembered).to_string();
        let twin = text(r#"{"PublicIP":"10.0.0.1","NodeID":"a","NodeName":"one"}"#, false);
        assert!(twin.starts_with("one (10.0.0.1) has this node's id, lives and holds 10.5.1.0-24: "), "{twin}");
        assert!(twin.contains("cleanup --forget-node"), "{twin}");
        let rival = text("{\"PublicIP\":\"10.0.0.2\",\"NodeID\":\"b\",\"NodeName\":\"\\u001b[2J\"}", true);
        assert!(rival.starts_with("\\u{1b}[2J (10.0.0.2) has this node's public address, answered an"), "{rival}");
        assert!(rival.contains("--public-ip") && rival.contains("release 10.5.1.0-24 --force"), "{rival}");
    }
}
