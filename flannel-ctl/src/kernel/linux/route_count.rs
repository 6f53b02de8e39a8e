//! How many IPv4 routes there are, without reading them.
//!
//! They are the one table from which the kernel takes entries without a word: with a device that goes down, an address or a
//! nexthop object (`fib_table_flush`, `net/ipv4/fib_trie.c`, 6.18). Each of these is told of by itself; this is for what
//! nobody has thought of.

use std::fs;

/// Of the calling thread's network namespace.
const PATH: &str = "/proc/thread-self/net/fib_triestat";

/// Routes of everybody in the main table, or in it and the local one where the kernel keeps them together; `None`: not told.
pub(super) fn read() -> Option<u64> {
    parse(&fs::read_to_string(PATH).ok()?)
}

fn parse(text: &str) -> Option<u64> {
    let main = text.split_once("Main:")?.1;
    main.split_once("Prefixes:")?.1.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_main_table_counts() {
        let text = "Basic info: size of leaf: 48 bytes, size of tnode: 40 bytes.\nMain:\n\tAver depth:     2.33\n\t\
                    Max depth:      6\n\tLeaves:         18\n\tPrefixes:       21\n\tInternal nodes: 16\nLocal:\n\tPrefixes:       4\n";
        assert_eq!(parse(text), Some(21));
        assert_eq!(parse("Basic info:\n"), None);
    }
}
