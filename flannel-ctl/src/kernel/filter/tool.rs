//! Runs nft and the iptables tools: never longer than a bound, in the calling thread's network
//! namespace, with nothing of their output lost.

use std::{
    fs::File,
    io::{self, Read, Write},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::process::CommandExt,
    },
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, OFlag, fcntl},
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::signal::{Signal, killpg},
    unistd::Pid,
};

use crate::kernel::KernelError;

/// Longer than the tools' own wait for the xtables lock.
pub(super) const PATIENCE: Duration = Duration::from_secs(8);
/// Where the tools are on hosts that start daemons with a short PATH.
const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/sbin:/usr/local/bin";
/// How long a tool whose pipes are closed, or that was killed, usually takes to be gone, at most.
const LAST_BREATH: Duration = Duration::from_millis(50);

/// The hint of a failure that comes from the lock that all legacy tools share.
pub(super) const LOCKED: Option<&str> = Some("another program holds the xtables lock (/run/xtables.lock)");

/// What the tools have been run with, and those that were killed and are not gone yet.
#[derive(Debug, Default)]
pub(super) struct Children {
    dying: Vec<Child>,
}

impl Children {
    /// Runs it; its standard output if it succeeded. `started` hears the process id. After
    /// `limit` it is killed with all that it started, and the failure is `ETIMEDOUT`.
    pub(super) fn run(
        &mut self,
        program: &str,
        args: &[&str],
        input: &str,
        limit: Duration,
        started: &mut dyn FnMut(u32),
    ) -> Result<String, KernelError> {
        self.reap();
        let failed = |answer: String, errno, hint| KernelError { attempt: attempt(program, args), answer, hint, errno };
        let deadline = Instant::now() + limit;
        let spawned = Command::new(program)
            .args(args)
            .env("LC_ALL", "C")
            .env("PATH", path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // What it starts in its turn can then be ended with it.
            .process_group(0)
            .spawn();
        let mut child = spawned.map_err(|error| {
            failed(error.to_string(), error.raw_os_error().unwrap_or(0), Some("is the package installed on this host"))
        })?;
        started(child.id());
        let ended = converse(&mut child, input.as_bytes(), deadline)
            .and_then(|outputs| Ok((wait(&mut child, deadline)?, outputs)));
        match ended {
            Ok((status, [stdout, _])) if status.success() => Ok(String::from_utf8_lossy(&stdout).into_owned()),
            Ok((status, [_, stderr])) => {
                let stderr = String::from_utf8_lossy(&stderr);
                let hint = if stderr.contains("xtables lock") {
                    LOCKED
                } else if stderr.contains("not permitted") {
                    Some("CAP_NET_ADMIN is needed")
                } else {
                    None
                };
                Err(failed(first_lines(&stderr, &status.to_string()), 0, hint))
            }
            Err(error) => {
                self.kill(child);
                Err(match error.kind() {
                    io::ErrorKind::TimedOut => {
                        let secs = limit.as_secs_f64().round();
                        failed(format!("no answer within {secs} s"), Errno::ETIMEDOUT as i32, LOCKED)
                    }
                    _ => failed(error.to_string(), error.raw_os_error().unwrap_or(0), None),
                })
            }
        }
    }

    /// One that hangs in the kernel dies when that lets go of it; nobody waits for it here.
    fn kill(&mut self, mut child: Child) {
        let group = Pid::from_raw(child.id().cast_signed());
        let end = killpg(group, Signal::SIGKILL).map_err(io::Error::from);
        let end = end.and_then(|()| wait(&mut child, Instant::now() + LAST_BREATH));
        tracing::debug!(process = child.id(), ?end, "a packet filter tool was ended");
        if end.is_err() {
            self.dying.push(child);
        }
    }

    fn reap(&mut self) {
        // An error says that there is nothing to wait for.
        self.dying.retain_mut(|child| matches!(child.try_wait(), Ok(None)));
    }
}

/// Runs one tool by itself.
pub(super) fn run(program: &str, args: &[&str], input: &str) -> Result<String, KernelError> {
    Children::default().run(program, args, input, PATIENCE, &mut |_| {})
}

/// As errors name it.
pub(super) fn attempt(program: &str, args: &[&str]) -> String {
    format!("run {program} {}", args.join(" ")).trim_end().to_owned()
}

/// Feeds it and reads all that it says, both at once.
fn converse(child: &mut Child, mut input: &[u8], deadline: Instant) -> io::Result<[Vec<u8>; 2]> {
    let mut stdin = child.stdin.take().map(|pipe| nonblocking(pipe.into())).transpose()?;
    let mut pipes = [
        child.stdout.take().map(|pipe| nonblocking(pipe.into())).transpose()?,
        child.stderr.take().map(|pipe| nonblocking(pipe.into())).transpose()?,
    ];
    let mut outputs: [Vec<u8>; 2] = Default::default();
    loop {
        if let Some(pipe) = &mut stdin {
            match pipe.write(input) {
                Ok(written) => input = &input[written..],
                Err(error) if is_pause(&error) => {}
                // A tool that gives up early closes its end; its exit status tells more than that.
                Err(_) => input = &[],
            }
            if input.is_empty() {
                stdin = None;
            }
        }
        for (pipe, output) in pipes.iter_mut().zip(&mut outputs) {
            let Some(open) = pipe else { continue };
            match open.read_to_end(output) {
                Ok(_) => *pipe = None,
                Err(error) if is_pause(&error) => {}
                Err(error) => return Err(error),
            }
        }
        if pipes.iter().all(Option::is_none) {
            return Ok(outputs);
        }
        let readable = pipes.iter().flatten().map(|pipe| (pipe.as_fd(), PollFlags::POLLIN));
        let writable = stdin.iter().map(|pipe| (pipe.as_fd(), PollFlags::POLLOUT));
        await_one(readable.chain(writable), deadline)?;
    }
}

fn nonblocking(pipe: OwnedFd) -> io::Result<File> {
    fcntl(&pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    Ok(pipe.into())
}

fn is_pause(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

fn await_one<'a>(wanted: impl Iterator<Item = (BorrowedFd<'a>, PollFlags)>, deadline: Instant) -> io::Result<()> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(io::ErrorKind::TimedOut.into());
    }
    // Rounded up, so that the last turn does not spin.
    let timeout = PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
    let mut wanted: Vec<_> = wanted.map(|(fd, flags)| PollFd::new(fd, flags)).collect();
    match poll(&mut wanted, timeout) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// Until it has ended. It usually has, or is about to: its pipes are closed.
fn wait(child: &mut Child, deadline: Instant) -> io::Result<ExitStatus> {
    let mut nap = Duration::from_micros(50);
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if Instant::now() >= deadline {
            return Err(io::ErrorKind::TimedOut.into());
        }
        thread::sleep(nap);
        nap = (nap * 2).min(LAST_BREATH / 5);
    }
}

/// The program can be found.
pub(super) fn installed(program: &str) -> bool {
    path().split(':').any(|directory| std::path::Path::new(directory).join(program).is_file())
}

fn path() -> String {
    match std::env::var("PATH") {
        Ok(own) if !own.is_empty() => format!("{own}:{PATH}"),
        _ => PATH.to_owned(),
    }
}

fn first_lines(stderr: &str, status: &str) -> String {
    let text = stderr.lines().map(str::trim).filter(|line| !line.is_empty()).take(3).collect::<Vec<_>>().join("; ");
    if text.is_empty() { status.to_owned() } else { text }
}

#[cfg(test)]
#[path = "tool_tests.rs"]
mod tests;
