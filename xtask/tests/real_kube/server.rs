//! The real API server beside its etcd and its controller manager.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Mutex,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;
use xtask::lab::{Etcd, EtcdOptions, GATEWAY_V4, Netns, Process, given_program, run, wait};

use crate::pki;

/// Names kube-apiserver; kube-controller-manager and kubectl stand beside it.
const VARIABLE: &str = "FLANNEL_REAL_APISERVER";
/// It installs its roles and priority classes first.
const PATIENCE: Duration = Duration::from_mins(2);
/// What the daemons ask, and nobody else.
const AUDIT: &str = "\
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: Metadata
  users: [daemon, 'system:serviceaccount:flannel-ctl:flannel-ctl']
- level: None
";
const ISSUER: &str = "https://kubernetes.lab.example";
pub(crate) const PORT: u16 = 6443;

/// One of the programs by its name, if the variable is set; the test is skipped otherwise.
fn program(name: &str) -> Option<PathBuf> {
    let server = given_program(VARIABLE, "Kubernetes' own kube-apiserver, beside kube-controller-manager and kubectl")?;
    Some(if name == "kube-apiserver" { server } else { server.with_file_name(name) })
}

/// Whether there is something to test with.
pub(crate) fn is_there() -> bool {
    program("kubectl").is_some()
}

/// All of it; it ends with the value.
#[derive(Debug)]
pub(crate) struct Server {
    api: Mutex<Option<Process>>,
    manager: Mutex<Option<Process>>,
    pub(crate) etcd: Etcd,
    netns: PathBuf,
    pub(crate) dir: PathBuf,
}

impl Server {
    /// Files go below `dir`. No node has a podCIDR before [`Self::manage`].
    pub(crate) fn start(netns: &Netns, dir: &Path) -> Result<Self> {
        let dir = dir.join("kube");
        fs::create_dir_all(&dir)?;
        pki::make(&dir)?;
        pki::kubeconfig(&dir.join("admin.conf"), &Self::url(), &dir, "admin")?;
        fs::write(dir.join("audit.yml"), AUDIT)?;
        let etcd = Etcd::start(netns, &dir, 1, EtcdOptions::default())?;
        let server = Self { api: Mutex::default(), manager: Mutex::default(), etcd, netns: netns.path(), dir };
        server.again()?;
        Ok(server)
    }

    pub(crate) fn url() -> String {
        format!("https://{GATEWAY_V4}:{PORT}")
    }

    /// kill -9; etcd and controller manager stay.
    pub(crate) fn kill(&self) -> Result<()> {
        self.api.lock().expect("no panic").take().context("no API server runs")?.kill().map(drop)
    }

    /// SIGTERM, and waits for the end; watches go on for a minute.
    pub(crate) fn stop(&self) -> Result<()> {
        let process = self.api.lock().expect("no panic").take().context("no API server runs")?;
        process.signal(Signal::SIGTERM)?;
        process.wait(PATIENCE).map(drop)
    }

