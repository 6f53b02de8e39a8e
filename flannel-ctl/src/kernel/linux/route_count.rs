//! How many routes there are, without reading them.
//!
//! The kernel takes IPv4 routes without a word: with a device that goes down, an address or a nexthop object (`fib_table_flush`,
//! `net/ipv4/fib_trie.c`, 6.18); and IPv6 routes with a device that goes down, where `skip_notify_on_dev_down` is set. Most of these
//! are told of by themselves; this is for the rest, and for what nobody has thought of.

use std::fs;

/// Of the calling thread's network namespace.
const V4: &str = "/proc/thread-self/net/fib_triestat";
const V6: &str = "/proc/thread-self/net/rt6_stats";

/// Routes of everybody; `None`: not told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RouteCount {
    /// In the main table, or in it and the local one where the kernel keeps them together.
    v4: Option<u64>,
    /// In all tables.
    v6: Option<u64>,
}

impl RouteCount {
    pub(super) fn read() -> Self {
        let read = |path, parse: fn(&str) -> Option<u64>| parse(&fs::read_to_string(path).ok()?);
        Self { v4: read(V4, in_main_table), v6: read(V6, ipv6_entries) }
    }
}

fn in_main_table(text: &str) -> Option<u64> {
    let main = text.split_once("Main:")?.1;
    main.split_once("Prefixes:")?.1.split_whitespace().next()?.parse().ok()
}

/// The fourth number is `fib_rt_entries` (`rt6_stats_seq_show`, `net/ipv6/route.c`).
fn ipv6_entries(text: &str) -> Option<u64> {
    u64::from_str_radix(text.split_whitespace().nth(3)?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_main_table_counts() {
        let text = "Basic info: size of leaf: 48 bytes, size of tnode: 40 bytes.\nMain:\n\tAver depth:     2.33\n\t\
                    Max depth:      6\n\tLeaves:         18\n\tPrefixes:       21\n\tInternal nodes: 16\nLocal:\n\tPrefixes:       4\n";
        assert_eq!(in_main_table(text), Some(21));
        assert_eq!(in_main_table("Basic info:\n"), None);
    }

    #[test]
    fn ipv6_routes_are_counted_in_hexadecimal() {
        assert_eq!(ipv6_entries("0009 0006 0021 001c 0000 0000 0000\n"), Some(28));
        assert_eq!(ipv6_entries(""), None);
    }
}
