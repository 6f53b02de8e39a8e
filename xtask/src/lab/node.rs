//! A node: a namespace with an uplink, the real daemon, and a pod.

use std::{
    fs,
    io::{ErrorKind, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, TcpStream},
    path::{Path, PathBuf},
    process::ExitStatus,
    sync::{Mutex, MutexGuard},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::Signal;

use super::{
    Family, Netns, Pod, SubnetEnv, binary, netns,
    process::{Process, tail},
    underlay::{self, Underlay},
    wait,
};

const HEALTH_PORT: u16 = 10256;

/// How the daemon is started, beyond the usual.
#[derive(Clone, Debug, Default)]
pub struct Launch {
    /// More arguments for `flannel-ctl run`, such as `--datapath vxlan`. `--iface` and its kin replace `--iface eth0`.
    pub args: Vec<String>,
    /// A program and its arguments in front of the daemon, such as `strace -f -o FILE`.
    pub wrapper: Vec<String>,
    /// More environment.
    pub env: Vec<(String, String)>,
    /// flannel's own daemon instead of ours, or ours under its name: this program is started with flannel's options in
    /// flannel's spelling, and none of ours.
    pub flanneld: Option<PathBuf>,
}

/// A node of a [`super::Cluster`], numbered from 1.
#[derive(Debug)]
pub struct Node {
    /// First, so that it ends before its namespace goes.
    daemon: Mutex<Option<Process>>,
    number: usize,
    netns: Netns,
    pod: Pod,
    dir: PathBuf,
    endpoints: String,
    launch: Launch,
    pins: Pins,
}

/// Where a node's daemon pins its BPF objects; what it left there is freed with the node.
#[derive(Debug)]
struct Pins(PathBuf);

impl Drop for Pins {
    fn drop(&mut self) {
        match fs::remove_dir_all(&self.0) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                eprintln!("lab: {} is left behind: {error}", self.0.display());
            }
            _ => {}
        }
    }
}

impl Node {
    pub(super) fn create(
        prefix: &str,
        number: usize,
        underlay: &Underlay,
        lab_dir: &Path,
        endpoints: String,
        launch: Launch,
    ) -> Result<Self> {
        let netns = Netns::create(format!("{prefix}{number}"))?;
        netns.sysctl(&[("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")])?;
        underlay.plug(&netns, number)?;
        let pod = Pod::create(&format!("{prefix}{number}-pod"))?;
        let dir = lab_dir.join(format!("n{number}"));
        fs::create_dir_all(&dir)?;
        let pins = Pins(Path::new("/sys/fs/bpf").join(format!("{prefix}{number}")));
        Ok(Self { number, netns, pod, dir, endpoints, launch, pins, daemon: Mutex::default() })
    }

    /// From 1.
    pub fn number(&self) -> usize {
        self.number
    }

    /// The node's namespace: `eth0` is the uplink, `cni0` the pods' bridge.
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// The pod behind this node.
    pub fn pod(&self) -> &Pod {
        &self.pod
    }

    /// The uplink's address.
    pub fn address(&self, family: Family) -> IpAddr {
        match family {
            Family::V4 => underlay::address_v4(self.number).into(),
            Family::V6 => underlay::address_v6(self.number).into(),
        }
    }

    /// The daemon's `--run-dir`.
    pub fn run_dir(&self) -> PathBuf {
        self.dir.join("run")
    }

    /// The daemon's `--state-dir`.
    pub fn state_dir(&self) -> PathBuf {
        self.dir.join("state")
    }

    /// The daemon's `--bpf-dir`.
    pub fn bpf_dir(&self) -> &Path {
        &self.pins.0
    }

    /// The daemon's `--subnet-file`.
    pub fn subnet_file(&self) -> PathBuf {
        self.run_dir().join("subnet.env")
    }

    /// The daemon's log file; it grows over restarts.
    pub fn log_file(&self) -> PathBuf {
        self.dir.join("daemon.log")
    }

    /// What the daemon has logged, over all its runs.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    /// What the daemon wrote for the pods.
    pub fn subnet_env(&self) -> Result<SubnetEnv> {
        SubnetEnv::read(&self.subnet_file())
    }

