//! A real etcd of one or more members, to be hurt by tests.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Mutex,
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::Signal;

use super::{Netns, netns, process::Process, underlay::GATEWAY_V4, wait};

/// Keys of leases lie below this.
const SUBNETS: &str = "/coreos.com/network/subnets/";
const CONFIG: &str = "/coreos.com/network/config";
/// etcd 3.4 takes at most so many operations in one transaction (`--max-txn-ops`).
const TXN: usize = 100;

/// What differs from a plain single member.
#[derive(Clone, Debug, Default)]
pub struct EtcdOptions {
    /// Arguments for every member, such as `--quota-backend-bytes 1000000`.
    pub args: Vec<String>,
    /// Serve TLS: certificate and key.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// Arguments for every etcdctl, such as `--user root:pw` or `--cacert FILE`.
    pub client: Vec<String>,
}

/// etcd members listening on the gateway address: client ports 2379, 2389, 2399...
#[derive(Debug)]
pub struct Etcd {
    running: Mutex<Vec<Option<Process>>>,
    options: EtcdOptions,
    netns_path: PathBuf,
    dir: PathBuf,
    ctl: Etcdctl,
}

/// etcdctl with its endpoints, inside the namespace that reaches them.
#[derive(Clone, Debug)]
pub struct Etcdctl {
    netns_path: PathBuf,
    endpoints: String,
    args: Vec<String>,
}

/// A lease as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// `10.244.7.0-24`
    pub key: String,
    pub value: String,
}

impl Etcd {
    /// Client URLs of `members` members, as `--etcd-endpoints` takes them.
    pub fn endpoints(members: usize, tls: bool) -> String {
        let scheme = if tls { "https" } else { "http" };
        (0..members).map(|i| format!("{scheme}://{GATEWAY_V4}:{}", client_port(i))).collect::<Vec<_>>().join(",")
    }

    /// Starts all members and waits until they serve. Data and logs go below `dir`.
    pub fn start(netns: &Netns, dir: &Path, members: usize, options: EtcdOptions) -> Result<Self> {
        let ctl = Etcdctl {
            netns_path: netns.path(),
            endpoints: Self::endpoints(members, options.tls.is_some()),
            args: options.client.clone(),
        };
        let etcd = Self {
            running: Mutex::new((0..members).map(|_| None).collect()),
            options,
            netns_path: netns.path(),
            dir: dir.to_owned(),
            ctl,
        };
        for member in 0..members {
            etcd.spawn(member)?;
        }
        etcd.wait_up()?;
        Ok(etcd)
    }

    /// A client for it.
    pub fn ctl(&self) -> &Etcdctl {
        &self.ctl
    }

    /// SIGKILL a member.
    pub fn kill(&self, member: usize) -> Result<()> {
        let process = self.running.lock().expect("no panic")[member].take();
        process.with_context(|| format!("etcd member {member} is not running"))?.kill().map(drop)
    }

    /// Sends a member a signal.
    pub fn signal(&self, member: usize, signal: Signal) -> Result<()> {
        let running = self.running.lock().expect("no panic");
        running[member].as_ref().with_context(|| format!("etcd member {member} is not running"))?.signal(signal)
    }

    /// Starts a killed member again on its data and waits until the cluster serves.
    pub fn restart(&self, member: usize) -> Result<()> {
        self.spawn(member)?;
        self.wait_up()
    }

    /// Which member leads.
    pub fn leader(&self) -> Result<usize> {
        let members = self.ctl.endpoints.split(',').count();
        for member in 0..members {
            let status = self.ctl.at(member).json(&["endpoint", "status"])?;
            let status = &status[0]["Status"];
            if status["leader"].is_u64() && status["leader"] == status["header"]["member_id"] {
                return Ok(member);
            }
        }
        bail!("no etcd member leads")
    }

    fn spawn(&self, member: usize) -> Result<()> {
        let members = self.running.lock().expect("no panic").len();
        let mut command = in_netns(&self.netns_path, "etcd");
        let name = format!("m{member}");
        let (peer, scheme) = (peer_url(member), if self.options.tls.is_some() { "https" } else { "http" });
        let client = format!("{scheme}://{GATEWAY_V4}:{}", client_port(member));
        let all: Vec<_> = (0..members).map(|i| format!("m{i}={}", peer_url(i))).collect();
        command.args(["--name", &name, "--data-dir"]).arg(self.dir.join(format!("etcd-{name}")));
        command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
        command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        command.args(["--initial-cluster", &all.join(","), "--unsafe-no-fsync"]);
        if let Some((cert, key)) = &self.options.tls {
            command.arg("--cert-file").arg(cert).arg("--key-file").arg(key);
        }
        command.args(&self.options.args);
        let process = Process::spawn(format!("etcd {name}"), &mut command, &self.dir.join(format!("etcd-{name}.log")))?;
        self.running.lock().expect("no panic")[member] = Some(process);
        Ok(())
    }

    /// Until a linearizable read works; with TLS or users, until the port answers.
    fn wait_up(&self) -> Result<()> {
        wait::until("etcd to serve", wait::LONG, || self.ctl.run(&["get", "none"]).ok()).map(drop)
    }
}

impl Etcdctl {
    /// A client in `netns` for these endpoints.
    pub fn new(netns: &Netns, endpoints: impl Into<String>) -> Self {
        Self { netns_path: netns.path(), endpoints: endpoints.into(), args: Vec::new() }
    }

    /// The same with other arguments, such as `--user`.
    #[must_use]
    pub fn with_args(&self, args: &[&str]) -> Self {
        Self { args: args.iter().map(|arg| (*arg).to_owned()).collect(), ..self.clone() }
    }

