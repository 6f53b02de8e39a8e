//! What is on a wire, as tshark sees it.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use tempfile::TempDir;

use super::{Netns, process::Process, run, wait};

/// A capture under way; stop it to read it.
#[derive(Debug)]
pub struct Capture {
    process: Process,
    file: PathBuf,
    /// Removed, with the file, on drop.
    dir: TempDir,
}

/// A finished capture file.
#[derive(Debug)]
pub struct Packets {
    file: PathBuf,
    vxlan_port: u16,
    judge_checksums: bool,
    #[expect(dead_code, reason = "removes the file on drop")]
    dir: TempDir,
}

impl Capture {
    /// Captures on an interface inside a namespace. `filter` is tcpdump's, such as `udp port 8472`.
    pub fn start(netns: &Netns, interface: &str, filter: &str) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let (file, log) = (dir.path().join("packets.pcap"), dir.path().join("tcpdump.log"));
        let mut command = netns.command("tcpdump");
        // Each packet takes a slot of 64 KiB in immediate mode: room for a thousand that tcpdump has not come to read yet.
        command.args(["-i", interface, "-n", "-U", "--immediate-mode", "-B", "65536", "-Z", "root", "-w"]).arg(&file);
        let mut process = Process::spawn("tcpdump", command.arg(filter), &log)?;
        wait::until("tcpdump to listen", wait::SHORT, || {
            let ended = process.ended().ok().flatten().is_some();
            (ended || process.log().contains("listening on")).then_some(())
        })?;
        ensure!(process.ended()?.is_none(), "tcpdump ended: {}", process.log());
        Ok(Self { process, file, dir })
    }

    /// Ends the capture when everything that the filter has let through up to now is in the file.
    pub fn stop(self) -> Result<Packets> {
        // An interrupted tcpdump throws away what it has not yet read; asked for its counts, it tells how much that is.
        // What came before its filter was in force counts as received for ever, and is never captured: then two
        // equal answers have to do.
        let mut before = Vec::new();
        wait::until("tcpdump to have read everything", wait::SHORT, || {
            if !before.is_empty() {
                std::thread::sleep(std::time::Duration::from_millis(100));
            }
            let asked = self.process.log().lines().count();
            self.process.signal(Signal::SIGUSR1).ok()?;
            let line = wait::until("tcpdump's counts", wait::SHORT, || {
                self.process
                    .log()
                    .lines()
                    .nth(asked)
                    .filter(|line| line.contains("dropped by kernel"))
                    .map(str::to_owned)
            });
            let counts: Vec<u64> = line.ok()?.split_whitespace().filter_map(|word| word.parse().ok()).collect();
            let whole = matches!(counts[..], [captured, received, ..] if captured >= received);
            let still = counts == before;
            before = counts;
            (whole || still).then_some(())
        })?;
        self.process.signal(Signal::SIGINT)?;
        self.process.wait(wait::SHORT)?;
        Ok(Packets { file: self.file, vxlan_port: 8472, judge_checksums: false, dir: self.dir })
    }
}

impl Packets {
    /// The port that is decoded as VXLAN, if not 8472.
    #[must_use]
    pub fn with_vxlan_port(mut self, port: u16) -> Self {
        self.vxlan_port = port;
        self
    }

    /// Checksums are judged: for a wire behind an interface that leaves none of them open.
    #[must_use]
    pub fn with_checksums_judged(mut self) -> Self {
        self.judge_checksums = true;
        self
    }

    /// The capture file, for as long as `self` lives.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// One row per packet that the display filter lets through (empty: all), one column per field:
    /// `fields("vxlan", &["ip.src", "vxlan.vni"])`. Outer and inner occurrences are joined by a comma.
    pub fn fields(&self, display_filter: &str, fields: &[&str]) -> Result<Vec<Vec<String>>> {
        let mut arguments = vec!["-T", "fields", "-E", "separator=|"];
        for field in fields {
            arguments.extend(["-e", field]);
        }
        let text = self.tshark(display_filter, &arguments)?;
        Ok(text.lines().map(|line| line.split('|').map(str::to_owned).collect()).collect())
    }

    /// Frames that tshark finds malformed or warns about, one line each. Checksums are not judged:
    /// on virtual links they are filled in by nobody. Nor is the order of TCP's segments: what is late, repeated or does
    /// not fit the receiver's window says how busy the machine is, and nothing about the frame.
    pub fn complaints(&self) -> Result<Vec<String>> {
        const ORDER: &str = r#"_ws.expert.group == "Sequence""#;
        let text =
            self.tshark(&format!(r#"_ws.malformed || (_ws.expert.severity >= "Warning" && !({ORDER}))"#), &[])?;
        Ok(text.lines().map(str::to_owned).collect())
    }

    fn tshark(&self, display_filter: &str, arguments: &[&str]) -> Result<String> {
        let mut command = std::process::Command::new("tshark");
        command.args(["-n", "-d", &format!("udp.port=={},vxlan", self.vxlan_port)]);
        // Tunnels may leave it out (RFC 6935).
        command.args(["-o", "udp.ignore_ipv6_zero_checksum:TRUE", "-r"]).arg(&self.file);
        for protocol in ["ip", "udp", "tcp"].iter().filter(|_| self.judge_checksums) {
            command.args(["-o", &format!("{protocol}.check_checksum:TRUE")]);
        }
        if !display_filter.is_empty() {
            command.args(["-Y", display_filter]);
        }
        run(command.args(arguments))
    }
}