    /// The command line of the daemon, to be changed before it is spawned.
    pub fn daemon_command(&self, launch: &Launch) -> Result<std::process::Command> {
        let program: &Path = match &launch.flanneld {
            Some(program) => program,
            None => binary::flannel_ctl()?,
        };
        let mut words = launch.wrapper.clone();
        words.push(program.display().to_string());
        let (first, rest) = words.split_first().context("a program to run")?;
        let mut command = self.netns.command(first);
        command.args(rest).envs(launch.env.iter().map(|(key, value)| (key, value)));
        if launch.flanneld.is_some() {
            self.as_flannel(&mut command);
            command.args(&launch.args);
            return Ok(command);
        }
        command.arg("run").args(["--etcd-endpoints", &self.endpoints, "--ip-masq"]);
        if !launch.args.iter().any(|arg| arg.starts_with("--iface")) {
            command.args(["--iface", "eth0"]);
        }
        self.add_paths(&mut command);
        command.args([
            "--node-name",
            self.netns.name(),
            "--healthz-ip",
            "127.0.0.1",
            "--healthz-port",
            &HEALTH_PORT.to_string(),
        ]);
        command.args(&launch.args);
        Ok(command)
    }

    /// flannel's options. What is ours alone goes into the environment, where flannel's daemon does not see it.
    fn as_flannel(&self, command: &mut std::process::Command) {
        command.arg(format!("-etcd-endpoints={}", self.endpoints)).args(["-iface=eth0", "-ip-masq"]);
        command.arg("-healthz-ip=127.0.0.1").arg(format!("-healthz-port={HEALTH_PORT}"));
        command.arg(format!("-subnet-file={}", self.subnet_file().display()));
        command.env("FLANNELD_BPF_DIR", self.bpf_dir());
    }

    /// Starts the daemon as the cluster was told to; does not wait.
    pub fn start(&self) -> Result<()> {
        self.start_with(&self.launch)
    }

    /// Starts the daemon in another way; does not wait.
    pub fn start_with(&self, launch: &Launch) -> Result<()> {
        let mut slot = self.slot();
        ensure!(slot.is_none(), "the daemon of node {} runs already", self.number);
        fs::create_dir_all(self.run_dir())?;
        let mut command = self.daemon_command(launch)?;
        let name = format!("the daemon of node {}", self.number);
        *slot = Some(Process::spawn(name, &mut command, &self.log_file())?);
        Ok(())
    }

    /// Waits until the daemon says that it is ready (`/readyz`), and fails at once if it ends instead.
    pub fn wait_ready(&self) -> Result<()> {
        let what = format!("node {} to be ready", self.number);
        let mut answer = String::new();
        let ended = wait::until(&what, wait::LONG, || match self.ended() {
            Ok(None) => {
                answer = self.http("/readyz").unwrap_or_else(|error| format!("{error:#}"));
                // flannel's own daemon has nothing that says more than that it runs.
                let theirs = answer.starts_with("HTTP/1.1 404") && self.log().contains("Running backend");
                let ready = theirs || answer.starts_with("HTTP/1.1 200");
                (ready && self.subnet_file().exists()).then_some(Ok(None))
            }
            ended => Some(ended),
        });
        match ended {
            Ok(Ok(None)) => Ok(()),
            Ok(Ok(Some(status))) => {
                bail!("the daemon of node {} ended with {status}:\n{}", self.number, self.log_tail())
            }
            Ok(Err(error)) => Err(error),
            Err(error) => bail!("{error:#}; last answer of /readyz: {answer}\nits log ends:\n{}", self.log_tail()),
        }
    }

    /// Builds the pod's wiring from subnet.env, as CNI would; again after the subnet has changed.
    pub fn wire_pod(&self) -> Result<()> {
        self.pod.wire(&self.netns, &self.subnet_env()?)
    }

    /// SIGTERM, and waits for the end. Datapath and pod stay.
    pub fn stop(&self) -> Result<ExitStatus> {
        self.take()?.stop()
    }

    /// SIGKILL. Datapath and pod stay.
    pub fn kill(&self) -> Result<()> {
        self.take()?.kill().map(drop)
    }

