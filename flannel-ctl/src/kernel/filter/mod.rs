//! The host's packet filter: nftables through `nft` and nfnetlink where the host has them,
//! iptables where it has only that.
//!
//! Rules are loaded as a script, rarely; the guard's set elements go over netlink, often. What
//! is in force is proved by fingerprint: the table carries a seal that names the script and
//! what the kernel made of it, so a restarted daemon touches nothing, and one deleted rule
//! shows.

mod cleaning;
pub mod diagnose;
mod elements;
mod nft;
mod notices;
mod object;
mod probe;
mod socket;
mod table;
mod tool;
mod turn;
mod xtables;

pub use self::{
    diagnose::{Finding, Severity, Subject},
    notices::{Listener, Own, Touched},
    probe::Choice,
    xtables::Variant,
};
use self::{socket::Socket, table::Snapshot, xtables::Tools};
use super::{KernelError, PacketFilter, netlink::refusal::Refusal};
use crate::{
    filter::guard::{Entry, Refused},
    model::{FilterPolicy, GuardPolicy, Key, Object, Op, State},
    serve::report::FilterReport,
};
use ipnet::IpNet;
use std::{collections::BTreeMap, ops::Bound};

/// What carries out the rules on this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flavour {
    Nft,
    Iptables(Variant),
    /// Neither works; the report says why.
    None,
}

/// The packet filter of the calling thread's network namespace.
pub struct HostFilter {
    flavour: Flavour,
    why: String,
    /// Why the guard cannot be had, if so.
    no_guard: Option<String>,
    /// `None`: a kernel without nf_tables.
    socket: Option<Socket>,
    tools: Tools,
    /// What the table looked like at that generation of the rule set.
    cache: Option<(u32, Snapshot)>,
    own: Own,
}

impl HostFilter {
    /// Looks at the host and picks a flavour; changes nothing.
    pub fn open(choice: Choice) -> Self {
        probe::open(choice)
    }

    pub fn flavour(&self) -> Flavour {
        self.flavour
    }

    /// Why this flavour, for people.
    pub fn why(&self) -> &str {
        &self.why
    }

    /// What of this policy the host cannot do, for people; to be said once, loudly.
    pub fn limits(&self, policy: &FilterPolicy) -> Vec<String> {
        let mut limits = Vec::new();
        if self.flavour == Flavour::None {
            let parts = [
                (!policy.masquerade.is_empty(), "no masquerading"),
                (!policy.forward.is_empty(), "no forwarding rules"),
            ];
            let missing: Vec<_> = parts.into_iter().filter_map(|(asked, missing)| asked.then_some(missing)).collect();
            if !missing.is_empty() {
                limits.push(format!("{}: {}", missing.join(" and "), self.why));
            }
        }
        if let (Some(guard), Some(why)) = (&policy.guard, &self.no_guard) {
            let whose = if guard.judges_peers() { "from strangers" } else { "that pods make themselves" };
            limits.push(format!("tunnel packets {whose} are not dropped: {why}"));
        }
        limits
    }

    /// Packets that the guard refused (or would have, when it only counts), since the table
    /// was made.
    pub fn counters(&mut self) -> Result<Vec<(Refused, u64)>, KernelError> {
        let Some(socket) = &mut self.socket else { return Ok(Vec::new()) };
        table::counters(socket).map_err(|refusal| refused("read the guard's counters", &refusal))
    }

    /// Our nftables table is there: proof that we were at work in this namespace.
    pub fn has_table(&mut self) -> Result<bool, KernelError> {
        self.table_exists()
    }

    /// Chains with flannel's names are there, which either daemon may have made.
    pub fn has_chains(&mut self) -> Result<bool, KernelError> {
        Ok(!self.is_tidy(None)?)
    }

    /// Removes our nftables table, and nothing that flannel could have made.
    pub fn cleanup_table(&mut self) -> Result<(), KernelError> {
        self.remove_table()
    }

    /// Removes everything of ours, in every flavour.
    pub fn cleanup(&mut self) -> Result<(), KernelError> {
        self.remove()
    }

    /// Hand it to [`Listener::start`], so that our own changes wake nobody.
    pub fn own(&self) -> Own {
        self.own.clone()
    }

    /// The policy without what the host cannot do.
    fn possible(&self, policy: &FilterPolicy) -> FilterPolicy {
        let mut policy = policy.clone();
        if self.no_guard.is_some() {
            policy.guard = None;
        }
        policy
    }