    /// Starts it, again on its objects, and waits until it serves.
    pub(crate) fn again(&self) -> Result<()> {
        let file = |name: &str| self.dir.join(name).display().to_string();
        let mut command = self.program("kube-apiserver");
        command.args([
            format!("--etcd-servers={}", Etcd::endpoints(1, false)),
            format!("--bind-address={GATEWAY_V4}"),
            format!("--advertise-address={GATEWAY_V4}"),
            format!("--secure-port={PORT}"),
            format!("--cert-dir={}", file("certs")),
            format!("--tls-cert-file={}", file("server.pem")),
            format!("--tls-private-key-file={}", file("server.key")),
            format!("--client-ca-file={}", file("ca.pem")),
            format!("--service-account-key-file={}", file("sa.pub")),
            format!("--service-account-signing-key-file={}", file("sa.key")),
            format!("--service-account-issuer={ISSUER}"),
            format!("--audit-policy-file={}", file("audit.yml")),
            format!("--audit-log-path={}", file("audit.log")),
            "--authorization-mode=Node,RBAC".into(),
            "--allow-privileged=true".into(),
            "--etcd-compaction-interval=0".into(),
            "--service-cluster-ip-range=10.96.0.0/16,fd10:96::/112".into(),
        ]);
        command.args(gates());
        let process = Process::spawn("kube-apiserver", &mut command, &self.dir.join("kube-apiserver.log"))?;
        *self.api.lock().expect("no panic") = Some(process);
        wait::until("the API server to serve", PATIENCE, || {
            if let Some(process) = self.api.lock().expect("no panic").as_mut()
                && let Ok(Some(status)) = process.ended()
            {
                return Some(Err(anyhow::anyhow!("kube-apiserver ended with {status}: {}", process.log())));
            }
            (self.kubectl(&["get", "--raw", "/readyz"]).ok()? == "ok").then_some(Ok(()))
        })?
    }

    /// What the daemons have asked and been answered, as `watch nodes ResponseComplete`.
    pub(crate) fn asked(&self) -> Vec<String> {
        let text = fs::read_to_string(self.dir.join("audit.log")).unwrap_or_default();
        // The last line may be half of one.
        let events = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let event = |event: Value| {
            let about = &event["objectRef"];
            let part = about["subresource"].as_str().map(|part| format!("/{part}")).unwrap_or_default();
            format!("{} {}{part} {}", word(&event["verb"]), word(&about["resource"]), word(&event["stage"]))
        };
        events.map(event).collect()
    }

    /// From now on nodes get podCIDRs, namespaces a service account.
    pub(crate) fn manage(&self, cidrs: &str) -> Result<()> {
        let file = |name: &str| self.dir.join(name).display().to_string();
        let mut command = self.program("kube-controller-manager");
        command.args([
            format!("--kubeconfig={}", file("admin.conf")),
            format!("--service-account-private-key-file={}", file("sa.key")),
            format!("--root-ca-file={}", file("ca.pem")),
            format!("--cluster-cidr={cidrs}"),
            "--allocate-node-cidrs=true".into(),
            "--leader-elect=false".into(),
            "--secure-port=0".into(),
            "--controllers=nodeipam,namespace,serviceaccount,serviceaccount-token,root-ca-cert-publisher,daemonset"
                .into(),
        ]);
        command.args(gates());
        let process =
            Process::spawn("kube-controller-manager", &mut command, &self.dir.join("kube-controller-manager.log"))?;
        *self.manager.lock().expect("no panic") = Some(process);
        Ok(())
    }

    /// Throws etcd's history away, and the server's memory of it with the server.
    pub(crate) fn compact(&self) -> Result<()> {
        self.etcd.ctl().compact()
    }

    /// Puts etcd's data of an earlier time in place of what there is.
    pub(crate) fn restore(&self, backup: &str) -> Result<()> {
        self.etcd.kill(0)?;
        let data = self.dir.join("etcd-m0");
        fs::remove_dir_all(&data)?;
        let mut restore = Command::new("etcdctl");
        restore.env("ETCDCTL_API", "3").args(["snapshot", "restore", backup, "--name", "m0", "--data-dir"]).arg(&data);
        let peer = "http://127.0.0.1:2380";
        restore.args(["--initial-cluster", &format!("m0={peer}"), "--initial-advertise-peer-urls", peer]);
        run(&mut restore)?;
        self.etcd.restart(0)
    }

    /// kubectl as administrator; its standard output.
    pub(crate) fn kubectl(&self, args: &[&str]) -> Result<String> {
        self.fed(args, "").map(|(out, _)| out)
    }

