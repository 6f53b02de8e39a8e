//! Our nftables table as the kernel holds it: what was loaded, whether it is untouched, and who
//! is in the guard's sets.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    elements,
    object::{CHAIN_HOOK, CHAIN_NAME, CHAIN_POLICY, INET, TABLE_NAME, field, message, table_of},
    socket::{BODY, Socket, request},
};
use crate::{
    filter::{
        Fingerprint,
        guard::{Entry, Refused, set},
        nft::{SEAL, TABLE},
    },
    kernel::netlink::{
        refusal::Refusal,
        wire::{attributes, text},
    },
    model::Family,
};
use netlink_packet_core::NLM_F_CREATE;

/// `NFTA_{TABLE,CHAIN,RULE,SET,OBJ}_*`.
const TABLE_FLAGS: u16 = 2;
const CHAIN_TYPE: u16 = 7;
const CHAIN_FLAGS: u16 = 10;
const CHAIN_USERDATA: u16 = 12;
const RULE_CHAIN: u16 = 2;
const RULE_EXPRESSIONS: u16 = 4;
const SET_NAME: u16 = 2;
const SET_FLAGS: u16 = 3;
const SET_KEY_TYPE: u16 = 4;
const SET_KEY_LENGTH: u16 = 5;
const OBJECT_NAME: u16 = 2;
const OBJECT_TYPE: u16 = 3;
const OBJECT_DATA: u16 = 4;
const OBJECT_COUNTER: u32 = 1;
const COUNTER_PACKETS: u16 = 2;
const GENERATION: u16 = 1;

/// Our table at one generation of the rule set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Snapshot {
    pub(super) exists: bool,
    /// What the seal says: fingerprints of the script and of what the kernel made of it.
    pub(super) seal: Option<(u64, u64)>,
    /// Fingerprint of what the kernel holds now.
    pub(super) kernel: u64,
    /// Chain to number of rules, the seal left out.
    pub(super) chains: BTreeMap<String, usize>,
    /// Both sets are there, and as we make them.
    pub(super) sets: bool,
    /// One of them is there, but is something else.
    pub(super) spoilt: bool,
    pub(super) entries: BTreeSet<Entry>,
}

impl Snapshot {
    /// Exactly what the script with this fingerprint made, and nothing since.
    pub(super) fn holds(&self, script: u64) -> bool {
        self.exists && self.seal == Some((script, self.kernel))
    }
}

/// Rises by one with every change of any rule in this network namespace.
pub(super) fn generation(socket: &mut Socket) -> Result<u32, Refusal> {
    let answer = socket.get(request(message::GETGEN, 0, 0), |payload| {
        let (_, value) = attributes(payload, BODY).find(|(kind, _)| *kind == GENERATION)?;
        Some(u32::from_be_bytes(value.try_into().ok()?))
    })?;
    Ok(answer.unwrap_or(0))
}

/// Reads all of it.
pub(super) fn read(socket: &mut Socket) -> Result<Snapshot, Refusal> {
    let mut print = Fingerprint::new();
    let flags = socket.get(request(message::GETTABLE, 0, INET).text(TABLE_NAME, TABLE), |payload| {
        Some(field(payload, TABLE_FLAGS).unwrap_or_default().to_vec())
    })?;
    let Some(flags) = flags else { return Ok(Snapshot::default()) };
    print.add(&flags);
    let mut seal = None;
    let mut chains: BTreeMap<String, (u64, usize)> = BTreeMap::new();
    for (name, print, comment) in dump_chains(socket)? {
        if name == SEAL {
            seal = comment.as_deref().and_then(parse_seal);
        } else {
            chains.insert(name, (print, 0));
        }
    }
    let rules = socket.dump(request(message::GETRULE, 0, INET).text(TABLE_NAME, TABLE), |payload, found| {
        if is_ours(payload) {
            let expressions = field(payload, RULE_EXPRESSIONS).unwrap_or_default().to_vec();
            found.push((text(field(payload, RULE_CHAIN).unwrap_or_default()), expressions));
        }
    })?;
    for (chain, (chain_print, _)) in &chains {
        print.add(chain.as_bytes());
        print.add(&chain_print.to_le_bytes());
    }
    for (chain, expressions) in rules {
        print.add(chain.as_bytes());
        print.add(&expressions);
        // A rule in the seal counts too: somebody put it there.
        chains.entry(chain).or_default().1 += 1;
    }
    let sets = dump_sets(socket)?;
    for (name, (set_print, _)) in &sets {
        print.add(name.as_bytes());
        print.add(&set_print.to_le_bytes());
    }
    let good = |family: &Family| sets.get(set(*family)).is_some_and(|(_, length)| *length == key_length(*family));
    let have_sets = Family::ALL.iter().all(good);
    let spoilt = Family::ALL.iter().any(|family| sets.contains_key(set(*family)) && !good(family));
    let entries = if have_sets { elements::read(socket)? } else { BTreeSet::new() };
    Ok(Snapshot {
        exists: true,
        seal,
        kernel: print.value(),
        chains: chains.into_iter().map(|(name, (_, rules))| (name, rules)).collect(),
        sets: have_sets,
        spoilt,
        entries,
    })
}