    /// Deletes our table, our chains and the jumps to them.
    fn remove(&mut self) -> Result<(), KernelError> {
        self.cache = None;
        let removed = self.remove_table();
        self.tidy(None).and(removed)
    }

    /// The guard's sets are ours to fill.
    fn keeps_entries(&self) -> bool {
        self.flavour == Flavour::Nft && self.no_guard.is_none()
    }

    /// The rules as an object: the wanted ones if exactly these are in force, none otherwise; empty
    /// ones for what is there and not wanted.
    fn rules(&mut self, wanted: &State) -> Result<Option<Object>, KernelError> {
        match policy(wanted) {
            // `limits` says what is missing; only what the node cannot do without is a failure.
            policy if self.flavour == Flavour::None => {
                let missed = policy.filter(|policy| !is_vital(policy));
                Ok(missed.map(|policy| Object::Filter(Box::new(policy.clone()))))
            }
            Some(policy) => {
                let possible = self.possible(policy);
                let in_force = self.holds(&possible)? && self.is_tidy(Some(&possible))?;
                Ok(in_force.then(|| Object::Filter(Box::new(policy.clone()))))
            }
            None => {
                let anything = self.table_exists()? || !self.is_tidy(None)?;
                Ok(anything.then(|| Object::Filter(Box::default())))
            }
        }
    }

    fn put(&mut self, policy: &FilterPolicy, pending: &[Entry]) -> Result<(), KernelError> {
        let policy = self.possible(policy);
        match self.flavour {
            Flavour::Nft => self.load(&policy, pending)?,
            Flavour::Iptables(_) => {}
            Flavour::None if is_vital(&policy) => return Err(self.nothing_works()),
            Flavour::None => return Ok(()),
        }
        // Ours is in force or comes first in there; what it replaces goes now.
        self.tidy(Some(&policy))?;
        if let Flavour::Iptables(_) = self.flavour {
            self.remove_table()?;
        }
        Ok(())
    }

    fn nothing_works(&self) -> KernelError {
        KernelError {
            attempt: "put packet filter rules".into(),
            answer: self.why.clone(),
            hint: Some("install nftables, or iptables; without --ip-masq the node works without"),
            errno: 0,
        }
    }
}

impl PacketFilter for HostFilter {
    fn begin_pass(&mut self) {
        self.tools.turn.begin();
    }

    fn observe(&mut self, wanted: &State, out: &mut State) -> Result<(), KernelError> {
        out.extend(self.rules(wanted)?.map(|rules| (Key::Filter, rules)));
        if self.keeps_entries() {
            let policy = policy(wanted).and_then(|policy| policy.guard.as_ref());
            let entries = self.snapshot()?.entries.iter().map(|entry| (guard_key(entry, policy), Object::Guard));
            out.extend(entries);
        } else {
            // Nothing could be done about them; `limits` says so once instead of a failure each.
            out.extend(guards(wanted).map(|key| (key, Object::Guard)));
        }
        Ok(())
    }

    fn is_still(&mut self, known: &State, wanted: &State) -> Result<bool, KernelError> {
        if self.rules(wanted)?.as_ref() != known.get(&Key::Filter) {
            return Ok(false);
        }
        if !self.keeps_entries() {
            return Ok(guards(known).eq(guards(wanted)));
        }
        let policy = policy(wanted).and_then(|policy| policy.guard.as_ref());
        Ok(guards(known).eq(self.snapshot()?.entries.iter().map(|entry| guard_key(entry, policy))))
    }

    fn report(&mut self, wanted: &State) -> FilterReport {
        let flavour = match self.flavour {
            Flavour::Nft => "nftables",
            Flavour::Iptables(_) => "iptables",
            Flavour::None => "none",
        };
        let mut limits = match wanted.get(&Key::Filter) {
            Some(Object::Filter(policy)) => self.limits(policy),
            _ => Vec::new(),
        };
        let counters = match self.counters() {
            Ok(counters) => {
                counters.into_iter().map(|(refused, packets)| (refused.counter().into(), packets)).collect()
            }
            Err(error) => {
                limits.push(error.to_string());
                BTreeMap::new()
            }
        };
        FilterReport { flavour: flavour.into(), why: self.why.clone(), limits, counters, read_unix: None }
    }

