//! Servers as processes, and what to do when a program is not installed.

use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Ended when dropped.
pub(crate) struct Process {
    child: Child,
    pub(crate) address: SocketAddr,
}

impl Process {
    /// The real binary, once it says where it listens.
    pub(crate) fn store(data: &Path, more: &[&str]) -> Self {
        let mut child = store_command(data).args(more).stderr(Stdio::piped()).spawn().expect("starts");
        let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
        let address = lines
            .by_ref()
            .map_while(Result::ok)
            .find_map(|line| line.split("address=").nth(1)?.split_whitespace().next()?.parse().ok())
            .expect("the store says where it listens");
        // Its further lines must not fill the pipe.
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, address }
    }

    /// Debian's etcd on a free port, once it answers.
    pub(crate) fn etcd(data: &Path) -> Self {
        let [client, peer] = [free_port(), free_port()].map(|port| format!("http://127.0.0.1:{port}"));
        let child = Command::new("etcd")
            .args(["--name", "one", "--log-level", "error", "--logger", "zap"])
            .arg("--data-dir")
            .arg(data)
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("one={peer}")])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("etcd starts");
        let address = client.trim_start_matches("http://").parse().expect("an address");
        Self { child, address }
    }

    pub(crate) fn kill(mut self) {
        self.child.kill().expect("kills");
        self.child.wait().expect("waits");
    }

    /// SIGTERM; answers the exit code.
    pub(crate) fn terminate(mut self) -> Option<i32> {
        let pid = nix::unistd::Pid::from_raw(self.child.id().cast_signed());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("signals");
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(20) {
            if let Some(status) = self.child.try_wait().expect("waits") {
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("the store did not end on SIGTERM");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            drop(self.child.kill());
            drop(self.child.wait());
        }
    }
}

pub(crate) fn store_command(data: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_flannel-ctl"));
    command.args(["store", "--listen", "127.0.0.1:0", "--data"]).arg(data).env_remove("RUST_LOG");
    command
}

/// Whether a program is there. If not, says so, and in CI fails.
pub(crate) fn installed(program: &str, package: &str) -> bool {
    let there = std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|directory| directory.join(program).is_file()));
    if !there {
        let text = format!("NOT TESTED: {program} is not installed; apt-get install {package}");
        assert!(std::env::var_os("CI").is_none(), "{text}");
        eprintln!("{text}");
    }
    there
}

fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0)).and_then(|listener| listener.local_addr()).expect("a free port").port()
}
