//! PURE: what we know of the nodes: enough to tell news from heartbeats, and whose a podCIDR is.
//!
//! The API server keeps leases by node, everybody else here by subnet. So a podCIDR that two nodes have is
//! settled here: who had it first keeps it, the other is passed on under a key that is refused by name.

use std::{
    collections::{BTreeMap, HashMap},
    hash::{BuildHasher, RandomState},
};

use super::node::strange_key;
use crate::{model::LeaseRecord, source::Event};

/// Nodes with a lease, by name.
#[derive(Debug, Default)]
pub(super) struct View {
    /// Of our own node, whose claim comes first.
    own: String,
    hasher: RandomState,
    nodes: HashMap<Box<str>, Known>,
    /// Which node has a key.
    holders: HashMap<Box<str>, Box<str>>,
    /// Claims of a key that another node has, in full, by node.
    waiting: BTreeMap<Box<str>, LeaseRecord>,
}

#[derive(Debug)]
struct Known {
    /// What the node claims, whether it has it or not.
    key: Box<str>,
    /// Of all that is passed on.
    print: u64,
}

impl View {
    pub(super) fn new(own: &str) -> Self {
        Self { own: own.into(), ..Self::default() }
    }

    pub(super) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Takes a complete list; the previous knowledge is void. What to pass on.
    pub(super) fn replace(&mut self, mut listed: Vec<(Box<str>, LeaseRecord)>) -> Vec<LeaseRecord> {
        self.nodes.clear();
        self.holders.clear();
        self.waiting.clear();
        listed.sort_by(|(a, first), (b, second)| {
            (**a != *self.own, first.created, a).cmp(&(**b != *self.own, second.created, b))
        });
        listed
            .into_iter()
            .flat_map(|(name, record)| self.put(&name, Some(record)))
            .filter_map(|event| if let Event::Put(record) = event { Some(record) } else { None })
            .collect()
    }

    /// A node was added or changed; `None` if it has no lease (any more).
    pub(super) fn put(&mut self, name: &str, record: Option<LeaseRecord>) -> Vec<Event> {
        let Some(record) = record else { return self.delete(name) };
        let print = self.hasher.hash_one((&record.key, &record.value));
        let before = self.nodes.insert(name.into(), Known { key: record.key.as_str().into(), print });
        let mut events = match before {
            Some(before) if before.print == print => return Vec::new(),
            Some(before) if *before.key == *record.key => Vec::new(),
            Some(before) => self.give_up(name, &before.key),
            None => Vec::new(),
        };
        events.push(Event::Put(self.claim(name, record)));
        events
    }

    /// A node is gone.
    pub(super) fn delete(&mut self, name: &str) -> Vec<Event> {
        self.nodes.remove(name).map_or_else(Vec::new, |known| self.give_up(name, &known.key))
    }

    /// The record as it is passed on: the node's, or under another key if the key is another node's.
    fn claim(&mut self, name: &str, record: LeaseRecord) -> LeaseRecord {
        let holder = self.holders.entry(record.key.as_str().into()).or_insert_with(|| name.into());
        if **holder == *name {
            return record;
        }
        let passed = LeaseRecord { key: contested(name, &record.key), ..record.clone() };
        self.waiting.insert(name.into(), record);
        passed
    }

    /// The node does not claim this key any more: whoever waited for it longest has it now.
    fn give_up(&mut self, name: &str, key: &str) -> Vec<Event> {
        if self.waiting.remove(name).is_some() {
            return vec![Event::Delete(contested(name, key))];
        }
        self.holders.remove(key);
        let heirs = self.waiting.iter().filter(|(_, record)| record.key == key);
        let heir = heirs.min_by_key(|(name, record)| (record.created, *name)).map(|(name, _)| name.clone());
        match heir.and_then(|heir| self.waiting.remove_entry(&heir)) {
            Some((heir, record)) => {
                self.holders.insert(key.into(), heir.clone());
                vec![Event::Delete(contested(&heir, key)), Event::Put(record)]
            }
            None => vec![Event::Delete(key.to_owned())],
        }
    }
}

/// No key of a subnet: it is refused, and says why.
fn contested(name: &str, key: &str) -> String {
    strange_key(name, &format!("its podCIDR {key} belongs to another node, which came first"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(key: &str, created: i64) -> LeaseRecord {
        LeaseRecord { key: key.into(), value: b"{}".to_vec(), created, modified: 0, lease_id: 1 }
    }

    fn keys(records: &[LeaseRecord]) -> Vec<&str> {
        records.iter().map(|record| record.key.as_str()).collect()
    }

    const A: &str = "10.5.1.0-24";
    const B: &str = "10.5.2.0-24";

    #[test]
    fn a_heartbeat_is_no_news_and_a_new_range_is() {
        let mut view = View::new("own");
        assert_eq!(view.put("a", Some(record(A, 1))), [Event::Put(record(A, 1))]);
        assert_eq!(view.put("a", Some(record(A, 1))), []);
        let mut changed = record(A, 1);
        changed.value = b"[]".to_vec();
        assert_eq!(view.put("a", Some(changed.clone())), [Event::Put(changed)]);
        assert_eq!(view.put("a", Some(record(B, 1))), [Event::Delete(A.into()), Event::Put(record(B, 1))]);
        assert_eq!(view.put("a", None), [Event::Delete(B.into())], "flannel does not run there any more");
        assert_eq!(view.delete("a"), []);
        assert!(view.nodes.is_empty() && view.holders.is_empty());
    }

    #[test]
    fn of_two_nodes_with_one_range_the_first_keeps_it() {
        let mut view = View::new("own");
        let listed =
            view.replace(vec![("b".into(), record(A, 2)), ("a".into(), record(A, 1)), ("c".into(), record(A, 3))]);
        let lost = |name: &str| format!("node {name}: its podCIDR {A} belongs to another node, which came first");
        assert_eq!(keys(&listed), [A, &lost("b"), &lost("c")]);
        assert_eq!(listed[0].created, 1);
        assert_eq!(view.delete("c"), [Event::Delete(lost("c"))]);
        assert_eq!(view.delete("a"), [Event::Delete(lost("b")), Event::Put(record(A, 2))]);
        assert_eq!(view.delete("b"), [Event::Delete(A.into())]);
        assert!(view.nodes.is_empty() && view.holders.is_empty() && view.waiting.is_empty());
    }

    #[test]
    fn our_own_claim_comes_first_and_a_list_forgets_the_rest() {
        let mut view = View::new("own");
        view.put("old", Some(record(B, 1)));
        let listed = view.replace(vec![("a".into(), record(A, 1)), ("own".into(), record(A, 9))]);
        assert_eq!((listed[0].key.as_str(), listed[0].created), (A, 9));
        assert_eq!((listed.len(), view.len()), (2, 2));
        assert_eq!(view.put("old", Some(record(B, 1))).len(), 1);
    }
}
