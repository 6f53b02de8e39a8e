//! Runs one test program and counts what it says.

use std::{
    io::{BufRead as _, BufReader},
    num::NonZero,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::Instant,
};

use anyhow::{Context as _, Result};

use super::lanes::{Lane, Program};

/// How a number of tests ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) skipped: u64,
    /// Names.
    pub(crate) failures: Vec<String>,
    /// Reasons, each once.
    pub(crate) skips: Vec<String>,
    /// Names of tests that failed beside others and passed alone; they are among the passed.
    pub(crate) unsteady: Vec<String>,
}

impl Tally {
    pub(crate) fn add(&mut self, other: &Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
        self.failures.extend(other.failures.iter().cloned());
        self.unsteady.extend(other.unsteady.iter().cloned());
        for reason in &other.skips {
            if !self.skips.contains(reason) {
                self.skips.push(reason.clone());
            }
        }
    }
}

/// So many failures of one program are taken for a hiccup of the machine, and tried again.
const HICCUPS: usize = 2;

/// How many tests of a program run at once where they wait for kernels and other programs most of the time, on a machine
/// with fewer cores: on two, they leave most of both idle.
const WAITING: usize = 4;

/// Runs the program, its tests shown as they end; what a failed one printed is shown at the end. Tests that wait for kernels
/// and other programs get one more try, alone, if only a few of them failed.
pub(crate) fn run(program: &Program, binary: &Path, filter: Option<&str>) -> Result<Tally> {
    let start = Instant::now();
    let filter: Vec<&str> = filter.into_iter().collect();
    let mut tally = execute(program, binary, &filter)?;
    if tally.failures.len() <= HICCUPS && tally.failures.iter().all(|name| waits(program.lane, name)) {
        tally = try_again(tally, |name| {
            println!("           once more, alone: {name}");
            execute(program, binary, &["--exact", name])
        })?;
    }
    println!(
        "  {:>6.1} s  {}: {} passed, {} failed, {} skipped",
        start.elapsed().as_secs_f64(),
        program.name,
        tally.passed,
        tally.failed,
        tally.skipped
    );
    for name in tally.failures.iter_mut().chain(&mut tally.unsteady) {
        *name = format!("{}: {name}", program.name);
    }
    Ok(tally)
}

/// The kernel's part of the unit tests waits for the kernel; what the rest of them finds is never a hiccup.
fn waits(lane: Lane, test: &str) -> bool {
    lane != Lane::Fast || test.starts_with("kernel::")
}

fn execute(program: &Program, binary: &Path, arguments: &[&str]) -> Result<Tally> {
    let start = Instant::now();
    let mut command = Command::new(&program.executable);
    command.arg("--show-output").args(arguments).current_dir(&program.package_dir);
    if matches!(program.lane, Lane::Netns | Lane::E2e) {
        let cores = thread::available_parallelism().map_or(1, NonZero::get);
        command.args(["--test-threads", &cores.max(WAITING).to_string()]);
    }
    // As under `cargo test`.
    command.env("CARGO_MANIFEST_DIR", &program.package_dir).env("FLANNEL_CTL_BIN", binary);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("starting {}", program.executable.display()))?;
    let stderr = child.stderr.take().context("standard error was piped")?;
    let errors = thread::spawn(move || std::io::read_to_string(stderr).unwrap_or_default());
    let stdout = child.stdout.take().context("standard output was piped")?;
    let mut said = String::new();
    for line in BufReader::new(stdout).lines() {
        let line = line?;
        if program.lane != Lane::Fast && line.starts_with("test ") && !line.starts_with("test result:") {
            println!("  {:>6.1} s  {line}", start.elapsed().as_secs_f64());
        }
        said.push_str(&line);
        said.push('\n');
    }
    let status = child.wait()?;
    let errors = errors.join().unwrap_or_default();
    let mut tally = count(&said);
    let consistent = status.success() == (tally.failed == 0);
    if !said.contains("\ntest result: ") || !consistent {
        tally.failed += 1;
        tally.failures.push(format!("the program itself: {status}"));
    }
    if tally.failed > 0 {
        println!("{said}{errors}");
    }
    Ok(tally)
}

/// A failure that does not repeat when its test runs alone is told as unsteady. What names no test (a skip that counts, a
/// crash of the program) finds none to run, and stays a failure.
fn try_again(first: Tally, mut alone: impl FnMut(&str) -> Result<Tally>) -> Result<Tally> {
    let mut tally = Tally { failures: Vec::new(), ..first };
    for name in first.failures {
        let second = alone(&name)?;
        if second.passed == 1 && second.failed == 0 {
            tally.passed += 1;
            tally.failed -= 1;
            tally.unsteady.push(name);
        } else {
            tally.failures.push(name);
        }
    }
    Ok(tally)
}

/// Reads the test harness's text. A test that printed a line starting with `SKIPPED` has not passed.
fn count(said: &str) -> Tally {
    let mut tally = Tally::default();
    for line in said.lines() {
        if let Some(rest) = line.strip_prefix("test ")
            && let Some((name, verdict)) = rest.rsplit_once(" ... ")
        {
            match verdict {
                "FAILED" => {
                    tally.failed += 1;
                    tally.failures.push(name.to_owned());
                }
                // The other process of some test, which starts it by name.
                ignored if ignored.starts_with("ignored") => {}
                _ => tally.passed += 1,
            }
        } else if line.get(..7).is_some_and(|start| start.eq_ignore_ascii_case("skipped")) {
            tally.skips.push(line[7..].trim_start_matches([':', ' ']).to_owned());
            tally.skipped += 1;
            tally.passed = tally.passed.saturating_sub(1);
        }
    }
    if std::env::var_os("CI").is_some() {
        tally.failed += tally.skipped;
        tally.failures.extend(tally.skips.drain(..).map(|reason| format!("skipped, and CI is set: {reason}")));
        tally.skipped = 0;
    }
    tally
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passed_failed_ignored_and_skipped_are_told_apart() {
        let said = "\nrunning 4 tests\ntest a::b ... ok\ntest c ... FAILED\ntest d ... ok\n\
                    test e ... ignored, the other process of d\n\nsuccesses:\n\n---- d stdout ----\nSKIPPED: no etcd here\n\n\
                    test result: FAILED. 2 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out\n";
        let tally = count(said);
        let of = |ci: bool| if ci { (1, 2, 0) } else { (1, 1, 1) };
        assert_eq!((tally.passed, tally.failed, tally.skipped), of(std::env::var_os("CI").is_some()));
        assert!(tally.failures.contains(&"c".to_owned()));
    }

    #[test]
    fn what_waits_for_nobody_gets_no_second_try() {
        assert!(waits(Lane::E2e, "plan::x") && waits(Lane::Fast, "kernel::linux::tests::x"));
        assert!(!waits(Lane::Fast, "plan::diff::tests::kernel::x"));
    }

    #[test]
    fn a_test_that_passes_alone_is_unsteady_and_any_other_stays_failed() {
        let first =
            Tally { passed: 5, failed: 3, failures: ["a", "b", "a crash"].map(Into::into).into(), ..Tally::default() };
        let again = |name: &str| {
            Ok(match name {
                "a" => Tally { passed: 1, ..Tally::default() },
                "b" => Tally { failed: 1, failures: vec!["b".into()], ..Tally::default() },
                _ => Tally::default(),
            })
        };
        let tally = try_again(first, again).unwrap();
        assert_eq!((tally.passed, tally.failed), (6, 2));
        assert_eq!(
            (tally.unsteady, tally.failures),
            (vec!["a".to_owned()], vec!["b".to_owned(), "a crash".to_owned()])
        );
    }
}
