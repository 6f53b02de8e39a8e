//! A load that runs, and what it says.

use std::{
    io::{BufRead as _, BufReader},
    os::unix::process::CommandExt as _,
    process::{Child, ChildStdout, Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

/// A process whose standard output is read line by line, and whose standard input stays open until it is asked for its outcome.
/// Killed on drop.
#[derive(Debug)]
pub(super) struct Client {
    shown: String,
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Client {
    pub(super) fn spawn(command: &mut Command) -> Result<Self> {
        let words = std::iter::once(command.get_program()).chain(command.get_args());
        let shown = words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ");
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .with_context(|| format!("running {shown}"))?;
        let lines = BufReader::new(child.stdout.take().context("a process without standard output")?);
        Ok(Self { shown, child, lines })
    }

    /// Waits for exactly this line.
    pub(super) fn expect(&mut self, wanted: &str) -> Result<()> {
        let mut line = String::new();
        self.lines.read_line(&mut line)?;
        if line.trim_end() == wanted {
            return Ok(());
        }
        let what = if line.is_empty() { self.complaint()? } else { line };
        bail!("{}: expected {wanted:?}, got: {}", self.shown, what.trim())
    }

    /// Everything else that it says, as data.
    pub(super) fn outcome<T: serde::de::DeserializeOwned>(mut self) -> Result<T> {
        drop(self.child.stdin.take());
        let text = std::io::read_to_string(&mut self.lines)?;
        let status = self.child.wait()?;
        match serde_json::from_str(&text) {
            Ok(outcome) if status.success() => Ok(outcome),
            Ok(_) | Err(_) => {
                let complaint = self.complaint()?;
                // iperf3 tells its error after much else.
                let start = text.floor_char_boundary(text.len().saturating_sub(300));
                bail!("{}: {status}: {} {complaint}", self.shown, text[start..].trim())
            }
        }
    }

    fn complaint(&mut self) -> Result<String> {
        let Some(errors) = self.child.stderr.take() else { return Ok(String::new()) };
        Ok(std::io::read_to_string(errors)?.trim().to_owned())
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        if let Err(error) = self.child.kill().and_then(|()| self.child.wait().map(drop)) {
            eprintln!("bench: process {} is left behind: {error}", self.child.id());
        }
    }
}
