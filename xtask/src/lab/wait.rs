//! Waiting for a condition, never for a time.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use signal_hook::consts::{SIGINT, SIGTERM};

use super::Stopwatch;

/// Long enough for anything local on a loaded machine.
pub const SHORT: Duration = Duration::from_secs(20);
/// Long enough for a daemon to start and converge on a loaded machine.
pub const LONG: Duration = Duration::from_secs(30);

static INTERRUPTED: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// Asks every 5 ms until there is an answer; an error that names `what` after `limit`, in which what the machine was too
/// busy for does not count.
pub fn until<T>(what: &str, limit: Duration, mut answer: impl FnMut() -> Option<T>) -> Result<T> {
    let watch = Stopwatch::start();
    loop {
        if let Some(answer) = answer() {
            return Ok(answer);
        }
        if interrupted() {
            bail!("interrupted while waiting for: {what}");
        }
        if watch.is_over(limit) {
            bail!("waited in vain for: {what} ({watch})");
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// Whether Ctrl-C or SIGTERM has come since the first cluster was begun. [`until`] then gives up, so that
/// guards run.
pub fn interrupted() -> bool {
    INTERRUPTED.get().is_some_and(|flag| flag.load(Ordering::Acquire))
}

/// From now on the first Ctrl-C or SIGTERM only sets [`interrupted`]; a second one ends the process at once.
pub(super) fn catch_signals() -> Result<()> {
    if INTERRUPTED.get().is_some() {
        return Ok(());
    }
    let flag = INTERRUPTED.get_or_init(Arc::default);
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register_conditional_default(signal, Arc::clone(flag)).context("catching signals")?;
        signal_hook::flag::register(signal, Arc::clone(flag)).context("catching signals")?;
    }
    Ok(())
}
