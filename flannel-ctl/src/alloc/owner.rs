//! Whose lease a value says it is.

use crate::{model::LeaseValue, source::MAX_VALUE};

/// What a lease's value means to one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// Carries our node id.
    Us,
    /// Carries our address and no node id: flannel's daemon made it on this node, or an operator
    /// reserved it for us.
    OurAddress,
    /// Carries our address, but another node's id: two nodes behind one address, or a node that
    /// was installed anew.
    Rival,
    /// Carries another address.
    Other,
    /// Carries no address at all: a reservation for nobody in particular.
    Nobody,
    /// Cannot be read as a lease.
    Unreadable,
}

/// Reads the owner out of a value; `us` is what we would write ourselves.
pub fn owner(value: &[u8], us: &LeaseValue) -> Owner {
    match parse(value) {
        None if value.is_empty() => Owner::Nobody,
        Some(value) => of(&value, us),
        None => Owner::Unreadable,
    }
}

/// The value as flannel's format has it, if it is one.
pub(crate) fn parse(value: &[u8]) -> Option<LeaseValue> {
    if value.len() > MAX_VALUE { None } else { serde_json::from_slice(value).ok() }
}

fn of(value: &LeaseValue, us: &LeaseValue) -> Owner {
    if !us.node_id.is_empty() && value.node_id == us.node_id {
        return Owner::Us;
    }
    // flannel knows a node by its IPv4 address alone; an IPv6-only lease has none to compare.
    let ours = if value.public_ip.is_unspecified() {
        us.public_ip.is_unspecified() && value.public_ipv6.is_some() && value.public_ipv6 == us.public_ipv6
    } else {
        value.public_ip == us.public_ip
    };
    match (ours, value.node_id.is_empty()) {
        (true, true) => Owner::OurAddress,
        (true, false) if us.node_id.is_empty() => Owner::Other,
        (true, false) => Owner::Rival,
        (false, true) if value.public_ip.is_unspecified() && value.public_ipv6.is_none() => Owner::Nobody,
        (false, _) => Owner::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn us(text: &str) -> LeaseValue {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn the_node_counts_and_not_its_address() {
        let us = us(r#"{"PublicIP":"10.0.0.1","PublicIPv6":null,"NodeID":"a"}"#);
        for (text, expected) in [
            (r#"{"PublicIP":"10.0.0.9","PublicIPv6":null,"NodeID":"a"}"#, Owner::Us),
            (r#"{"PublicIP":"10.0.0.1","PublicIPv6":null}"#, Owner::OurAddress),
            (r#"{"PublicIP":"10.0.0.1","PublicIPv6":null,"NodeID":"b"}"#, Owner::Rival),
            (r#"{"PublicIP":"10.0.0.2","PublicIPv6":null,"NodeID":"b"}"#, Owner::Other),
            (r#"{"PublicIP":"10.0.0.2"}"#, Owner::Other),
            (r#"{"PublicIP":"0.0.0.0","PublicIPv6":null}"#, Owner::Nobody),
            (r#"{"PublicIP":"fd00::1"}"#, Owner::Unreadable),
            ("{{{{", Owner::Unreadable),
            ("", Owner::Nobody),
        ] {
            assert_eq!(owner(text.as_bytes(), &us), expected, "{text}");
        }
        let long = format!(r#"{{"PublicIP":"10.0.0.1","NodeID":"a","Pad":"{}"}}"#, "x".repeat(MAX_VALUE));
        assert_eq!(owner(long.as_bytes(), &us), Owner::Unreadable);
    }

    #[test]
    fn ipv6_only_nodes_are_told_apart_by_their_ipv6_address() {
        let us = us(r#"{"PublicIP":"0.0.0.0","PublicIPv6":"fd99::1","NodeID":"a"}"#);
        assert_eq!(owner(br#"{"PublicIP":"0.0.0.0","PublicIPv6":"fd99::1"}"#, &us), Owner::OurAddress);
        assert_eq!(owner(br#"{"PublicIP":"0.0.0.0","PublicIPv6":"fd99::2"}"#, &us), Owner::Other);
        assert_eq!(owner(br#"{"PublicIP":"0.0.0.0","PublicIPv6":null}"#, &us), Owner::Nobody);
    }
}
