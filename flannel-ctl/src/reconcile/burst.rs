//! So that nobody who causes trouble can fill the log with it.

use std::time::{Duration, Instant};

/// Lines about one kind of trouble in one burst; whoever writes bad leases must not fill the log.
const BURST: usize = 20;
const BURST_PERIOD: Duration = Duration::from_secs(10);

/// Lines of one kind in the log: so many in a period, then silence.
#[derive(Debug)]
pub(super) struct Burst {
    begun: Option<Instant>,
    lines: usize,
    /// Said instead of the first one that is too much.
    last_word: &'static str,
}

impl Burst {
    pub(super) fn new(last_word: &'static str) -> Self {
        Self { begun: None, lines: 0, last_word }
    }

    /// Whether one more may be said.
    pub(super) fn admits(&mut self) -> bool {
        let now = Instant::now();
        if self.begun.is_none_or(|begun| now - begun > BURST_PERIOD) {
            (self.begun, self.lines) = (Some(now), 0);
        }
        self.lines += 1;
        if self.lines == BURST {
            tracing::warn!("{}", self.last_word);
        }
        self.lines < BURST
    }
}
