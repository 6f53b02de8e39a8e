//! A continuous ping that knows exactly what was lost.

use std::{
    fmt,
    net::IpAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::Result;

use super::{
    Family, Netns,
    echo::{Echo, Mark},
    wait,
};

/// How long a reply may take before it counts as lost.
const GRACE: Duration = Duration::from_secs(2);
/// Nothing is under way any more when for so long nothing has come.
const SILENCE: Duration = Duration::from_millis(500);

/// Echo requests at a fixed pace from a namespace to an address, until [`Ping::stop`].
///
/// Two threads: one sends by the clock (late requests are sent at once, none is left out), one takes
/// the replies. Every request is accounted for, so `lost == 0` means that not one packet was dropped.
#[derive(Debug)]
pub struct Ping {
    shared: Arc<Shared>,
    sender: Option<JoinHandle<()>>,
    receiver: Option<JoinHandle<()>>,
    interval: Duration,
    what: String,
}

#[derive(Debug)]
struct Shared {
    echo: Echo,
    to: IpAddr,
    start: Instant,
    stop: AtomicBool,
    /// The sender has stopped.
    all_sent: AtomicBool,
    sent: AtomicU64,
    received: AtomicU64,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    /// By sequence number.
    answered: Vec<bool>,
    duplicates: u64,
    round_trips: Vec<Duration>,
    send_errors: u64,
    last_send_error: Option<String>,
}

/// What became of the requests of a [`Ping`].
#[derive(Clone, Debug)]
pub struct PingReport {
    pub what: String,
    pub sent: u64,
    pub received: u64,
    pub duplicates: u64,
    /// Of the lost ones, those that the sender's own stack refused, and its last word.
    pub send_errors: u64,
    pub last_send_error: Option<String>,
    /// Longest time without an answered request, in whole intervals.
    pub longest_gap: Duration,
    /// When the first lost request was sent, since the start.
    pub first_lost: Option<Duration>,
    /// The same of the last one.
    pub last_lost: Option<Duration>,
    /// Ascending.
    pub round_trips: Vec<Duration>,
}

impl Ping {
    /// Starts pinging `to` from inside `from`, a request every `interval`.
    pub fn start(from: &Netns, to: IpAddr, interval: Duration) -> Result<Self> {
        let family = if to.is_ipv4() { Family::V4 } else { Family::V6 };
        let shared = Arc::new(Shared {
            echo: Echo::open(from, family)?,
            to,
            start: Instant::now(),
            stop: AtomicBool::new(false),
            all_sent: AtomicBool::new(false),
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
            seen: Mutex::default(),
        });
        let (sending, receiving) = (Arc::clone(&shared), Arc::clone(&shared));
        Ok(Self {
            sender: Some(thread::spawn(move || sending.send(interval))),
            receiver: Some(thread::spawn(move || receiving.receive())),
            shared,
            interval,
            what: format!("ping {to} from {}", from.name()),
        })
    }

    /// Waits for a first reply, so that what follows measures a path that works.
    pub fn until_answered(from: &Netns, to: IpAddr) -> Result<()> {
        let echo = Echo::open(from, if to.is_ipv4() { Family::V4 } else { Family::V6 })?;
        wait::until(&format!("a first reply of {to} to {}", from.name()), wait::SHORT, || {
            // Refused while there is no route yet: tried again.
            drop(echo.send(to, Mark { sequence: 0, sent_nanos: 0 }));
            echo.receive().map(drop)
        })
    }

    /// Requests sent up to now.
    pub fn sent(&self) -> u64 {
        self.shared.sent.load(Ordering::Acquire)
    }

    /// Replies received up to now.
    pub fn received(&self) -> u64 {
        self.shared.received.load(Ordering::Acquire)
    }

    /// Waits until that many more replies have come.
    pub fn more(&self, replies: u64) -> Result<()> {
        let goal = self.received() + replies;
        let what = format!("{replies} more replies to {}", self.what);
        wait::until(&what, wait::LONG, || (self.received() >= goal).then_some(()))
    }

    /// Stops sending, waits for what is still under way, and says what became of every request.
    pub fn stop(mut self) -> PingReport {
        self.halt();
        let seen = self.shared.seen.lock().expect("the receiver does not panic");
        let sent = self.sent();
        let mut answered = seen.answered.clone();
        answered.resize(usize::try_from(sent).unwrap_or(usize::MAX), false);
        let mut round_trips = seen.round_trips.clone();
        round_trips.sort_unstable();
        let position = answered.iter().position(|answered| !answered);
        let longest = answered.split(|answered| *answered).map(<[bool]>::len).max().unwrap_or(0);
        let intervals = |n: usize| self.interval * u32::try_from(n).unwrap_or(u32::MAX);
        PingReport {
            what: self.what.clone(),
            sent,
            received: answered.iter().filter(|answered| **answered).count() as u64,
            duplicates: seen.duplicates,
            send_errors: seen.send_errors,
            last_send_error: seen.last_send_error.clone(),
            longest_gap: intervals(longest),
            first_lost: position.map(intervals),
            last_lost: answered.iter().rposition(|answered| !answered).map(intervals),
            round_trips,
        }
    }

    fn halt(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        for thread in [self.sender.take(), self.receiver.take()].into_iter().flatten() {
            if thread.join().is_err() {
                eprintln!("lab: a thread of {} panicked", self.what);
            }
        }
    }
}

impl Drop for Ping {
    fn drop(&mut self) {
        self.halt();
    }
}

impl Shared {
    fn send(&self, interval: Duration) {
        let mut due = self.start;
        for sequence in 0.. {
            if self.stop.load(Ordering::Acquire) {
                self.all_sent.store(true, Ordering::Release);
                return;
            }
            thread::sleep(due.saturating_duration_since(Instant::now()));
            due += interval;
            let sent_nanos = u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX);
            let outcome = self.echo.send(self.to, Mark { sequence, sent_nanos });
            if let Err(error) = outcome {
                let mut seen = self.seen.lock().expect("the receiver does not panic");
                seen.send_errors += 1;
                seen.last_send_error = Some(error.to_string());
            }
            self.sent.store(sequence + 1, Ordering::Release);
        }
    }

    fn receive(&self) {
        let (mut stopped_at, mut last) = (None, Instant::now());
        loop {
            if let Some((_, mark)) = self.echo.receive() {
                self.note(mark);
                last = Instant::now();
            }
            if self.stop.load(Ordering::Acquire) {
                let since = stopped_at.get_or_insert_with(Instant::now);
                // The sender may be about to send its last when it is told to stop, and a busy machine keeps it there.
                let all_sent = self.all_sent.load(Ordering::Acquire);
                let whole = all_sent && self.received.load(Ordering::Acquire) >= self.sent.load(Ordering::Acquire);
                let silent = since.elapsed().min(last.elapsed()) > SILENCE;
                if (whole && since.elapsed() > Duration::from_millis(50)) || silent || since.elapsed() > GRACE {
                    return;
                }
            }
        }
    }

    fn note(&self, mark: Mark) {
        let round_trip = self.start.elapsed().saturating_sub(Duration::from_nanos(mark.sent_nanos));
        let index = usize::try_from(mark.sequence).unwrap_or(usize::MAX);
        let mut seen = self.seen.lock().expect("the sender does not panic");
        if seen.answered.len() <= index {
            seen.answered.resize(index + 1, false);
        }
        if std::mem::replace(&mut seen.answered[index], true) {
            seen.duplicates += 1;
        } else {
            seen.round_trips.push(round_trip);
            self.received.fetch_add(1, Ordering::AcqRel);
        }
    }
}

