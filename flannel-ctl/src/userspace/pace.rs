//! When a thread that has nothing to carry looks again, and when it sleeps. Pure: the time is an argument.
//!
//! - **Answers** (requests and responses, one packet at a time, each soon after the last): it looks again for some tens of microseconds. A
//!   thread that sleeps in between has every packet wait for it to wake, which takes longer than all the rest. It does so on the core of
//!   whoever it carries for, if it can: they take turns anyway, nobody has to wake an idle core, and no other core is kept busy.
//! - **Floods** (many small packets, one at a time): it naps, and takes what has come meanwhile as one train. A thread that waits
//!   for each has its sender wake it each time, and pays the price of a train for every packet.
//! - **Trains** one close behind the other: the same, more briefly.
//! - **All else**, silence above all: it sleeps until there is something.
//!
//! Looking again is given up as soon as it does not pay: where nothing came, and where somebody else wanted the core.

use std::{
    mem,
    time::{Duration, Instant},
};

/// How long a thread looks again.
const LOOK: Duration = Duration::from_micros(100);
/// A packet that comes so long after the last one was an answer.
const SOON: Duration = Duration::from_micros(150);
/// The same for trains, which the next one is often close behind: how long, and how close the last one was.
const LOOK_AFTER: Duration = Duration::from_micros(30);
/// So many answers, one after the other, before a thread looks again.
const PROMPT: u32 = 4;
/// What was looked for in vain doubles the number above, this often at most; so many answers that were found so bring it back.
const VAIN: u32 = 8;
const WORTH: u32 = 64;
/// A look that finds more packets than these has found no answer.
const FEW: u64 = 4;
/// So many looks in a row that find something are a backlog.
const STREAK: u32 = 4;
/// Somebody else had the core for so long: there are not enough of them, or this process is held back by a quota.
const OUSTED: Duration = Duration::from_micros(500);
/// For so long a thread does not look again then; doubled each time it happens soon after.
const LEAVE: Duration = Duration::from_millis(10);
const LONGEST_LEAVE: Duration = Duration::from_secs(1);
/// Somebody else had the core for a moment: whoever was woken, if something has just gone to the device.
const SHARED: Duration = Duration::from_micros(4);
/// So often in a row, and this is the core to stay on.
const TOGETHER: u32 = 4;
/// So often nobody had it, and it is not.
const APART: u32 = 16;
/// What did not bring them together doubles the number above, this often at most.
const IN_VAIN: u32 = 10;
/// Reads that come at a shorter distance than this on average, over so many, are a flood.
const FLOOD: Duration = Duration::from_micros(8);
const SAMPLE: u32 = 64;
/// What a flood is left to gather for.
pub(super) const NAP: Duration = Duration::from_micros(100);

/// What one look at device and socket has brought.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// Packets and super-packets read, messages received.
    pub(super) reads: u32,
    /// Packets on the wire.
    pub(super) packets: u64,
    /// There may be more.
    pub(super) more: bool,
    /// Something went to the device, which wakes whoever it is for.
    pub(super) delivered: bool,
}

/// What to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Look again, at once.
    Look,
    /// Let others have the core, then look again.
    Yield,
    /// Sleep for [`NAP`].
    Nap,
    /// Sleep until there is something.
    Sleep,
}

/// One thread's pace.
#[derive(Debug)]
pub(super) struct Pace {
    /// Since when there is nothing.
    since: Option<Instant>,
    /// What was found last came soon after there was nothing.
    close: bool,
    /// The next packet is likely to be the only one.
    answering: bool,
    /// Looks in a row that found something.
    streak: u32,
    /// Answers in a row.
    prompt: u32,
    vain: u32,
    /// Answers that were found because the thread looked again.
    worth: u32,
    /// When the core was let to others; then when it was ours again.
    yielded: Option<Instant>,
    /// No looking again before this, and how long that was.
    leave_ends: Instant,
    leave: Duration,
    /// What was found last went to the device.
    delivered: bool,
    /// How often in a row whoever was woken then had this core; how often not; how often not is too often.
    together: u32,
    apart: u32,
    too_often: u32,
    /// Begin of the current sample, and reads in it.
    sample: Instant,
    reads: u32,
    flood: bool,
}

impl Found {
    /// What both directions have found.
    pub(super) const fn and(self, other: Self) -> Self {
        Self {
            reads: self.reads.saturating_add(other.reads),
            packets: self.packets + other.packets,
            more: self.more || other.more,
            delivered: self.delivered || other.delivered,
        }
    }
}