/// Says of the table as it is now that it is what this script made.
pub(super) fn seal(socket: &mut Socket, script: u64, kernel: u64) -> Result<(), Refusal> {
    let comment = format!("policy {script:016x} rules {kernel:016x}");
    // Type 0, length, zero-terminated text: what nft shows as a comment.
    let mut data = vec![0, u8::try_from(comment.len() + 1).unwrap_or(u8::MAX)];
    data.extend_from_slice(comment.as_bytes());
    data.push(0);
    let name = |message, flags| request(message, flags, INET).text(TABLE_NAME, TABLE).text(CHAIN_NAME, SEAL);
    // The kernel does not change the comment of a chain that is there.
    let new = name(message::NEWCHAIN, NLM_F_CREATE);
    socket.transaction(vec![new.clone(), name(message::DELCHAIN, 0), new.attr(CHAIN_USERDATA, &data)])
}

/// Deletes a table, whoever's it is; `false` if there was none.
pub(super) fn delete(socket: &mut Socket, family: u8, name: &str) -> Result<bool, Refusal> {
    if !exists(socket, family, name)? {
        return Ok(false);
    }
    socket.transaction(vec![request(message::DELTABLE, 0, family).text(TABLE_NAME, name)])?;
    Ok(true)
}

pub(super) fn exists(socket: &mut Socket, family: u8, name: &str) -> Result<bool, Refusal> {
    let found = socket.get(request(message::GETTABLE, 0, family).text(TABLE_NAME, name), |_| Some(()))?;
    Ok(found.is_some())
}

/// Packets refused, by reason; nothing before the guard was ever loaded.
pub(super) fn counters(socket: &mut Socket) -> Result<Vec<(Refused, u64)>, Refusal> {
    let question =
        request(message::GETOBJ, 0, INET).text(TABLE_NAME, TABLE).attr(OBJECT_TYPE, &OBJECT_COUNTER.to_be_bytes());
    let found = socket.dump(question, |payload, found| {
        let name = text(field(payload, OBJECT_NAME).unwrap_or_default());
        let reason = Refused::ALL.into_iter().find(|reason| is_ours(payload) && reason.counter() == name);
        let packets = field(payload, OBJECT_DATA)
            .and_then(|data| attributes(data, 0).find(|(kind, _)| *kind == COUNTER_PACKETS))
            .and_then(|(_, value)| Some(u64::from_be_bytes(value.try_into().ok()?)));
        found.extend(reason.zip(packets));
    })?;
    Ok(found)
}

fn is_ours(payload: &[u8]) -> bool {
    table_of(payload) == TABLE
}

/// Name, fingerprint of hook, priority, policy, type and flags, comment.
fn dump_chains(socket: &mut Socket) -> Result<Vec<(String, u64, Option<String>)>, Refusal> {
    socket.dump(request(message::GETCHAIN, 0, INET), |payload, found| {
        if !is_ours(payload) {
            return;
        }
        let mut print = Fingerprint::new();
        for kind in [CHAIN_HOOK, CHAIN_POLICY, CHAIN_TYPE, CHAIN_FLAGS] {
            print.add(field(payload, kind).unwrap_or_default());
        }
        let comment = field(payload, CHAIN_USERDATA).and_then(|data| data.get(2..)).map(text);
        found.push((text(field(payload, CHAIN_NAME).unwrap_or_default()), print.value(), comment));
    })
}

/// Two addresses.
const fn key_length(family: Family) -> u32 {
    match family {
        Family::V4 => 8,
        Family::V6 => 32,
    }
}

/// Name to fingerprint and length of the key.
fn dump_sets(socket: &mut Socket) -> Result<BTreeMap<String, (u64, u32)>, Refusal> {
    let sets = socket.dump(request(message::GETSET, 0, INET).text(TABLE_NAME, TABLE), |payload, found| {
        if is_ours(payload) {
            let mut print = Fingerprint::new();
            for kind in [SET_FLAGS, SET_KEY_TYPE, SET_KEY_LENGTH] {
                print.add(field(payload, kind).unwrap_or_default());
            }
            let length =
                field(payload, SET_KEY_LENGTH).and_then(|value| Some(u32::from_be_bytes(value.try_into().ok()?)));
            found.push((text(field(payload, SET_NAME).unwrap_or_default()), (print.value(), length.unwrap_or(0))));
        }
    })?;
    Ok(sets.into_iter().collect())
}

fn parse_seal(comment: &str) -> Option<(u64, u64)> {
    let (policy, rules) = comment.strip_prefix("policy ")?.split_once(" rules ")?;
    Some((u64::from_str_radix(policy, 16).ok()?, u64::from_str_radix(rules, 16).ok()?))
}
