//! Ready when nothing is awaited any more: each step of the start holds a guard and drops it
//! when done, and whoever asks is told what is still missing.

use std::{collections::BTreeMap, sync::Arc};

use tokio::sync::watch;

/// Clones share one set of guards. With no guard taken yet, it is ready: take the first one
/// before handing out clones.
#[derive(Clone, Debug)]
pub struct Readiness {
    awaited: Arc<watch::Sender<BTreeMap<&'static str, usize>>>,
}

/// One thing that is still awaited; done when dropped.
#[derive(Debug)]
#[must_use = "the step counts as done when the guard is dropped"]
pub struct ReadyGuard {
    name: &'static str,
    awaited: Arc<watch::Sender<BTreeMap<&'static str, usize>>>,
}

impl Readiness {
    #[expect(clippy::new_without_default, reason = "an empty one is ready, which nobody should get by accident")]
    pub fn new() -> Self {
        Self { awaited: Arc::new(watch::Sender::new(BTreeMap::new())) }
    }

    /// Not ready until the guard is dropped. `name` completes "waiting for ...".
    pub fn wait_for(&self, name: &'static str) -> ReadyGuard {
        self.awaited.send_modify(|awaited| *awaited.entry(name).or_default() += 1);
        ReadyGuard { name, awaited: Arc::clone(&self.awaited) }
    }

    pub fn is_ready(&self) -> bool {
        self.awaited.borrow().is_empty()
    }

    /// What is missing, in alphabetical order; empty when ready.
    pub fn awaited(&self) -> Vec<&'static str> {
        self.awaited.borrow().keys().copied().collect()
    }

    /// Completes as soon as nothing is awaited.
    pub async fn ready(&self) {
        let mut awaited = self.awaited.subscribe();
        // `self` keeps the sender alive, so the only way out is readiness.
        drop(awaited.wait_for(BTreeMap::is_empty).await);
    }
}

impl Drop for ReadyGuard {
    fn drop(&mut self) {
        self.awaited.send_modify(|awaited| {
            if let Some(count) = awaited.get_mut(self.name) {
                *count -= 1;
                if *count == 0 {
                    awaited.remove(self.name);
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn ready_when_the_last_guard_drops() {
        let readiness = Readiness::new();
        let lease = readiness.wait_for("a lease");
        let again = readiness.wait_for("a lease");
        let file = readiness.wait_for("subnet.env");
        assert_eq!(readiness.awaited(), ["a lease", "subnet.env"]);
        drop(file);
        drop(lease);
        assert_eq!(readiness.awaited(), ["a lease"]);
        let waiting = tokio::spawn({
            let readiness = readiness.clone();
            async move { readiness.ready().await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(again);
        waiting.await.expect("waits only");
        assert!(readiness.is_ready());
    }

    #[tokio::test]
    async fn can_be_taken_back() {
        let readiness = Readiness::new();
        drop(readiness.wait_for("a lease"));
        assert!(readiness.is_ready());
        let _fenced = readiness.wait_for("a lease");
        assert!(!readiness.is_ready());
    }
}
