//! Waiting for a condition, never for a time.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

/// Long enough for anything local on a loaded machine.
pub const SHORT: Duration = Duration::from_secs(10);
/// Long enough for a daemon to start and converge on a loaded machine.
pub const LONG: Duration = Duration::from_secs(30);

/// Asks every 5 ms until there is an answer; an error that names `what` after `limit`.
pub fn until<T>(what: &str, limit: Duration, mut answer: impl FnMut() -> Option<T>) -> Result<T> {
    let start = Instant::now();
    loop {
        if let Some(answer) = answer() {
            return Ok(answer);
        }
        if start.elapsed() > limit {
            bail!("waited {:.1} s in vain for: {what}", start.elapsed().as_secs_f64());
        }
        thread::sleep(Duration::from_millis(5));
    }
}
