//! From the list of leases to what this node does about its own.

use std::fmt;

use super::{fits, free, owner, owner::Owner, parse};
use crate::model::{Family, LeaseRecord, LeaseValue, Network, Subnet};

/// What one node asks for.
#[derive(Clone, Debug)]
pub struct Claim<'a> {
    pub network: &'a Network,
    /// What the lease shall say; also who we are.
    pub value: &'a LeaseValue,
    /// The subnet that we had before, if we remember one.
    pub previous: Option<Subnet>,
    /// Decides among the free subnets.
    pub random: u64,
    /// Holders that were asked whether they live and gave no answer: key and mod revision.
    pub silent: &'a [(String, i64)],
}

/// What to do, in this order: ask, create or keep, then release.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// Leases that a living node may hold: with our node id and another address, or with our
    /// address and another node id. The rest of the decision stands if none of them answers.
    pub ask: Vec<LeaseRecord>,
    pub take: Take,
    /// Leases of ours that do not fit the network, or are one too many.
    pub release: Vec<LeaseRecord>,
    /// Keys of leases that carry our address and another node's id, and stay.
    pub rivals: Vec<String>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Take {
    /// This lease is ours already.
    Keep(Subnet, LeaseRecord),
    /// Create this one; its key was absent.
    Create(Subnet),
}

/// No subnet is left.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Exhausted {
    pub family: Family,
    /// First and last subnet that may be leased.
    pub first: String,
    pub last: String,
    pub capacity: u128,
    pub leases: usize,
    /// Those of them that never expire.
    pub reservations: usize,
}

impl fmt::Display for Exhausted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { family, first, last, capacity, leases, reservations } = self;
        write!(
            f,
            "no free {family} subnet from {first} to {last}: {capacity} in all, {leases} keys hold some of it, \
             {reservations} of them reservations that never expire (see `flannel-ctl leases list`; \
             release what is not needed, use a shorter lease TTL, or publish a wider network)"
        )
    }
}

/// Finds our lease, or a subnet for one.
///
/// A reservation for us comes first, then what carries our node id, then what flannel's daemon
/// left for our address, then what a node with our address and another id left, which is how this
/// node looks after it was installed anew, then the previous subnet, then a lot among the free.
pub fn choose(claim: &Claim<'_>, records: &[LeaseRecord]) -> Result<Decision, Exhausted> {
    let mut ours: Vec<(Rank, Subnet, &LeaseRecord)> = Vec::new();
    let (mut ask, mut release, mut rivals) = (Vec::new(), Vec::new(), Vec::new());
    let mut taken = Vec::with_capacity(records.len());
    let mut as_we_are = false;
    for record in records {
        let Ok(subnet) = Subnet::from_key(&record.key) else { continue };
        let owner = owner(&record.value, claim.value);
        let reserved = record.lease_id == 0;
        taken.push((subnet, reserved));
        let kind = match owner {
            Owner::Us if is_elsewhere(claim, record) => {
                if is_open(claim, record) {
                    ask.push(record.clone());
                }
                Kind::Id
            }
            Owner::Us => {
                as_we_are |= fits(&subnet, claim.network);
                Kind::Id
            }
            Owner::OurAddress => Kind::Address,
            Owner::Rival => {
                rivals.push(record);
                Kind::Rival
            }
            Owner::Other | Owner::Nobody | Owner::Unreadable => continue,
        };
        if fits(&subnet, claim.network) {
            let not_previous = Some(subnet) != claim.previous;
            let rank = Rank { leased: !reserved, kind, not_previous, created: record.created };
            if kind != Kind::Rival || !reserved {
                ours.push((rank, subnet, record));
            }
        } else if kind != Kind::Rival && !reserved {
            release.push(record.clone());
        }
    }
    if !as_we_are {
        ask.extend(rivals.iter().filter(|record| is_open(claim, record)).map(|record| (*record).clone()));
    }
    ours.sort_unstable_by_key(|(rank, ..)| *rank);
    let mut ours = ours.into_iter();
    let take = match ours.next() {
        Some((_, subnet, record)) => Take::Keep(subnet, record.clone()),
        None => Take::Create(create(claim, &taken)?),
    };
    // A second lease with our node id is a leftover; a second one with our address may belong
    // to another node that has it too.
    release.extend(ours.filter(|(rank, ..)| rank.leased && rank.kind == Kind::Id).map(|(_, _, record)| record.clone()));
    let kept = |record: &LeaseRecord| matches!(&take, Take::Keep(_, kept) if kept.key == record.key);
    let rivals = rivals.into_iter().filter(|record| !kept(record)).map(|record| record.key.clone()).collect();
    Ok(Decision { ask, take, release, rivals })
}

