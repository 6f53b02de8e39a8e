//! The periodic look: is everything still as it was last seen?
//!
//! Ten thousand peers are forty thousand entries in four tables, and telling them all takes the
//! kernel alone more than ten milliseconds. So each part of a sweep looks at one table, whose entries
//! are summed up as they come and not kept: see [`TableSum`].

use super::{LinuxKernel, observe::Table, route_count::RouteCount, table_sum::TableSum};
use crate::{
    kernel::KernelError,
    model::{Key, State},
};

impl LinuxKernel {
    /// What is small, and the fast path's peers: BPF maps tell nobody.
    pub(super) const SILENT: usize = 2;
    /// Each of the large tables comes behind.
    pub(super) const PARTS: usize = Self::SILENT + Table::ALL.len();

    /// Everything in this part is as `known` says.
    pub(super) fn sweep(&mut self, part: usize, known: &State, wanted: &State) -> Result<bool, KernelError> {
        match part {
            0 => self.few_are_still(known, wanted),
            1 => self.fast_peers_are_still(known),
            table => self.table_is_still(Table::ALL[table - Self::SILENT], known, wanted),
        }
    }

    fn few_are_still(&mut self, known: &State, wanted: &State) -> Result<bool, KernelError> {
        if !known.range(..Key::Filter).eq(&self.observe_few(wanted)?) {
            return Ok(false);
        }
        if let Some(filter) = &mut self.filter
            && !filter.is_still(known, wanted)?
        {
            return Ok(false);
        }
        Ok(self.engines_are_still(known) && self.routes_are_counted(known, wanted)?)
    }

    /// As many as there were, or another number, or a doubt, and none of ours among them.
    fn routes_are_counted(&mut self, known: &State, wanted: &State) -> Result<bool, KernelError> {
        let routes = Some(RouteCount::read());
        if routes != self.routes {
            if !self.table_is_still(Table::Routes, known, wanted)? {
                return Ok(false);
            }
            self.routes = routes;
        }
        Ok(true)
    }

    fn table_is_still(&mut self, table: Table, known: &State, wanted: &State) -> Result<bool, KernelError> {
        let (mut expected, mut found) = (TableSum::default(), TableSum::default());
        table.entries(known).for_each(|(key, object)| expected.add(key, object));
        let each = |(key, object), sum: &mut TableSum| sum.add(&key, &object);
        self.read_table(table, wanted, each, |sum| found.merge(sum))?;
        Ok(found == expected)
    }
}