impl PingReport {
    /// Requests without a reply.
    pub fn lost(&self) -> u64 {
        self.sent - self.received
    }

    /// Round-trip time that the given share (0 to 100) of the replies did not exceed.
    pub fn percentile(&self, share: usize) -> Option<Duration> {
        let last = self.round_trips.len().checked_sub(1)?;
        self.round_trips.get(last * share.min(100) / 100).copied()
    }

    /// Fails the test unless every request was answered exactly once, and there were some.
    #[track_caller]
    pub fn assert_nothing_lost(&self) {
        assert!(self.sent > 0 && self.lost() == 0, "{self}");
    }
}

impl fmt::Display for PingReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} sent, {} lost", self.what, self.sent, self.lost())?;
        if let Some(first) = self.first_lost {
            write!(f, " (first after {first:?}, longest gap {:?})", self.longest_gap)?;
        }
        if self.duplicates > 0 {
            write!(f, ", {} duplicates", self.duplicates)?;
        }
        if let Some(error) = &self.last_send_error {
            write!(f, ", {} refused by the sender's stack: {error}", self.send_errors)?;
        }
        if let (Some(median), Some(high)) = (self.percentile(50), self.percentile(99)) {
            write!(f, ", median {median:?}, p99 {high:?}")?;
        }
        Ok(())
    }
}