    /// kubectl as administrator with this standard input; both outputs.
    pub(crate) fn fed(&self, args: &[&str], input: &str) -> Result<(String, String)> {
        let mut command = self.program("kubectl");
        command.arg("--kubeconfig").arg(self.dir.join("admin.conf"));
        command.arg("--cache-dir").arg(self.dir.join("cache")).args(args);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        // What reads nothing may be gone by now.
        drop(child.stdin.take().context("no standard input")?.write_all(input.as_bytes()));
        let output = child.wait_with_output()?;
        let [out, err] = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
        ensure!(output.status.success(), "kubectl {args:?}: {} {out} {err}", output.status);
        Ok((out, err))
    }

    /// An object as the server has it, such as `node/n1`.
    pub(crate) fn get(&self, args: &[&str]) -> Result<Value> {
        let text = self.kubectl(&[&["get", "-o", "json"], args].concat())?;
        Ok(serde_json::from_str(&text)?)
    }

    /// A node registers, as kubelet would.
    pub(crate) fn register(&self, name: &str, cidrs: &[&str]) -> Result<()> {
        let mut node = serde_json::json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": {"kubernetes.io/os": "linux"}}});
        if let Some(first) = cidrs.first() {
            node["spec"] = serde_json::json!({"podCIDR": first, "podCIDRs": cidrs});
        }
        self.fed(&["create", "-f", "-"], &node.to_string()).map(drop)
    }

    /// Annotations of flannel's on a node; `name-` removes.
    pub(crate) fn annotate(&self, node: &str, annotations: &[&str]) -> Result<()> {
        let full: Vec<_> = annotations.iter().map(|text| format!("flannel.alpha.coreos.com/{text}")).collect();
        let full = full.iter().map(String::as_str);
        let args: Vec<_> = ["annotate", "--overwrite", "node", node].into_iter().chain(full).collect();
        self.kubectl(&args).map(drop)
    }

    /// A token by the TokenRequest API. `bound`: the name of a secret with which it ends.
    pub(crate) fn token(&self, bound: Option<&str>) -> Result<String> {
        let mut spec = serde_json::json!({"audiences": [ISSUER], "expirationSeconds": 3600});
        if let Some(name) = bound {
            spec["boundObjectRef"] = serde_json::json!({"apiVersion": "v1", "kind": "Secret", "name": name});
        }
        let request =
            serde_json::json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec});
        let path = "/api/v1/namespaces/flannel-ctl/serviceaccounts/flannel-ctl/token";
        let (text, _) = self.fed(&["create", "--raw", path, "-f", "-"], &request.to_string())?;
        let answer: Value = serde_json::from_str(&text)?;
        Ok(answer["status"]["token"].as_str().context("a token")?.to_owned())
    }

    /// One request as a program without a library would make it, by curl; the code and the body. `user`: of a certificate.
    pub(crate) fn raw(&self, user: &str, method: &str, path: &str, more: &[&str]) -> Result<(u16, String)> {
        let mut command = self.inside(Path::new("curl"));
        let file = |name: String| self.dir.join(name);
        command.args(["-sS", "-X", method, "-w", "\n%{http_code}", "--cacert"]).arg(file("ca.pem".into()));
        if !user.is_empty() {
            command.arg("--cert").arg(file(format!("{user}.pem"))).arg("--key").arg(file(format!("{user}.key")));
        }
        let text = run(command.args(more).arg(format!("{}{path}", Self::url())))?;
        let (body, code) = text.trim_end().rsplit_once('\n').context("a code")?;
        Ok((code.parse()?, body.to_owned()))
    }

    fn program(&self, name: &str) -> Command {
        self.inside(&program(name).unwrap_or_default())
    }

    pub(crate) fn inside(&self, program: &Path) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.netns.display())).arg("--").arg(program);
        command
    }
}

/// Before 1.23 dual stack had to be asked for.
fn gates() -> Option<&'static str> {
    let help = Command::new(program("kube-apiserver")?).arg("--help").output().ok()?;
    let known = String::from_utf8_lossy(&help.stdout).contains("IPv6DualStack=");
    known.then_some("--feature-gates=IPv6DualStack=true")
}
