//! The periodic look: is everything still as it was last seen?
//!
//! Ten thousand peers are forty thousand entries in four tables, and telling them all takes the
//! kernel alone some twenty milliseconds. Each sweep looks at what is few (devices, settings,
//! addresses, packet filter) and at one of those tables in turn, compared as it comes and not
//! kept. The kernel tells of every neighbour, forwarding entry and nexthop object that goes; IPv4
//! routes it can take away without a word (`fib_flush`, `net/ipv4/fib_frontend.c`, 6.18), so
//! their number is looked at by every sweep, and they are compared whenever it has changed.

use std::fs;

use super::{LinuxKernel, observe::Table};
use crate::{
    kernel::KernelError,
    model::{Key, State},
};

/// What the next sweep looks at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Turn {
    table: usize,
    /// How many IPv4 routes there were when ours were last found as they should be.
    routes: Option<Vec<u32>>,
}

impl LinuxKernel {
    /// Everything that this sweep looks at is as `known` says. Four of them look at everything.
    pub(super) fn sweep(&mut self, known: &State, wanted: &State) -> Result<bool, KernelError> {
        let few = self.observe_few(wanted)?;
        if !known.range(..Key::Filter).eq(&few) {
            return Ok(false);
        }
        if let Some(filter) = &mut self.filter
            && !filter.is_still(known, wanted)?
        {
            return Ok(false);
        }
        if !self.engines_are_still(known) {
            return Ok(false);
        }
        let routes = count_routes();
        let table = Table::ALL[self.turn.table % Table::ALL.len()];
        let vanished = routes.is_none() || routes != self.turn.routes;
        if (vanished || table == Table::Routes) && !self.table_is_still(Table::Routes, known, wanted)? {
            return Ok(false);
        }
        if table != Table::Routes && !self.table_is_still(table, known, wanted)? {
            return Ok(false);
        }
        self.turn = Turn { table: self.turn.table.wrapping_add(1), routes };
        Ok(true)
    }

    fn table_is_still(&mut self, table: Table, known: &State, wanted: &State) -> Result<bool, KernelError> {
        let mut agree = Vec::new();
        self.read_table(table, wanted, |(key, object)| known.get(&key) == Some(&object), &mut agree)?;
        let expected = known.keys().filter(|key| table.holds(key)).count();
        Ok(agree.len() == expected && agree.into_iter().all(|agrees| agrees))
    }
}

/// Of each IPv4 table, others' routes included; `None` if this kernel does not say.
fn count_routes() -> Option<Vec<u32>> {
    let text = fs::read_to_string("/proc/thread-self/net/fib_triestat").ok()?;
    Some(prefixes(&text)).filter(|counts| !counts.is_empty())
}

/// Lines such as `\tPrefixes:       10004`.
fn prefixes(text: &str) -> Vec<u32> {
    text.lines().filter_map(|line| line.trim().strip_prefix("Prefixes:")?.trim().parse().ok()).collect()
}