impl Pace {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            since: None,
            close: false,
            answering: false,
            streak: 0,
            prompt: 0,
            vain: 0,
            worth: 0,
            yielded: None,
            leave_ends: now,
            leave: Duration::ZERO,
            delivered: false,
            together: 0,
            apart: 0,
            too_often: APART,
            sample: now,
            reads: 0,
            flood: false,
        }
    }

    /// Whether the next packet is likely to be the only one: to look for more before it is sent would delay it.
    pub(super) const fn is_answering(&self) -> bool {
        self.answering && self.streak < STREAK
    }

    /// After a look, at the time at which it ended.
    pub(super) fn next(&mut self, now: Instant, found: Found) -> Next {
        let awake = self.yielded.take();
        self.weigh(now, found.reads);
        // What was refused came for nothing.
        let next = if found.packets > 0 || found.reads > 0 && found.more {
            self.found(now, found, awake.is_some())
        } else {
            // Nothing takes no time, unless the host has taken the core away from under the kernel.
            if found.reads == 0 && awake.is_some_and(|since| now.saturating_duration_since(since) > OUSTED) {
                self.ousted(now);
            }
            self.nothing(now)
        };
        match next {
            Next::Yield => self.yielded = Some(now),
            Next::Look => {}
            // Where it wakes is another question.
            Next::Nap | Next::Sleep => self.together = 0,
        }
        self.answering = next == Next::Yield && self.is_prompt(now);
        next
    }

    /// Whether to stay on this core, until that is no longer so.
    pub(super) const fn stays(&self) -> bool {
        self.together >= TOGETHER
    }

    /// After [`Next::Yield`], at the time at which the core was ours again.
    pub(super) fn resumed(&mut self, now: Instant) {
        let Some(yielded) = &mut self.yielded else { return };
        let away = now.saturating_duration_since(mem::replace(yielded, now));
        if away > OUSTED {
            self.ousted(now);
        } else if mem::take(&mut self.delivered) {
            if away > SHARED {
                (self.together, self.apart) = (self.together.saturating_add(1), 0);
            } else {
                (self.together, self.apart) = (0, self.apart + 1);
            }
        }
    }

    fn ousted(&mut self, now: Instant) {
        let again = now.saturating_duration_since(self.leave_ends) < 8 * self.leave;
        self.leave = if again { (2 * self.leave).min(LONGEST_LEAVE) } else { LEAVE };
        self.leave_ends = now + self.leave;
        self.together = 0;
    }

    fn found(&mut self, now: Instant, found: Found, awake: bool) -> Next {
        self.streak = self.streak.saturating_add(1);
        let gap = self.since.take().map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        let soon = gap < SOON;
        self.close = gap < LOOK_AFTER;
        self.prompt = if soon && (1..=FEW).contains(&found.packets) { self.prompt.saturating_add(1) } else { 0 };
        self.worth += u32::from(awake);
        if self.worth >= WORTH {
            (self.vain, self.worth) = (0, 0);
        }
        if self.flood && !found.more {
            return Next::Nap;
        }
        if !self.is_prompt(now) {
            return Next::Look;
        }
        self.delivered = found.delivered;
        if found.delivered && self.apart >= self.too_often {
            // Whoever is woken by this packet sends the next one. That wakes this thread, which a scheduler that packs puts beside the sender.
            self.too_often = (2 * self.too_often).min(APART << IN_VAIN);
            self.apart = 0;
            return Next::Sleep;
        }
        // Whom the packet has woken may be waiting for this core.
        Next::Yield
    }

    fn nothing(&mut self, now: Instant) -> Next {
        self.streak = 0;
        if self.flood {
            return Next::Nap;
        }
        let since = *self.since.get_or_insert(now);
        let waited = now.saturating_duration_since(since);
        if !self.is_prompt(now) {
            let again = self.close && self.prompt == 0 && waited < LOOK_AFTER && now >= self.leave_ends;
            return if again { Next::Yield } else { Next::Sleep };
        }
        if waited >= LOOK {
            (self.prompt, self.worth) = (0, 0);
            self.vain = (self.vain + 1).min(VAIN);
            return Next::Sleep;
        }
        Next::Yield
    }

    fn is_prompt(&self, now: Instant) -> bool {
        self.prompt >= PROMPT << self.vain && now >= self.leave_ends
    }

    /// Whether this is a flood.
    fn weigh(&mut self, now: Instant, reads: u32) {
        self.reads += reads;
        let elapsed = now.saturating_duration_since(self.sample);
        if self.reads >= SAMPLE || elapsed >= FLOOD * SAMPLE {
            self.flood = elapsed < FLOOD * self.reads;
            (self.sample, self.reads) = (now, 0);
        }
    }
}

#[cfg(test)]
#[path = "pace_tests.rs"]
mod tests;
