//! The servers over real sockets, and the verbs through the built binary.

use std::{
    net::SocketAddr,
    os::unix::net::UnixDatagram,
    path::Path,
    process::{Command, Output, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use flannel_ctl::serve::{
    HealthServer, Heartbeat, PeerReport, Question, Readiness, Report, ReportHandle, StatusSocket, notify,
    report::Condition,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::watch,
};

/// A daemon without a loop behind it.
struct Daemon {
    report: watch::Sender<Arc<Report>>,
    readiness: Readiness,
    handle: ReportHandle,
}

fn daemon(heartbeat: Heartbeat, peers: usize) -> Daemon {
    let (report_tx, report_rx) = watch::channel(Arc::new(Report::default()));
    let readiness = Readiness::new();
    let answer = vec![PeerReport { node: "beta".to_owned(), ..PeerReport::default() }; peers];
    let handle = ReportHandle::new(report_rx, heartbeat, readiness.clone(), move |question| match question {
        Question::Peers(reply) => reply.send(answer.clone()).is_ok(),
    });
    Daemon { report: report_tx, readiness, handle }
}

async fn verb(run_dir: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_flannel-ctl"));
    command.args(args).arg("--run-dir").arg(run_dir);
    tokio::task::spawn_blocking(move || command.output()).await.expect("no panic").expect("the binary starts")
}

async fn http(address: SocketAddr, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).await.expect("connect");
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("send");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("receive");
    let (head, body) = answer.split_once("\r\n\r\n").expect("an HTTP answer");
    let code = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status code");
    (code, body.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn status_says_by_its_exit_code_how_the_daemon_does() {
    let dir = tempfile::tempdir().unwrap();
    let absent = verb(dir.path(), &["status"]).await;
    assert_eq!(absent.status.code(), Some(1));
    let message = String::from_utf8(absent.stderr).unwrap();
    assert!(message.contains("status.sock") && message.contains("--run-dir"), "{message}");
    assert_eq!(message.matches("No such file").count(), 1, "{message}");

    let daemon = daemon(Heartbeat::new(Instant::now()), 0);
    let server = tokio::spawn(StatusSocket::bind(dir.path()).unwrap().run(daemon.handle));
    for (state, code) in [(Condition::Starting, 3), (Condition::Converged, 0), (Condition::Degraded, 3)] {
        daemon.report.send_replace(Arc::new(Report { state, ..Report::default() }));
        let output = verb(dir.path(), &["status", "--output", "json"]).await;
        assert_eq!(output.status.code(), Some(code), "{state:?}");
        let report: Report = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(report.state, state);
    }
    server.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_peers_are_listed_and_a_closed_pipe_is_no_failure() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = daemon(Heartbeat::new(Instant::now()), 10_000);
    let server = tokio::spawn(StatusSocket::bind(dir.path()).unwrap().run(daemon.handle));
    let output = verb(dir.path(), &["peers"]).await;
    assert!(output.status.success());
    assert_eq!(String::from_utf8(output.stdout).unwrap().lines().count(), 10_001);

    let mut command = Command::new(env!("CARGO_BIN_EXE_flannel-ctl"));
    command.arg("peers").arg("--run-dir").arg(dir.path()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = tokio::task::spawn_blocking(move || {
        let mut child = command.spawn().expect("the binary starts");
        drop(child.stdout.take());
        child.wait_with_output().expect("the binary ends")
    })
    .await
    .unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(output.stderr, b"");
    server.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn probes_follow_readiness_and_heartbeat() {
    let Some(long_ago) = Instant::now().checked_sub(Heartbeat::LIMIT + Duration::from_secs(5)) else {
        eprintln!("NOT TESTED: this machine has been up for less than a minute");
        return;
    };
    let heart = Heartbeat::new(long_ago);
    heart.beat(Instant::now());
    let young = daemon(heart, 0);
    let guard = young.readiness.wait_for("a subnet");
    let server = HealthServer::bind([127, 0, 0, 1].into(), 0).await.unwrap();
    let address = server.local_addr().unwrap();
    let server = tokio::spawn(server.run(young.handle));
    assert_eq!(http(address, "/healthz").await, (200, "flanneld is running".to_owned()));
    assert_eq!(http(address, "/readyz").await, (503, "waiting for a subnet".to_owned()));
    assert!(http(address, "/metrics").await.1.contains("\nflannel_ready 0\n"));
    drop(guard);
    assert_eq!(http(address, "/readyz").await, (200, "ready".to_owned()));
    assert!(http(address, "/metrics").await.1.contains("\nflannel_ready 1\n"));
    for private in ["/status", "/peers"] {
        assert_eq!(http(address, private).await.0, 404, "{private} is for the status socket alone");
    }
    server.abort();

    let old = daemon(Heartbeat::new(long_ago), 0);
    let server = HealthServer::bind([127, 0, 0, 1].into(), 0).await.unwrap();
    let address = server.local_addr().unwrap();
    let server = tokio::spawn(server.run(old.handle));
    for path in ["/healthz", "/readyz"] {
        let (code, reason) = http(address, path).await;
        assert_eq!(code, 503);
        assert!(reason.starts_with("the reconcile loop has not come round for 35 s"), "{reason}");
    }
    server.abort();
}

/// Re-runs this test binary with the environment that systemd would give, since a process cannot
/// safely change its own.
#[test]
fn systemd_hears_ready_status_watchdog_and_stopping() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_of_systemd", "--ignored"])
        .env("NOTIFY_SOCKET", &path)
        .env("WATCHDOG_USEC", "200000")
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut awaited = vec!["READY=1", "STATUS=starting", "WATCHDOG=1", "STOPPING=1"];
    let mut datagram = [0; 1024];
    while !awaited.is_empty() {
        let length = socket.recv(&mut datagram).unwrap_or_else(|error| panic!("still awaited {awaited:?}: {error}"));
        let text = String::from_utf8_lossy(&datagram[..length]).into_owned();
        awaited.retain(|line| !text.lines().any(|sent| sent == *line));
    }
    assert!(child.wait().unwrap().success());
}

#[tokio::test]
#[ignore = "the other process of the test above"]
async fn child_of_systemd() {
    let daemon = daemon(Heartbeat::new(Instant::now()), 0);
    let told = tokio::time::timeout(Duration::from_millis(500), notify::run(daemon.handle)).await;
    assert!(told.is_err(), "it goes on until dropped");
    notify::stopping();
}
