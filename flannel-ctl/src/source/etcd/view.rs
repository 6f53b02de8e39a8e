//! What we know of the store: enough to tell news from echoes, and to notice what was missed.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::{session::Listing, watch::Change};
use crate::{model::LeaseRecord, source::Event};

/// Keys with their mod revisions, and one record in full: the one that is ours.
#[derive(Debug, Default)]
pub(super) struct View {
    /// Everything up to here is in.
    revision: i64,
    keys: HashMap<String, i64>,
    /// Keys of leases that flannel's own daemon wrote.
    flannels: HashSet<String>,
    own_key: Option<String>,
    own: Option<LeaseRecord>,
}

impl View {
    /// Takes a complete list; the previous knowledge is void.
    pub(super) fn replace(&mut self, listing: &Listing) {
        self.revision = listing.revision;
        self.keys = listing.records.iter().map(|record| (record.key.clone(), record.modified)).collect();
        self.flannels = listing.records.iter().filter(|r| is_flannels(r)).map(|record| record.key.clone()).collect();
        self.own = self.own_key.as_ref().and_then(|key| listing.records.iter().find(|r| r.key == *key)).cloned();
    }

    /// Whether a store that gives this list has another history than the one that we have seen:
    /// its revision went backwards, or nothing at all stands as we know it, our own key included.
    pub(super) fn is_another_history(&self, listing: &Listing) -> bool {
        let stands = |record: &LeaseRecord| self.keys.get(&record.key) == Some(&record.modified);
        let newest = self.revision.max(self.summary().1);
        listing.revision < newest || (!self.keys.is_empty() && !listing.records.iter().any(stands))
    }

    /// Keys of others that we know and the list does not have.
    pub(super) fn missing(&self, listing: &Listing) -> BTreeSet<String> {
        let listed: HashSet<&str> = listing.records.iter().map(|record| record.key.as_str()).collect();
        let missing = |key: &&String| !listed.contains(key.as_str()) && self.own_key.as_ref() != Some(key);
        self.keys.keys().filter(missing).cloned().collect()
    }

    /// Follows this key in full; `record` is what stands there.
    pub(super) fn follow(&mut self, key: Option<String>, record: Option<LeaseRecord>) {
        self.own_key = key;
        self.own = record;
    }

    /// What stands under the key that is followed.
    pub(super) fn own(&self) -> Option<&LeaseRecord> {
        self.own.as_ref()
    }

    /// Takes in a change of a lease; the event to pass on, unless it is old or says nothing new.
    pub(super) fn apply(&mut self, change: Change) -> Option<Event> {
        match change {
            Change::Put(record) => {
                if record.modified <= self.revision || self.keys.get(&record.key) >= Some(&record.modified) {
                    return None;
                }
                self.keys.insert(record.key.clone(), record.modified);
                if is_flannels(&record) {
                    self.flannels.insert(record.key.clone());
                } else {
                    self.flannels.remove(&record.key);
                }
                if self.own_key.as_ref() == Some(&record.key) {
                    // Our own write may be known already, and be newer than what the watch tells.
                    if self.own.as_ref().is_none_or(|own| own.modified < record.modified) {
                        self.own = Some(record.clone());
                    }
                }
                Some(Event::Put(record))
            }
            Change::Delete(key, revision) => {
                if revision <= self.revision {
                    return None;
                }
                if self.own_key.as_ref() == Some(&key) && self.own.as_ref().is_some_and(|own| own.modified < revision) {
                    self.own = None;
                }
                self.flannels.remove(&key);
                self.keys.remove(&key).map(|_| Event::Delete(key))
            }
            Change::Config(_) => None,
        }
    }

    /// There are nodes of flannel's own daemon, as far as their leases tell.
    pub(super) fn has_flannels_daemons(&self) -> bool {
        self.flannels.iter().any(|key| self.own_key.as_ref() != Some(key))
    }

    /// Every key that is there.
    pub(super) fn keys(&self) -> impl Iterator<Item = &String> {
        self.keys.keys()
    }

    /// The answer of [`super::Session::summary`] that this view would give.
    pub(super) fn summary(&self) -> (i64, i64) {
        let count = i64::try_from(self.keys.len()).unwrap_or(i64::MAX);
        (count, self.keys.values().copied().max().unwrap_or(0))
    }
}

