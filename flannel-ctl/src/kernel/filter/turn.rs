//! How much of the reconcile loop's time the packet filter tools may take.
//!
//! They run on the loop's thread, so what they take is taken from leases and routes. All tools
//! of one pass together get [`PATIENCE`]; one that did not answer is left alone for [`REST`],
//! so that the next passes do not lose that much again.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use nix::errno::Errno;

use super::tool::{Children, PATIENCE, attempt};
use crate::kernel::KernelError;

/// How long a tool that hung is not tried again: its last answer stands for it.
const REST: Duration = Duration::from_secs(30);
/// With less left of a pass no tool is started any more.
const LEAST: Duration = Duration::from_secs(1);

/// Runs the tools of one pass after another.
#[derive(Debug)]
pub(super) struct Turn {
    /// For all tools of one pass.
    patience: Duration,
    rest: Duration,
    /// When this pass's time is up; `None` outside of passes: a bound for each tool then.
    deadline: Option<Instant>,
    /// Until when, and what to say meanwhile.
    resting: HashMap<String, (Instant, KernelError)>,
    children: Children,
}

impl Default for Turn {
    fn default() -> Self {
        Self::new(PATIENCE, REST)
    }
}

impl Turn {
    pub(super) fn new(patience: Duration, rest: Duration) -> Self {
        Self { patience, rest, deadline: None, resting: HashMap::new(), children: Children::default() }
    }

    #[cfg(test)]
    pub(super) fn set_patience(&mut self, patience: Duration) {
        self.patience = patience;
    }

    /// A pass begins: the clock is wound up.
    pub(super) fn begin(&mut self) {
        let now = Instant::now();
        self.deadline = Some(now + self.patience);
        self.resting.retain(|_, (until, _)| *until > now);
    }

    /// Runs it with what is left of the pass; its standard output if it succeeded. `started`
    /// hears the process id.
    pub(super) fn run(
        &mut self,
        program: &str,
        args: &[&str],
        input: &str,
        started: &mut dyn FnMut(u32),
    ) -> Result<String, KernelError> {
        let now = Instant::now();
        if let Some((_, error)) = self.resting.get(program).filter(|(until, _)| *until > now) {
            return Err(error.clone());
        }
        let limit = self.deadline.map_or(self.patience, |deadline| deadline.saturating_duration_since(now));
        if limit < LEAST.min(self.patience / 2) {
            return Err(KernelError {
                attempt: attempt(program, args),
                answer: "not started: other tools took all the time that they get in one pass".into(),
                hint: Some("another tool hangs or waits for a lock"),
                errno: 0,
            });
        }
        let outcome = self.children.run(program, args, input, limit, started);
        if let Err(error) = &outcome
            && error.errno == Errno::ETIMEDOUT as i32
        {
            self.resting.insert(program.to_owned(), (Instant::now() + self.rest, error.clone()));
        }
        outcome
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleep(turn: &mut Turn, program: &str) -> Result<String, KernelError> {
        turn.run(program, &["-c", "exec sleep 60"], "", &mut |_| {})
    }

    #[test]
    fn all_tools_of_a_pass_share_one_deadline() {
        let mut turn = Turn::new(Duration::from_millis(600), Duration::from_hours(1));
        turn.begin();
        let begun = Instant::now();
        let first = sleep(&mut turn, "sh").unwrap_err();
        assert_eq!(first.errno, Errno::ETIMEDOUT as i32);
        // Each of these would take its 600 ms, were it started.
        for _ in 0..100 {
            let error = turn.run("bash", &["-c", "exec sleep 60"], "", &mut |_| panic!("started")).unwrap_err();
            assert!(error.answer.contains("not started"), "{error}");
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    }

    #[test]
    fn a_tool_that_hung_rests_and_the_others_go_on() {
        let mut turn = Turn::new(Duration::from_millis(600), Duration::from_hours(1));
        turn.begin();
        let first = sleep(&mut turn, "sh").unwrap_err();
        turn.begin();
        let again = turn.run("sh", &["-c", "true"], "", &mut |_| panic!("started")).unwrap_err();
        assert_eq!(again, first, "what it said last stands for it");
        turn.patience = Duration::from_mins(1);
        turn.begin();
        assert_eq!(turn.run("bash", &["-c", "echo well"], "", &mut |_| {}).unwrap(), "well\n");
    }

    #[test]
    fn rest_ends() {
        let mut turn = Turn::new(Duration::from_millis(200), Duration::ZERO);
        turn.begin();
        sleep(&mut turn, "sh").unwrap_err();
        turn.patience = Duration::from_mins(1);
        turn.begin();
        assert_eq!(turn.run("sh", &["-c", "echo well"], "", &mut |_| {}).unwrap(), "well\n");
    }
}
