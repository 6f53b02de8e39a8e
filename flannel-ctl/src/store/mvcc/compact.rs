//! Compaction: history that nobody may ask for any more is forgotten.

use super::{Change, Core, Effects, Refusal};

impl Core {
    /// Forgets what only revisions before `revision` could see. `newest` is the newest revision that readers may see.
    pub fn compact(&mut self, revision: i64, newest: i64, effects: &mut Effects) -> Result<(), Refusal> {
        if revision <= self.compacted {
            return Err(Refusal::Compacted);
        }
        if revision > newest {
            return Err(Refusal::Future);
        }
        self.compacted = revision;
        effects.compacted = true;
        // A key has something to forget only if it changed since the last compaction, so the log names them all.
        let touched = self.log.partition_point(|change| change.revision() <= revision);
        for index in 0..touched {
            let Some(key) = self.log.get(index).map(|change| change.kv.key.clone()) else { break };
            self.forget_versions(&key, revision, effects);
        }
        // The changes of the compacted revision itself stay: a watch may still start there.
        while let Some(first) = self.log.front()
            && first.revision() < revision
        {
            let Some(change) = self.log.pop_front() else { break };
            self.log_weight -= change.weight();
            if !self.holds_version(&change) {
                effects.forgotten.insert((change.revision(), change.sub));
            }
        }
        Ok(())
    }

    fn holds_version(&self, change: &Change) -> bool {
        let versions = self.keys.get(&change.kv.key).map_or(&[][..], Vec::as_slice);
        versions.binary_search_by_key(&(change.revision(), change.sub), |v| (v.revision(), v.sub)).is_ok()
    }

    /// Keeps of a key the version that `revision` sees and all after it.
    pub(super) fn forget_versions(&mut self, key: &[u8], revision: i64, effects: &mut Effects) {
        let Some(versions) = self.keys.get_mut(key) else { return };
        let seen = versions.partition_point(|change| change.revision() <= revision);
        let deleted = seen > 0 && versions.get(seen - 1).is_some_and(Change::is_deletion);
        let drop = if deleted { seen } else { seen.saturating_sub(1) };
        for change in versions.drain(..drop) {
            self.weight -= change.weight();
            // On disk a change lives as long as either its key or the log needs it.
            if change.revision() < revision {
                effects.forgotten.insert((change.revision(), change.sub));
            }
        }
        if versions.is_empty() {
            self.keys.remove(key);
        }
    }
}