/// A lease that ends by itself (a reservation does not), and whose value does not name its node by an id. Read without a
/// parser, since it is asked of every lease of every list.
fn is_flannels(record: &LeaseRecord) -> bool {
    let names = |field: &[u8]| record.value.windows(field.len()).any(|part| part == field);
    record.lease_id != 0 && names(br#""PublicIP""#) && !names(br#""NodeID""#)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(key: &str, modified: i64) -> LeaseRecord {
        LeaseRecord { key: key.into(), value: vec![], created: 1, modified, lease_id: 0 }
    }

    fn view() -> View {
        let mut view = View::default();
        view.follow(Some("own".into()), None);
        view.replace(&Listing { revision: 10, records: vec![record("a", 4), record("own", 7)] });
        view
    }

    #[test]
    fn what_the_list_has_already_is_no_news() {
        let mut view = view();
        assert_eq!(view.apply(Change::Delete("a".into(), 9)), None, "deleted before, put again since");
        assert_eq!(view.apply(Change::Put(record("a", 4))), None);
        assert_eq!(view.apply(Change::Delete("never seen".into(), 12)), None);
        assert_eq!(view.apply(Change::Put(record("a", 12))), Some(Event::Put(record("a", 12))));
        assert_eq!(view.apply(Change::Put(record("a", 11))), None, "older than what is known");
        assert_eq!(view.summary(), (2, 12));
        assert_eq!(view.apply(Change::Delete("a".into(), 13)), Some(Event::Delete("a".into())));
        assert_eq!(view.summary(), (1, 7));
    }

    #[test]
    fn flannels_own_daemons_are_known_by_what_they_write() {
        let mut view = view();
        let written = |key: &str, modified, lease_id, value: &str| LeaseRecord {
            value: value.into(),
            lease_id,
            ..record(key, modified)
        };
        let flannels = r#"{"PublicIP":"10.0.0.1","PublicIPv6":null,"BackendType":"vxlan"}"#;
        view.apply(Change::Put(written("ours", 11, 5, r#"{"PublicIP":"10.0.0.1","PublicIPv6":null,"NodeID":"a"}"#)));
        view.apply(Change::Put(written("reserved", 12, 0, flannels)));
        view.apply(Change::Put(written("own", 13, 5, flannels)));
        assert!(!view.has_flannels_daemons(), "what we have taken over is none of theirs");
        view.apply(Change::Put(written("theirs", 14, 5, flannels)));
        assert!(view.has_flannels_daemons());
        view.apply(Change::Delete("theirs".into(), 15));
        assert!(!view.has_flannels_daemons());
        view.replace(&Listing { revision: 20, records: vec![written("theirs", 16, 5, flannels)] });
        assert!(view.has_flannels_daemons());
    }

    #[test]
    fn a_store_that_lost_its_data_is_told_from_removals() {
        let lost = |revision, records| view().is_another_history(&Listing { revision, records });
        assert!(!lost(11, vec![record("own", 7)]), "a was removed");
        assert!(!lost(11, vec![record("a", 4)]), "ours expired");
        assert!(!lost(12, vec![record("a", 11), record("own", 7)]), "a was written anew");
        assert!(lost(1, vec![]), "restarted empty");
        assert!(lost(3, vec![record("b", 2), record("own", 3)]), "and written since");
        assert!(lost(900, vec![record("own", 899)]), "far ahead, and all is another's work");
        assert!(lost(9, vec![record("own", 7)]), "an older copy");
        assert!(!View::default().is_another_history(&Listing { revision: 1, records: vec![] }), "nothing was known");
        let listing = Listing { revision: 1, records: vec![record("b", 1)] };
        assert_eq!(view().missing(&listing).into_iter().collect::<Vec<_>>(), ["a"], "our own is written again by us");
    }

    #[test]
    fn the_echo_of_an_older_change_does_not_undo_our_own_write() {
        let mut view = view();
        assert_eq!(view.own(), Some(&record("own", 7)));
        assert!(view.apply(Change::Delete("own".into(), 11)).is_some());
        assert_eq!(view.own(), None);
        view.follow(Some("own".into()), Some(record("own", 14)));
        view.apply(Change::Put(record("own", 12)));
        view.apply(Change::Delete("own".into(), 13));
        assert_eq!(view.own(), Some(&record("own", 14)));
        view.apply(Change::Delete("own".into(), 15));
        assert_eq!(view.own(), None);
    }
}
