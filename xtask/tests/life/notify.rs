//! What systemd and the health port hear.

use std::{os::unix::net::UnixDatagram, time::Duration};

use nix::sys::signal::Signal;
use xtask::lab::{Cluster, Launch, Stopwatch, wait};

pub(crate) fn told_the_truth(prefix: &str) {
    let cluster = Cluster::builder(prefix).nodes(2).prepare().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    let env = [("NOTIFY_SOCKET", path.display().to_string()), ("WATCHDOG_USEC", "1000000".into())];
    let launch = Launch { env: env.map(|(key, value)| (key.to_owned(), value)).to_vec(), ..Launch::default() };
    let node = cluster.node(1);

    // Without a store it lives, says what it waits for, and is not ready.
    cluster.store().stop().unwrap();
    node.start_with(&launch).unwrap();
    let mut heard = Vec::new();
    hear(&manager, &mut heard, "a watchdog beat without a store", |text| text.contains("WATCHDOG=1"));
    assert!(!heard.iter().any(|text| text.contains("READY=1")), "{heard:?}");
    wait::until("the health port", wait::SHORT, || node.http("/healthz").ok()).unwrap();
    assert!(node.http("/healthz").unwrap().starts_with("HTTP/1.1 200"));
    let readyz = node.http("/readyz").unwrap();
    assert!(readyz.starts_with("HTTP/1.1 503") && readyz.contains("waiting"), "{readyz}");

    cluster.start_store().unwrap();
    hear(&manager, &mut heard, "READY=1", |text| text.contains("READY=1"));
    node.wait_ready().unwrap();
    hear(&manager, &mut heard, "a status with the essence", |text| {
        text.contains("STATUS=") && text.contains("converged")
    });
    heard.clear();
    let watch = Stopwatch::start();
    for _ in 0..4 {
        hear(&manager, &mut heard, "a watchdog beat", |text| text.contains("WATCHDOG=1"));
        heard.clear();
    }
    watch.assert_within(Duration::from_secs(4));
    node.signal(Signal::SIGTERM).unwrap();
    hear(&manager, &mut heard, "STOPPING=1", |text| text.contains("STOPPING=1"));
    assert!(node.wait_end(wait::SHORT).unwrap().success());
}

fn hear(manager: &UnixDatagram, heard: &mut Vec<String>, what: &str, wanted: impl Fn(&str) -> bool) {
    wait::until(what, wait::LONG, || {
        let mut buffer = [0; 4096];
        if let Ok(length) = manager.recv(&mut buffer) {
            heard.push(String::from_utf8_lossy(&buffer[..length]).into_owned());
        }
        heard.iter().any(|text| wanted(text)).then_some(())
    })
    .unwrap_or_else(|error| panic!("{error}: {heard:?}"));
}
