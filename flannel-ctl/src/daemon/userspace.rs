//! The userspace datapath before the loop runs: what the last daemon carried is carried again at once.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::mpsc::Sender,
};

use super::handover::Store;
use crate::{
    kernel::{
        KernelError, Notice,
        links::Links,
        userspace::{Parting, Userspace},
    },
    model::Kept,
    reconcile::{Inbox, Wake},
    state::forwarding,
};

/// Engines that run already if there were some before, and that wake the loop when they end.
pub(super) fn resume(run_dir: &Path, wake_tx: &Sender<Wake<Notice>>, parting: Parting) -> Userspace {
    let mut userspace = Userspace::new(wake(wake_tx.clone()), keeper(run_dir.to_owned()), Store::open(), parting);
    match forwarding::load(run_dir) {
        Ok(Some(kept)) => match indexes() {
            Ok(indexes) => userspace.resume(&kept, |name| indexes.get(name).copied()),
            Err(error) => tracing::warn!(%error, "cannot carry packets before the leases are known"),
        },
        Ok(None) => {}
        Err(error) => tracing::warn!(%error, "the forwarding table of the last run"),
    }
    userspace.let_go();
    userspace
}

fn indexes() -> Result<BTreeMap<String, u32>, KernelError> {
    let tuns = Links::open()?.lasting_tuns()?;
    Ok(tuns.into_iter().map(|link| (link.name, link.index)).collect())
}

fn wake(wake_tx: Sender<Wake<Notice>>) -> impl Fn() + Send + Sync {
    move || {
        let inbox = Inbox::new(1, Notice::EngineEnded);
        // Without a loop there is nothing to wake.
        if inbox.push(Notice::EngineEnded) {
            drop(wake_tx.send(Wake::Kernel(inbox)));
        }
    }
}

fn keeper(run_dir: PathBuf) -> impl FnMut(&Kept) + Send {
    move |kept| {
        if let Err(error) = forwarding::store(&run_dir, kept) {
            tracing::warn!(%error, "the next start will carry packets only once the leases are known");
        }
    }
}
