use std::{sync::Arc, time::Instant};

use tokio::sync::watch;

use super::{
    super::{Heartbeat, PeerReport, Question, Readiness, Report, report::Condition},
    *,
};

fn handle(report: Report, ask: impl Fn(Question) -> bool + Send + Sync + 'static) -> ReportHandle {
    let (_, report) = watch::channel(Arc::new(report));
    ReportHandle::new(report, Heartbeat::new(Instant::now()), Readiness::new(), ask)
}

/// The client blocks, so it gets a thread.
async fn asked<T: DeserializeOwned + Send + 'static>(run_dir: &Path, route: &'static str) -> Result<T, ClientError> {
    let run_dir = run_dir.to_owned();
    tokio::task::spawn_blocking(move || ask(&run_dir, route)).await.unwrap()
}

#[tokio::test]
async fn report_and_peers_come_back_as_they_were() {
    let dir = tempfile::tempdir().unwrap();
    let report = Report { version: "1".into(), pid: 7, state: Condition::Degraded, ..Report::default() };
    let peer = PeerReport { node: "ß\u{1b}".into(), ipv4: "10.5.1.0/24".parse().ok(), ..PeerReport::default() };
    let answer = vec![peer.clone()];
    let handle = handle(report.clone(), move |question| {
        let Question::Peers(reply) = question;
        reply.send(answer.clone()).is_ok()
    });
    let held = handle.readiness().wait_for("a subnet");
    let socket = StatusSocket::bind(dir.path()).unwrap();
    let path = StatusSocket::path_in(dir.path());
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    let server = tokio::spawn(socket.run(handle));

    let mut seen: Report = asked(dir.path(), "/status").await.unwrap();
    assert_eq!(seen.awaited, ["a subnet"]);
    seen.awaited.clear();
    seen.heartbeat_age_ms = 0;
    assert_eq!(seen, report);
    assert_eq!(asked::<Vec<PeerReport>>(dir.path(), "/peers").await.unwrap(), [peer]);
    let error = asked::<Report>(dir.path(), "/readyz").await.unwrap_err();
    assert!(matches!(&error, ClientError::Refused { answer, .. } if answer == "waiting for a subnet"), "{error}");
    drop(held);
    assert!(matches!(asked::<Report>(dir.path(), "/readyz").await, Err(ClientError::NotUnderstood { .. })));

    server.abort();
    assert!(server.await.unwrap_err().is_cancelled());
    assert!(!path.exists());
}

#[tokio::test]
async fn a_loop_that_has_ended_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let server = tokio::spawn(StatusSocket::bind(dir.path()).unwrap().run(handle(Report::default(), |_| false)));
    let error = asked::<Vec<PeerReport>>(dir.path(), "/peers").await.unwrap_err();
    assert!(error.to_string().contains("the reconcile loop has ended"), "{error}");
    server.abort();
}

#[tokio::test]
async fn a_dead_daemons_socket_is_replaced_and_a_living_ones_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let path = StatusSocket::path_in(dir.path());
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let error = asked::<Report>(dir.path(), "/status").await.unwrap_err();
    assert!(matches!(error, ClientError::NotRunning { .. }), "{error}");

    let older = StatusSocket::bind(dir.path()).unwrap();
    let newer = StatusSocket::bind(dir.path()).unwrap();
    drop(older);
    let server = tokio::spawn(newer.run(handle(Report::default(), |_| false)));
    assert_eq!(asked::<Report>(dir.path(), "/status").await.unwrap().state, Condition::Starting);
    server.abort();
    assert!(fs::read_dir(dir.path()).unwrap().all(|entry| entry.unwrap().file_name() == "status.sock"));
}

#[tokio::test]
async fn what_is_not_a_socket_is_not_removed() {
    let dir = tempfile::tempdir().unwrap();
    let path = StatusSocket::path_in(dir.path());
    fs::write(&path, "precious").unwrap();
    let error = StatusSocket::bind(dir.path()).unwrap_err().to_string();
    assert!(error.contains("not a socket") && error.contains(path.to_str().unwrap()), "{error}");
    assert_eq!(fs::read(&path).unwrap(), b"precious");
}

#[tokio::test]
async fn too_long_a_path_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let run_dir = dir.path().join("x".repeat(120));
    fs::create_dir(&run_dir).unwrap();
    let error = StatusSocket::bind(&run_dir).unwrap_err().to_string();
    assert!(error.contains("choose a shorter --run-dir"), "{error}");
}

#[test]
fn no_daemon_names_the_socket_and_the_cure() {
    let dir = tempfile::tempdir().unwrap();
    let error = ask::<Report>(dir.path(), "/status").unwrap_err().to_string();
    assert!(
        error.contains("status.sock") && error.contains("flannel-ctl run") && error.contains("--run-dir"),
        "{error}"
    );
}
