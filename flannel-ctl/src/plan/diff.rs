//! What to change so that what is there becomes what is wanted.
//!
//! Additions and changes come first, in the order of [`Key`] (a device before what sits on it,
//! neighbour and FDB before the route that needs them); removals follow in the reverse order.

use crate::model::{Family, Key, Object, Op, Place, State, Via};

/// Every difference. `prune`: remove what is there and not wanted; off until the source has
/// told its whole list.
pub fn diff(wanted: &State, observed: &State, prune: bool) -> Vec<Op> {
    if !remade_devices(wanted, observed).is_empty() {
        return diff_keys(wanted, observed, std::iter::empty(), prune);
    }
    // One walk along both: with fifty thousand objects, looking each one up is what costs.
    let mut puts = Vec::with_capacity(wanted.len().saturating_sub(observed.len()));
    let mut deletes = Vec::new();
    let mut there = observed.iter().peekable();
    let mut surplus = |key: &Key, from: &Object| {
        if prune {
            deletes.push(Op { key: *key, from: Some(from.clone()), to: None });
        }
    };
    for (key, to) in wanted {
        while let Some((other, from)) = there.next_if(|(other, _)| *other < key) {
            surplus(other, from);
        }
        let from = there.next_if(|(other, _)| *other == key).map(|(_, from)| from);
        if from != Some(to) {
            puts.push(Op { key: *key, from: from.cloned(), to: Some(to.clone()) });
        }
    }
    there.for_each(|(key, from)| surplus(key, from));
    deletes.reverse();
    puts.append(&mut deletes);
    puts
}

/// The differences of these keys, and of all that a device takes along when it has to be remade.
pub fn diff_keys(wanted: &State, observed: &State, keys: impl Iterator<Item = Key>, prune: bool) -> Vec<Op> {
    let remade = remade_devices(wanted, observed);
    let (mut puts, mut deletes) = (Vec::new(), Vec::new());
    let mut consider = |key: Key| {
        let (to, from) = (wanted.get(&key), observed.get(&key));
        let lost = from.is_some_and(|object| device_of(&key, object).is_some_and(|family| remade.contains(&family)));
        match (to, from) {
            (Some(to), Some(from)) if to == from && !lost => {}
            (Some(to), from) => {
                let from = from.filter(|_| !lost).cloned();
                puts.push(Op { key, from, to: Some(to.clone()) });
            }
            (None, Some(from)) if prune && !lost => deletes.push(Op { key, from: Some(from.clone()), to: None }),
            (None, _) => {}
        }
    };
    if remade.is_empty() {
        keys.for_each(&mut consider);
    } else {
        wanted.keys().chain(observed.keys().filter(|key| !wanted.contains_key(key))).copied().for_each(&mut consider);
    }
    puts.sort_unstable_by_key(|op| op.key);
    deletes.sort_unstable_by_key(|op| std::cmp::Reverse(op.key));
    puts.append(&mut deletes);
    puts
}

/// Devices that the kernel cannot change into what is wanted. Whatever sits on them goes too.
fn remade_devices(wanted: &State, observed: &State) -> Vec<Family> {
    let remade = |family: &Family| match (wanted.get(&Key::Device(*family)), observed.get(&Key::Device(*family))) {
        (Some(to), Some(from)) => from.must_recreate(to),
        _ => false,
    };
    Family::ALL.into_iter().filter(remade).collect()
}

/// The device that an object lives and dies with, other than the device itself.
pub fn device_of(key: &Key, object: &Object) -> Option<Family> {
    match key {
        Key::Setting(family, _)
        | Key::Address(family, _)
        | Key::Fdb(family, _)
        | Key::Engine(family)
        | Key::Attachment(Place::Vtep(family)) => Some(*family),
        Key::Neighbour(ip) => Some(Family::of(ip)),
        Key::Nexthop(_) => Some(Family::V4),
        Key::Route(dst) => match object {
            Object::Route(route) if matches!(route.via, Via::Overlay { .. } | Via::Device) => Some(Family::of_net(dst)),
            _ => None,
        },
        Key::Device(_)
        | Key::Filter
        | Key::Guard(..)
        | Key::Forward(_)
        | Key::LiberalConntrack
        | Key::FastPath
        | Key::FastPeer(_)
        | Key::Attachment(Place::Uplink(_) | Place::Pod(_)) => None,
    }
}

#[cfg(test)]
#[path = "diff_tests.rs"]
mod tests;
