use proptest::prelude::*;

use super::*;

const NOTHING: Found = Found { reads: 0, packets: 0, more: false, delivered: false };
/// For the wire.
const ONE: Found = Found { reads: 1, packets: 1, ..NOTHING };
/// For the device.
const DELIVERED: Found = Found { delivered: true, ..ONE };

/// A thread, and a clock that goes only when told.
struct Thread {
    now: Instant,
    pace: Pace,
}

impl Thread {
    fn new() -> Self {
        let now = Instant::now();
        Self { now, pace: Pace::new(now) }
    }

    fn after(&mut self, micros: u64, found: Found) -> Next {
        self.now += Duration::from_micros(micros);
        self.pace.next(self.now, found)
    }

    /// Lets others have the core for so long.
    fn away(&mut self, micros: u64) {
        self.now += Duration::from_micros(micros);
        self.pace.resumed(self.now);
    }

    /// Answers at this distance, until it looks again while it waits for the next; how many that took.
    fn answers(&mut self, micros: u64, most: usize) -> Option<usize> {
        (1..=most).find(|_| {
            self.after(micros, ONE);
            self.after(1, NOTHING) == Next::Yield
        })
    }

    /// Looks, each a microsecond after the last, until it sleeps.
    fn looks(&mut self) -> usize {
        (0..1_000).take_while(|_| self.after(1, NOTHING) != Next::Sleep).count()
    }
}

#[test]
fn silence_is_slept_through() {
    let mut thread = Thread::new();
    for micros in [1, 1_000, 1_000_000] {
        assert_eq!(thread.after(micros, NOTHING), Next::Sleep);
    }
    assert_eq!(thread.answers(1_000, 1_000), None, "a packet each millisecond is worth no core");
}

#[test]
fn answers_are_waited_for_awake_and_not_for_long() {
    let mut thread = Thread::new();
    assert_eq!(thread.answers(60, 10), Some(4));
    assert!(thread.pace.is_answering(), "what comes now goes on at once");
    let looks = thread.looks();
    assert!((50..=100).contains(&looks), "{looks}");
    assert_eq!(thread.after(1_000_000, ONE), Next::Look, "as at first");
    assert_eq!(thread.after(1, NOTHING), Next::Sleep);
}

#[test]
fn what_is_refused_keeps_nobody_awake() {
    let refused = Found { packets: 0, ..ONE };
    let mut thread = Thread::new();
    for _ in 0..1_000 {
        thread.after(50, refused);
        assert_eq!(thread.after(1, NOTHING), Next::Sleep);
    }
    thread.answers(20, 10).unwrap();
    thread.after(60, refused);
    assert!(thread.looks() < 60, "as if it had not come");
}

#[test]
fn what_is_looked_for_in_vain_is_looked_for_less() {
    let mut thread = Thread::new();
    // Each is soon, but comes when the thread has gone to sleep.
    let (mut looks, answers) = (0, 20_000);
    for _ in 0..answers {
        thread.after(140, ONE);
        looks += thread.looks();
    }
    assert!(looks < answers / 2, "{looks} microseconds awake for {answers} packets");
    for _ in 0..2_000 {
        thread.after(20, ONE);
        thread.after(1, NOTHING);
    }
    assert!(thread.looks() > 50, "worth it again");
    assert_eq!(thread.answers(20, 10), Some(8), "once in vain");
}

#[test]
fn who_is_ousted_leaves_the_core_longer_each_time() {
    let mut thread = Thread::new();
    let mut left = Vec::new();
    for _ in 0..12 {
        thread.answers(20, 10_000).unwrap();
        thread.away(3_000);
        let begin = thread.now;
        while thread.after(20, ONE) != Next::Yield {
            assert_eq!(thread.after(1, NOTHING), Next::Sleep);
        }
        left.push((thread.now - begin).as_millis());
    }
    assert_eq!(left[0], 10);
    assert!(left.windows(2).all(|pair| pair[1] >= pair[0]), "{left:?}");
    assert_eq!(left[11], 1_000, "and never for longer");
    // After a time without it, it is as at first.
    for _ in 0..1_000_000 {
        thread.after(20, ONE);
        thread.away(1);
    }
    thread.away(3_000);
    assert_eq!(thread.pace.leave, LEAVE);
}

