//! Runs nft and the iptables tools: never longer than a bound, in the calling thread's network
//! namespace, with nothing of their output lost.

use std::{
    io::{self, Read, Write},
    process::{Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use crate::kernel::KernelError;

/// Longer than the tools' own wait for the xtables lock.
const PATIENCE: Duration = Duration::from_secs(8);
/// Where the tools are on hosts that start daemons with a short PATH.
const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/sbin:/usr/local/bin";

/// The hint of a failure that comes from the lock that all legacy tools share.
pub(super) const LOCKED: Option<&str> = Some("another program holds the xtables lock (/run/xtables.lock)");

/// Runs it; its standard output if it succeeded. `started` hears the process id.
pub(super) fn run(
    program: &str,
    args: &[&str],
    input: &str,
    started: &mut dyn FnMut(u32),
) -> Result<String, KernelError> {
    let failed = |answer: String, errno, hint| KernelError {
        attempt: format!("run {program} {}", args.join(" ")).trim_end().to_owned(),
        answer,
        hint,
        errno,
    };
    let spawned = Command::new(program)
        .args(args)
        .env("LC_ALL", "C")
        .env("PATH", path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = spawned.map_err(|error| {
        failed(error.to_string(), error.raw_os_error().unwrap_or(0), Some("is the package installed on this host"))
    })?;
    started(child.id());
    let (sender, receiver) = mpsc::channel();
    if let Some(mut stdin) = child.stdin.take() {
        let input = input.to_owned();
        // A tool that gives up early closes its end; its exit status tells more than that.
        thread::spawn(move || stdin.write_all(input.as_bytes()));
    }
    let pipes: [Option<Box<dyn Read + Send>>; 2] =
        [child.stdout.take().map(|pipe| Box::new(pipe) as _), child.stderr.take().map(|pipe| Box::new(pipe) as _)];
    for (index, pipe) in pipes.into_iter().enumerate() {
        let sender = sender.clone();
        thread::spawn(move || {
            let mut text = Vec::new();
            let outcome = pipe.map_or(Ok(0), |mut pipe| pipe.read_to_end(&mut text));
            // Nobody listens any more when the time was up.
            sender.send((index, outcome.map(|_| text))).is_ok()
        });
    }
    let mut outputs: [Vec<u8>; 2] = Default::default();
    for _ in 0..2 {
        match receiver.recv_timeout(PATIENCE) {
            Ok((index, Ok(text))) => outputs[index] = text,
            Ok((_, Err(error))) => return Err(failed(error.to_string(), error.raw_os_error().unwrap_or(0), None)),
            Err(_) => {
                let end = child.kill().and_then(|()| child.wait());
                tracing::debug!(program, ?end, "took too long and was ended");
                return Err(failed(format!("no answer within {} s", PATIENCE.as_secs()), 0, LOCKED));
            }
        }
    }
    let status = child.wait().map_err(|error: io::Error| failed(error.to_string(), 0, None))?;
    let [stdout, stderr] = outputs.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    if status.success() {
        return Ok(stdout);
    }
    let hint = if stderr.contains("xtables lock") {
        LOCKED
    } else if stderr.contains("not permitted") {
        Some("CAP_NET_ADMIN is needed")
    } else {
        None
    };
    Err(failed(first_lines(&stderr, &status.to_string()), 0, hint))
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