/// It carries another address than ours: we moved, or somebody has our node id.
fn is_elsewhere(claim: &Claim<'_>, record: &LeaseRecord) -> bool {
    parse(&record.value)
        .is_some_and(|value| (value.public_ip, value.public_ipv6) != (claim.value.public_ip, claim.value.public_ipv6))
}

/// Whether its holder lives is not known yet. A reservation that nobody has used has no holder.
fn is_open(claim: &Claim<'_>, record: &LeaseRecord) -> bool {
    let used = || parse(&record.value).is_some_and(|value| !value.backend_type.is_empty());
    (record.lease_id != 0 || used())
        && !claim.silent.iter().any(|(key, revision)| *key == record.key && *revision == record.modified)
}

/// Lowest first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    leased: bool,
    kind: Kind,
    not_previous: bool,
    created: i64,
}

/// Why a lease is ours.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Id,
    Address,
    Rival,
}

fn create(claim: &Claim<'_>, taken: &[(Subnet, bool)]) -> Result<Subnet, Exhausted> {
    if let Some(previous) = claim.previous
        && fits(&previous, claim.network)
        && !taken.iter().any(|(subnet, _)| subnet.overlaps(&previous))
    {
        return Ok(previous);
    }
    let v4 = pick(claim, Family::V4, taken, claim.random & 0xffff_ffff)?;
    let v6 = pick(claim, Family::V6, taken, claim.random >> 32)?;
    let v4 = v4.and_then(|net| if let ipnet::IpNet::V4(net) = net { Some(net) } else { None });
    let v6 = v6.and_then(|net| if let ipnet::IpNet::V6(net) = net { Some(net) } else { None });
    Ok(Subnet::new(v4, v6).expect("a network has a family"))
}

fn pick(
    claim: &Claim<'_>,
    family: Family,
    taken: &[(Subnet, bool)],
    random: u64,
) -> Result<Option<ipnet::IpNet>, Exhausted> {
    let Some(range) = claim.network.range(family) else { return Ok(None) };
    let nets = || taken.iter().filter_map(|(subnet, _)| subnet.net(family));
    let mut free = free::candidates(&range, nets());
    if free.is_empty() {
        // A key with a shorter prefix cannot be a lease of this network, nobody routes to it,
        // and one such key must not stop allocation. It is only kept clear of while there is room.
        free = free::candidates(&range, nets().filter(|net| net.prefix_len() >= range.subnet_len));
    }
    let count = u64::try_from(free.len()).unwrap_or(u64::MAX);
    let chosen = random.checked_rem(count).and_then(|i| free.get(usize::try_from(i).ok()?)).copied();
    if chosen.is_some() {
        return Ok(chosen);
    }
    let inside =
        |subnet: &Subnet| subnet.net(family).is_some_and(|n| range.network.contains(&n) || n.contains(&range.network));
    Err(Exhausted {
        family,
        first: range.min.to_string(),
        last: range.max.to_string(),
        capacity: super::capacity(&range),
        leases: taken.iter().filter(|(subnet, _)| inside(subnet)).count(),
        reservations: taken.iter().filter(|(subnet, reserved)| *reserved && inside(subnet)).count(),
    })
}

#[cfg(test)]
mod tests;