    /// SIGTERM, start, ready.
    pub fn restart(&self) -> Result<()> {
        self.stop()?;
        self.start()?;
        self.wait_ready()
    }

    /// Sends the daemon a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.slot().as_ref().context("the daemon is not running")?.signal(signal)
    }

    /// Process id of the daemon, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.slot().as_ref().map(Process::pid)
    }

    /// How the daemon ended, if it did so by itself.
    pub fn ended(&self) -> Result<Option<ExitStatus>> {
        self.slot().as_mut().map_or(Ok(None), Process::ended)
    }

    /// Waits for the daemon to end by itself.
    pub fn wait_end(&self, limit: Duration) -> Result<ExitStatus> {
        self.take()?.wait(limit)
    }

    /// Runs a verb of flannel-ctl in this node, `--run-dir` added; its standard output.
    ///
    /// An exit status other than 0 is an error that has both outputs in it.
    pub fn ctl(&self, verb: &[&str]) -> Result<String> {
        let mut command = self.netns.command(binary::flannel_ctl()?);
        netns::run(command.args(verb).arg("--run-dir").arg(self.run_dir()))
    }

    /// `flannel-ctl status`, as data. Field names: `flannel-ctl/src/serve/report.rs`.
    pub fn status(&self) -> Result<serde_json::Value> {
        let mut command = self.netns.command(binary::flannel_ctl()?);
        command.args(["status", "--output", "json", "--run-dir"]).arg(self.run_dir());
        let output = command.output()?;
        // 3: running, not converged; still a report.
        serde_json::from_slice(&output.stdout).with_context(|| {
            format!("status of node {}: {}: {}", self.number, output.status, String::from_utf8_lossy(&output.stderr))
        })
    }

    /// Waits until [`Self::status`] is as asked, and returns it. The error has the last one, and the whole log.
    pub fn wait_status(
        &self,
        what: &str,
        limit: Duration,
        is: impl Fn(&serde_json::Value) -> bool,
    ) -> Result<serde_json::Value> {
        let mut last = serde_json::Value::Null;
        let came = wait::until(what, limit, || {
            last = self.status().unwrap_or_default();
            is(&last).then_some(())
        });
        match came {
            Ok(()) => Ok(last),
            Err(error) => bail!("{error:#}; the status of node {} is {last:#}\nits log:\n{}", self.number, self.log()),
        }
    }

    /// Waits until the daemon is in touch with its source and has everything in the kernel.
    pub fn wait_converged(&self) -> Result<serde_json::Value> {
        self.wait_status("the node to be converged", wait::LONG, |status| {
            status["source"]["connected"] == true && status["state"] == "converged"
        })
    }

    /// A verb of flannel-ctl in this node, with the daemon's own directories and files.
    pub fn verb(&self, verb: &[&str]) -> Result<std::process::Command> {
        let mut command = self.netns.command(binary::flannel_ctl()?);
        command.args(verb);
        self.add_paths(&mut command);
        Ok(command)
    }

    fn add_paths(&self, command: &mut std::process::Command) {
        command.arg("--run-dir").arg(self.run_dir()).arg("--state-dir").arg(self.state_dir());
        command.arg("--subnet-file").arg(self.subnet_file()).arg("--bpf-dir").arg(self.bpf_dir());
    }

    /// A GET to the daemon's health port: status line, headers and body.
    pub fn http(&self, path: &str) -> Result<String> {
        self.netns.enter(|| -> Result<String> {
            let timeout = Duration::from_secs(1);
            let mut stream = TcpStream::connect_timeout(&(Ipv4Addr::LOCALHOST, HEALTH_PORT).into(), timeout)?;
            stream.set_read_timeout(Some(timeout))?;
            write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        })?
    }

    fn log_tail(&self) -> String {
        tail(&self.log_file(), 20)
    }

    fn take(&self) -> Result<Process> {
        self.slot().take().with_context(|| format!("the daemon of node {} is not running", self.number))
    }

    fn slot(&self) -> MutexGuard<'_, Option<Process>> {
        self.daemon.lock().expect("no panic while starting or stopping a daemon")
    }
}
