//! A named network namespace that goes away with its guard.

use std::{
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::{
    sched::{CloneFlags, setns},
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::wait;

const NAMED: &str = "/run/netns";

/// A network namespace under `/run/netns`, removed on drop together with the processes left inside.
#[derive(Debug)]
pub struct Netns {
    name: String,
}

impl Netns {
    /// Creates the namespace with its loopback up; addresses added to it are usable at once (no duplicate
    /// detection), and nobody filters by reverse path unasked. A namespace of that name must not exist.
    pub fn create(name: impl Into<String>) -> Result<Self> {
        let name = name.into();
        run(Command::new("ip").args(["netns", "add", &name]))?;
        Self::set_up(name)
    }

    fn set_up(name: String) -> Result<Self> {
        let netns = Self { name };
        netns.sysctl(&[
            ("ipv6/conf/all/accept_dad", "0"),
            ("ipv6/conf/default/accept_dad", "0"),
            ("ipv6/conf/all/disable_ipv6", "0"),
            ("ipv6/conf/default/disable_ipv6", "0"),
            ("ipv6/conf/default/accept_ra", "0"),
            ("ipv4/conf/all/rp_filter", "0"),
            ("ipv4/conf/default/rp_filter", "0"),
        ])?;
        netns.ip("link set lo up")?;
        Ok(netns)
    }

    /// Gives the namespace of a process a name; otherwise as [`Netns::create`].
    pub fn attach(name: impl Into<String>, pid: u32) -> Result<Self> {
        let name = name.into();
        run(Command::new("ip").args(["netns", "attach", &name, &pid.to_string()]))?;
        Self::set_up(name)
    }

    /// As in `ip netns list`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that stands for the namespace.
    pub fn path(&self) -> PathBuf {
        Path::new(NAMED).join(&self.name)
    }

    /// Runs a closure on a thread inside the namespace and waits for it. Sockets opened there stay there.
    pub fn enter<T: Send>(&self, inside: impl FnOnce() -> T + Send) -> Result<T> {
        Self::enter_at(&self.path(), inside)
    }

    /// The same where only the file that stands for the namespace is at hand.
    pub(crate) fn enter_at<T: Send>(path: &Path, inside: impl FnOnce() -> T + Send) -> Result<T> {
        let file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
        thread::scope(|scope| {
            let thread = scope.spawn(move || -> Result<T> {
                setns(&file, CloneFlags::CLONE_NEWNET).with_context(|| format!("entering {}", path.display()))?;
                Ok(inside())
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// A command that runs inside the namespace; its process is the program itself.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path().display())).arg("--").arg(program);
        command
    }

    /// Runs a shell-like line inside the namespace (split at blanks) and gives its standard output.
    pub fn run(&self, line: &str) -> Result<String> {
        let mut words = line.split_whitespace();
        let program = words.next().context("an empty command line")?;
        run(self.command(program).args(words))
    }

    /// Runs one or more lines of `ip` arguments inside the namespace, in one process.
    pub fn ip(&self, lines: &str) -> Result<()> {
        let mut child = Command::new("ip")
            .args(["-n", &self.name, "-batch", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("running ip")?;
        child.stdin.take().context("ip has no standard input")?.write_all(lines.as_bytes())?;
        let output = child.wait_with_output()?;
        ensure!(
            output.status.success(),
            "ip -n {} -batch: {}\n{lines}",
            self.name,
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(())
    }

    /// Writes files under `/proc/sys/net` as the namespace sees them: `[("ipv4/ip_forward", "1")]`.
    pub fn sysctl(&self, settings: &[(&str, &str)]) -> Result<()> {
        self.enter(|| {
            for (key, value) in settings {
                let path = Path::new("/proc/sys/net").join(key);
                fs::write(&path, value).with_context(|| format!("writing {value} to {}", path.display()))?;
            }
            Ok(())
        })?
    }

    /// Waits until an interface works in both families: the kernel collects carrier changes for up to a second
    /// (net/core/link_watch.c), and only then, in a work queue, makes IPv6 addresses answer.
    pub fn settle(&self, interface: &str) -> Result<()> {
        wait::until(&format!("{interface} of {} to be up", self.name), wait::SHORT, || {
            let shown = run(Command::new("ip").args(["-n", &self.name, "address", "show", "dev", interface])).ok()?;
            let up = shown.contains(" state UP ") && shown.contains("inet6 fe80") && !shown.contains(" tentative");
            up.then_some(())
        })
    }

    /// Packets received and sent by the interfaces whose name starts so.
    pub fn packets(&self, interface_prefix: &str) -> Result<(u64, u64)> {
        let table = self.enter(|| fs::read_to_string("/proc/thread-self/net/dev"))??;
        let mut sum = (0, 0);
        for line in table.lines() {
            let Some((name, counters)) = line.split_once(':') else { continue };
            if name.trim().starts_with(interface_prefix) {
                let counters: Vec<u64> = counters.split_whitespace().filter_map(|c| c.parse().ok()).collect();
                if let [_, received, _, _, _, _, _, _, _, sent, ..] = counters[..] {
                    sum = (sum.0 + received, sum.1 + sent);
                }
            }
        }
        Ok(sum)
    }

    /// Names of the namespaces that exist now.
    pub fn list() -> Vec<String> {
        let entries = fs::read_dir(NAMED).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    }

    /// Kills what runs in a named namespace and removes it.
    pub fn remove(name: &str) -> Result<()> {
        let processes = || run(Command::new("ip").args(["netns", "pids", name]));
        for pid in processes()?.split_whitespace() {
            // Gone already is as good as killed.
            kill(Pid::from_raw(pid.parse()?), Signal::SIGKILL).or_else(|errno| match errno {
                nix::errno::Errno::ESRCH => Ok(()),
                other => Err(other),
            })?;
        }
        run(Command::new("ip").args(["netns", "del", name]))?;
        Ok(())
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        if let Err(error) = Self::remove(&self.name) {
            eprintln!("lab: network namespace {} is left behind: {error:#}", self.name);
        }
    }
}

/// Runs a command to its end; its standard output, or an error with what it said.
pub fn run(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("running {}", shown(command)))?;
    if !output.status.success() {
        bail!("{}: {}: {}", shown(command), output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}