    fn apply(&mut self, ops: &[Op]) -> Vec<Result<(), KernelError>> {
        let mut results: Vec<Result<(), KernelError>> = vec![Ok(()); ops.len()];
        let mut filter = None;
        let (mut add, mut remove) = (Vec::new(), Vec::new());
        for (index, op) in ops.iter().enumerate() {
            match (&op.key, &op.to) {
                (Key::Filter, to) => filter = Some((index, to)),
                (Key::Guard(outer, inner), to) => match Entry::new(*outer, *inner) {
                    Some(entry) if to.is_some() => add.push((index, entry)),
                    Some(entry) => remove.push((index, entry)),
                    None => results[index] = Err(mixed(op)),
                },
                _ => {}
            }
        }
        let guarded = self.keeps_entries();
        // Peers stand in the sets before the rules ask for them, and as long as they do.
        let mut pending: Vec<Entry> = add.iter().map(|(_, entry)| *entry).collect();
        let spoilt = guarded && self.snapshot().is_ok_and(|snapshot| snapshot.spoilt);
        if guarded && !add.is_empty() && !spoilt {
            let outcome = self.change_entries(&pending, &[]);
            add.iter().for_each(|(index, _)| results[*index].clone_from(&outcome));
            pending.clear();
        }
        let removal = matches!(filter, Some((_, None)));
        if let Some((index, to)) = filter {
            let blocked = add.iter().find_map(|(index, _)| results[*index].clone().err());
            results[index] = match (to, blocked) {
                (Some(Object::Filter(policy)), None) => self.put(policy, &pending),
                (Some(Object::Filter(policy)), Some(error)) => {
                    // Guarding without the peers in the set would cut them off; the rest need not wait.
                    let unguarded = FilterPolicy { guard: None, ..(**policy).clone() };
                    self.put(&unguarded, &[]).and(Err(error))
                }
                _ => self.remove(),
            };
            if spoilt {
                let outcome = results[index].clone();
                add.iter().for_each(|(index, _)| results[*index].clone_from(&outcome));
            }
        }
        if guarded && !remove.is_empty() && !removal {
            let outcome = self.change_entries(&[], &remove.iter().map(|(_, entry)| *entry).collect::<Vec<_>>());
            remove.iter().for_each(|(index, _)| results[*index].clone_from(&outcome));
        }
        results
    }
}

/// Without these rules a node should not start containers, wherever it is: masquerading is asked
/// for by name, and containers reach nobody outside without it. Accepts in FORWARD matter only
/// beside rules that drop, and the guard is for hosts that can have it.
fn is_vital(policy: &FilterPolicy) -> bool {
    !policy.masquerade.is_empty()
}

fn policy(wanted: &State) -> Option<&FilterPolicy> {
    match wanted.get(&Key::Filter) {
        Some(Object::Filter(policy)) => Some(policy),
        _ => None,
    }
}

/// In order; they come right behind the rules.
fn guards(state: &State) -> impl Iterator<Item = Key> + use<'_> {
    let behind = state.range((Bound::Excluded(Key::Filter), Bound::Unbounded));
    behind.map_while(|(key, _)| matches!(key, Key::Guard(..)).then_some(*key))
}

/// A set holds base addresses; the lengths are the policy's.
fn guard_key(entry: &Entry, guard: Option<&GuardPolicy>) -> Key {
    let whole: IpNet = entry.inner.into();
    let length = guard.and_then(|guard| if entry.inner.is_ipv4() { guard.v4_len } else { guard.v6_len });
    let range = length.and_then(|length| IpNet::new(entry.inner, length).ok());
    // Bits below the length: an element that no lookup finds, to be named so that it can go.
    let range = range.filter(|range| range.network() == entry.inner).unwrap_or(whole);
    Key::Guard(entry.outer, range)
}

fn mixed(op: &Op) -> KernelError {
    KernelError {
        attempt: format!("put {}", op.key),
        answer: "outer and inner address are not of one family".into(),
        hint: None,
        errno: 0,
    }
}

fn refused(attempt: &str, refusal: &Refusal) -> KernelError {
    let hint = match refusal.errno {
        nix::errno::Errno::EPERM => Some("CAP_NET_ADMIN is needed"),
        _ => None,
    };
    KernelError { attempt: attempt.to_owned(), answer: refusal.to_string(), hint, errno: refusal.errno as i32 }
}

#[cfg(test)]
mod tests;