#[test]
fn a_core_that_the_host_takes_away_is_left() {
    let mut thread = Thread::new();
    thread.answers(20, 10).unwrap();
    thread.away(1);
    assert_eq!(thread.after(3_000, NOTHING), Next::Sleep);
    assert_eq!(thread.answers(20, 400), None, "for 10 ms");
    assert!(thread.answers(20, 200).is_some());
    thread.away(1);
    thread.after(3_000, ONE);
    assert!(thread.answers(20, 20).is_some(), "time that went into a packet says nothing");
}

#[test]
fn it_stays_on_the_core_of_whom_it_wakes_and_sleeps_to_be_woken_there() {
    let mut thread = Thread::new();
    let mut answer = |away| {
        let next = thread.after(20, DELIVERED);
        thread.away(away);
        thread.after(1, NOTHING);
        (next, thread.pace.stays())
    };
    let apart: Vec<_> = (0..2_000).map(|_| answer(1)).collect();
    let slept = apart.iter().filter(|(next, _)| *next == Next::Sleep).count();
    assert!((4..=8).contains(&slept), "more and more seldom: {slept}");
    assert!(apart.iter().all(|(_, stays)| !stays));
    let together: Vec<_> = (0..2_000).map(|_| answer(10)).collect();
    assert!(together.iter().all(|(next, _)| *next == Next::Yield), "it has come to the right place");
    assert!(together[TOGETHER as usize..].iter().all(|(_, stays)| *stays));
    assert!(!answer(1).1, "whom it wakes has gone elsewhere");
}

#[test]
fn who_sleeps_or_is_ousted_stays_nowhere() {
    let settled = || {
        let mut thread = Thread::new();
        for _ in 0..20 {
            thread.after(20, DELIVERED);
            thread.away(10);
        }
        assert!(thread.pace.stays());
        thread
    };
    let mut thread = settled();
    thread.looks();
    assert!(!thread.pace.stays());
    let mut thread = settled();
    thread.after(20, ONE);
    thread.away(3_000);
    assert!(!thread.pace.stays());
}

#[test]
fn a_flood_is_left_to_gather_until_it_ebbs() {
    let mut thread = Thread::new();
    let naps = (0..1_000).filter(|_| thread.after(5, ONE) == Next::Nap).count();
    assert!(naps > 900, "{naps}");
    let gathered = Found { reads: 12, packets: 12, ..NOTHING };
    assert!((0..1_000).all(|_| thread.after(60, gathered) == Next::Nap));
    assert_eq!(thread.after(20, Found { more: true, ..gathered }), Next::Look, "what is there is carried first");
    let naps = (0..1_000).take_while(|_| thread.after(60, NOTHING) == Next::Nap).count();
    assert!(naps < 20, "{naps}");
    assert_eq!(thread.after(60, NOTHING), Next::Sleep);
}

#[test]
fn trains_keep_awake_only_where_the_next_is_close_behind() {
    let mut thread = Thread::new();
    let train = Found { reads: 2, packets: 90, ..NOTHING };
    for _ in 0..1_000 {
        assert_eq!(thread.after(20, train), Next::Look);
        assert_eq!(thread.after(1, NOTHING), Next::Yield);
        assert!(!thread.pace.is_answering(), "all that comes is taken at once");
    }
    let looks = thread.looks();
    assert!((20..=30).contains(&looks), "{looks}");
    for _ in 0..1_000 {
        assert_eq!(thread.after(60, train), Next::Look);
        assert_eq!(thread.after(1, NOTHING), Next::Sleep);
    }
}

#[test]
fn a_backlog_is_read_by_the_batch() {
    let mut thread = Thread::new();
    thread.answers(20, 10).unwrap();
    let one_at_a_time = (0..100).filter(|_| thread.after(10, ONE) == Next::Yield && thread.pace.is_answering()).count();
    assert!(one_at_a_time <= 4, "{one_at_a_time}");
}

proptest! {
    /// Whatever came before: a thread to which nothing comes is asleep within a millisecond.
    #[test]
    fn nothing_keeps_awake(past in prop::collection::vec((0_u64..2_000, 0_u32..70, any::<[bool; 2]>(), 0_u64..1_000), 0..400)) {
        let mut thread = Thread::new();
        for (micros, reads, [more, delivered], away) in past {
            thread.after(micros, Found { reads, packets: reads.into(), more, delivered });
            thread.away(away);
        }
        let begin = thread.now;
        while thread.after(1, NOTHING) != Next::Sleep {
            prop_assert!(thread.now - begin < Duration::from_millis(1));
        }
    }
}
