//! A node's kernel state as text that can be compared.

use std::{collections::BTreeSet, fmt};

use anyhow::Result;

use super::{Netns, run};

/// What stands in a node's kernel, one line per object, without what changes by itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dump(BTreeSet<String>);

/// The datapath that flannel-ctl keeps. Errors are left out: what is not there is the answer.
const OURS: &str = "
    for dev in $(ip -o link show type vxlan | cut -d: -f2 | grep flannel); do
        ip -o -d link show dev $dev | sed 's/^[0-9]*: /device /'
        ip -o address show dev $dev scope global | sed 's/^[0-9]*: /address /'
        ip -4 neighbour show dev $dev nud permanent | sed \"s/^/neighbour $dev /\"
        ip -6 neighbour show dev $dev nud permanent | sed \"s/^/neighbour $dev /\"
        bridge fdb show dev $dev | sed \"s/^/fdb $dev /\"
        ethtool -k $dev | grep tx-checksum-ip-generic | sed \"s/^/offload $dev /\"
        sed \"s/^/accept_ra $dev /\" /proc/sys/net/ipv6/conf/$dev/accept_ra
    done
    ip -4 route show table all proto 102 | sed 's/^/route /'
    ip -6 route show table all proto 102 | sed 's/^/route /'
    ip nexthop show proto 102 | sed 's/^/nexthop /'
    nft -s list table inet flannel-ctl | tr '\\n' ' ' | sed 's/elements = {/\\n{/g; s/}/}\\n/g' \
        | sed 's/^/table /; s/comment \"[^\"]*\"//'
    for tables in iptables-nft-save ip6tables-nft-save iptables-legacy-save ip6tables-legacy-save; do
        if command -v $tables >/dev/null; then
            $tables | grep FLANNEL | sed \"s/^/$tables /; s/\\[[0-9:]*\\]//\"
        fi
    done
    true
";

impl Dump {
    /// Devices, addresses, neighbours, forwarding entries, routes, nexthops and rules of flannel-ctl.
    pub fn of(netns: &Netns) -> Result<Self> {
        Self::script(netns, OURS)
    }

    /// The lines that a shell script prints inside the namespace.
    pub fn script(netns: &Netns, script: &str) -> Result<Self> {
        let text = run(netns.command("sh").args(["-c", &format!("exec 2>/dev/null\n{script}")]))?;
        Ok(Self(text.lines().map(sorted).filter(|line| !line.is_empty()).collect()))
    }

    /// The lines that begin so.
    #[must_use]
    pub fn only(&self, prefix: &str) -> Self {
        Self(self.0.iter().filter(|line| line.starts_with(prefix)).cloned().collect())
    }

    /// The lines for which `keep` holds.
    #[must_use]
    pub fn filter(&self, keep: impl Fn(&str) -> bool) -> Self {
        Self(self.0.iter().filter(|line| keep(line)).cloned().collect())
    }

    /// How many lines.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Nothing at all.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What is in one but not in the other: `-` was in `self`, `+` came.
    pub fn difference(&self, after: &Self) -> String {
        let lost = self.0.difference(&after.0).map(|line| format!("- {line}"));
        let come = after.0.difference(&self.0).map(|line| format!("+ {line}"));
        lost.chain(come).collect::<Vec<_>>().join("\n")
    }
}

impl fmt::Display for Dump {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}

/// A line with single blanks; the elements of a set, which come in any order, in one.
fn sorted(line: &str) -> String {
    let line = line.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.strip_prefix("table { ").and_then(|rest| rest.strip_suffix(" }")) {
        Some(elements) => {
            let mut elements: Vec<_> = elements.split(',').map(str::trim).collect();
            elements.sort_unstable();
            format!("table {{ {} }}", elements.join(", "))
        }
        None => line,
    }
}