    /// Runs one command; its standard output.
    pub fn run(&self, args: &[&str]) -> Result<String> {
        netns::run(self.command().args(args))
    }

    /// Runs one command; what it prints as JSON.
    pub fn json(&self, args: &[&str]) -> Result<serde_json::Value> {
        Ok(serde_json::from_str(&self.run(&[args, &["-w", "json"]].concat())?)?)
    }

    /// Runs one command with this standard input.
    pub fn fed(&self, args: &[&str], input: &[u8]) -> Result<String> {
        let mut command = self.command();
        let mut child =
            command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        child.stdin.take().context("etcdctl has no standard input")?.write_all(input)?;
        let output = child.wait_with_output()?;
        ensure!(output.status.success(), "etcdctl {args:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Writes the network config.
    pub fn publish(&self, network: &str) -> Result<()> {
        self.run(&["put", CONFIG, network]).map(drop)
    }

    /// Writes one lease of any content.
    pub fn put(&self, key: &str, value: &[u8]) -> Result<()> {
        let path = format!("{SUBNETS}{key}");
        // It takes no empty standard input.
        if value.is_empty() { self.run(&["put", "--", &path, ""]) } else { self.fed(&["put", "--", &path], value) }
            .map(drop)
    }

    /// Deletes one lease.
    pub fn delete(&self, key: &str) -> Result<()> {
        self.run(&["del", "--", &format!("{SUBNETS}{key}")]).map(drop)
    }

    /// Writes (`Some`) and deletes (`None`) many leases, a hundred per transaction.
    pub fn many<'a>(&self, changes: impl IntoIterator<Item = (&'a str, Option<&'a str>)>) -> Result<()> {
        let line = |(key, value): (&str, Option<&str>)| match value {
            // As a JSON text, which is also how etcdctl quotes.
            Some(value) => format!("put {SUBNETS}{key} {}\n", serde_json::Value::from(value)),
            None => format!("del {SUBNETS}{key}\n"),
        };
        let lines: Vec<String> = changes.into_iter().map(line).collect();
        for part in lines.chunks(TXN) {
            self.fed(&["txn"], format!("\n{}\n\n", part.concat()).as_bytes())?;
        }
        Ok(())
    }

    /// All leases, by key. Keys and values must be of one line.
    pub fn leases(&self) -> Result<Vec<Lease>> {
        let text = self.run(&["get", "--prefix", SUBNETS])?;
        let mut lines = text.lines();
        let mut leases = Vec::new();
        while let (Some(key), Some(value)) = (lines.next(), lines.next()) {
            let key = key.strip_prefix(SUBNETS).with_context(|| format!("{key} is no lease's key"))?;
            leases.push(Lease { key: key.into(), value: value.into() });
        }
        Ok(leases)
    }

    /// The value of one lease.
    pub fn lease(&self, key: &str) -> Result<Option<String>> {
        let text = self.run(&["get", "--print-value-only", &format!("{SUBNETS}{key}")])?;
        Ok(text.lines().next().map(ToOwned::to_owned))
    }

    /// The etcd lease that a lease's key hangs on, 0 for none, and its create and mod revisions.
    pub fn revisions(&self, key: &str) -> Result<Option<[i64; 3]>> {
        let answer = self.json(&["get", &format!("{SUBNETS}{key}")])?;
        let kv = &answer["kvs"][0];
        let number = |name: &str| kv[name].as_i64().unwrap_or(0);
        Ok(kv.is_object().then(|| [number("lease"), number("create_revision"), number("mod_revision")]))
    }

    /// Throws the history away up to now.
    pub fn compact(&self) -> Result<()> {
        let revision = self.json(&["get", "none"])?["header"]["revision"].as_i64().context("a revision")?;
        match self.run(&["compact", &revision.to_string()]) {
            // Nothing has changed since the last time.
            Err(error) if error.to_string().contains("has been compacted") => Ok(()),
            outcome => outcome.map(drop),
        }
    }

    /// A client for one member alone.
    #[must_use]
    pub fn at(&self, member: usize) -> Self {
        let endpoint = self.endpoints.split(',').nth(member).unwrap_or_default().to_owned();
        Self { endpoints: endpoint, ..self.clone() }
    }

    fn command(&self) -> Command {
        let mut command = in_netns(&self.netns_path, "etcdctl");
        command.env("ETCDCTL_API", "3").args(["--endpoints", &self.endpoints, "--command-timeout", "10s"]);
        command.args(&self.args);
        command
    }
}

/// Makes a CA, and below it a server certificate for the gateway and a client certificate, in `dir`:
/// `ca.pem`, `server.pem`, `server.key`, `client.pem`, `client.key`.
pub fn certificates(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir)?;
    let openssl = |line: &str| netns::run(Command::new("openssl").current_dir(dir).args(line.split(' ')));
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
    openssl(&format!("req -x509 {key} -keyout ca.key -out ca.pem -days 2 -subj /CN=lab-ca"))?;
    for (name, extension) in [
        ("server", format!("subjectAltName=IP:{GATEWAY_V4},IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n")),
        ("client", "extendedKeyUsage=clientAuth\n".to_owned()),
    ] {
        fs::write(dir.join("ext"), extension)?;
        openssl(&format!("req {key} -keyout {name}.key -out {name}.csr -subj /CN={name}"))?;
        openssl(&format!(
            "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile ext -out {name}.pem"
        ))?;
    }
    Ok(())
}

fn in_netns(path: &Path, program: &str) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net={}", path.display())).arg("--").arg(program);
    command
}

fn client_port(member: usize) -> usize {
    2379 + 10 * member
}

fn peer_url(member: usize) -> String {
    format!("http://127.0.0.1:{}", client_port(member) + 1)
}
