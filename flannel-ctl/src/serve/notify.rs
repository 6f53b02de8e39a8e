//! What systemd is told: ready, status, alive, stopping.

use std::{
    io,
    time::{Duration, Instant},
};

use sd_notify::NotifyState;
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::{
    Report, ReportHandle,
    report::{Condition, PeerCounts},
};

/// Talks to the service manager until dropped: `READY=1` when nothing is awaited any more,
/// `STATUS=` when it changes and once a second at most, `WATCHDOG=1` while the reconcile loop
/// turns. Does nothing when no service manager has asked for it.
pub async fn run(handle: ReportHandle) {
    if std::env::var_os("NOTIFY_SOCKET").is_some() {
        notify(&handle, sd_notify::watchdog_enabled(), sd_notify::notify).await;
    }
}

/// On the way out. systemd stops waiting for more.
pub fn stopping() {
    let sent = sd_notify::notify(&[NotifyState::Stopping, NotifyState::Status("stopping; packets keep flowing")]);
    Told::default().note(&sent);
}

async fn notify(handle: &ReportHandle, watchdog: Option<Duration>, send: impl Fn(&[NotifyState]) -> io::Result<()>) {
    let mut told = Told::default();
    let mut announced = false;
    let mut status = String::new();
    let mut alive_at: Option<Instant> = None;
    // systemd wants to hear twice per limit; without a watchdog nothing has to be said in time.
    let pause = watchdog.map_or(Duration::from_hours(1), |limit| limit / 4);
    let mut tick = interval(pause.min(Duration::from_secs(1)));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut reports = handle.subscribe();
    loop {
        let now = Instant::now();
        let ready = handle.readiness().is_ready();
        if ready && !announced {
            // Whoever starts after us waits for this one: tried again until it is heard.
            announced = told.note(&send(&[NotifyState::Ready]));
        }
        let line = status_line(&handle.report(now));
        if line != status {
            told.note(&send(&[NotifyState::Status(&line)]));
            status = line;
        }
        let due = watchdog.is_some_and(|limit| alive_at.is_none_or(|at| now.duration_since(at) >= limit / 4));
        if due && handle.heartbeat().is_young(now) {
            alive_at = Some(now);
            told.note(&send(&[NotifyState::Watchdog]));
        }
        tick.tick().await;
        tokio::select! {
            changed = reports.changed() => if changed.is_err() { return },
            () = handle.readiness().ready(), if !announced => {}
            () = sleep(pause) => {}
        }
    }
}

/// One line for `systemctl status`.
pub fn status_line(report: &Report) -> String {
    let PeerCounts { total, programmed, refused } = report.peers;
    let mut parts = vec![report.state.name().to_owned()];
    if let Some(lease) = &report.lease {
        parts.extend([lease.ipv4, lease.ipv6].into_iter().flatten().map(|net| net.to_string()));
    }
    if report.state != Condition::Starting {
        parts.push(format!("{programmed} of {total} peers"));
    }
    if refused > 0 {
        parts.push(format!("{refused} leases refused"));
    }
    let mut line = parts.join(", ");
    if !report.awaited.is_empty() {
        line = format!("{line}; waiting for {}", report.awaited.join(", "));
    } else if !report.reason.is_empty() {
        line = format!("{line}; {}", report.reason);
    }
    // One line is one field of the datagram; what others wrote must not begin a second.
    line.replace(|c: char| c.is_control(), " ").chars().take(500).collect()
}

/// Whether the service manager could be told; that it could not is said once.
#[derive(Default)]
struct Told {
    failing: bool,
}

impl Told {
    fn note(&mut self, sent: &io::Result<()>) -> bool {
        if let Err(error) = sent
            && !self.failing
        {
            tracing::warn!(%error, "the service manager could not be told (NOTIFY_SOCKET)");
        }
        self.failing = sent.is_err();
        sent.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tokio::sync::watch;

    use super::*;
    use crate::serve::{Heartbeat, Readiness};

    type Sent = Arc<Mutex<Vec<String>>>;

    fn recorder() -> (Sent, impl Fn(&[NotifyState]) -> io::Result<()>) {
        let sent = Sent::default();
        let log = Arc::clone(&sent);
        let send = move |states: &[NotifyState]| {
            log.lock().unwrap().extend(states.iter().map(ToString::to_string));
            Ok(())
        };
        (sent, send)
    }

    async fn until(mut true_now: impl FnMut() -> bool) {
        tokio::time::timeout(Duration::from_secs(10), async {
            while !true_now() {
                sleep(Duration::from_millis(1)).await;
            }
        })
        .await
        .unwrap();
    }

    #[tokio::test]
    async fn ready_once_status_on_change_and_watchdog_only_with_a_young_heart() {
        for watchdog in [Some(Duration::from_millis(40)), None] {
            let (report_tx, report) = watch::channel(Arc::new(Report::default()));
            let readiness = Readiness::new();
            let guard = readiness.wait_for("a subnet");
            let handle = ReportHandle::new(report, Heartbeat::new(Instant::now()), readiness, |_| false);
            let (sent, send) = recorder();
            let task = tokio::spawn(async move { notify(&handle, watchdog, send).await });
            until(|| sent.lock().unwrap().contains(&"STATUS=starting; waiting for a subnet".to_owned())).await;
            assert!(!sent.lock().unwrap().contains(&"READY=1".to_owned()));
            drop(guard);
            until(|| sent.lock().unwrap().contains(&"READY=1".to_owned())).await;
            report_tx.send_replace(Arc::new(Report { state: Condition::Converged, ..Report::default() }));
            until(|| sent.lock().unwrap().contains(&"STATUS=converged, 0 of 0 peers".to_owned())).await;
            let sent = sent.lock().unwrap().clone();
            assert_eq!(sent.iter().filter(|line| *line == "READY=1").count(), 1);
            assert_eq!(sent.contains(&"WATCHDOG=1".to_owned()), watchdog.is_some());
            task.abort();
        }
    }

    #[tokio::test]
    async fn an_old_heart_feeds_no_watchdog() {
        let Some(long_ago) = Instant::now().checked_sub(Heartbeat::LIMIT + Duration::from_secs(1)) else { return };
        let (_report_tx, report) = watch::channel(Arc::new(Report::default()));
        let heart = Heartbeat::new(long_ago);
        let handle = ReportHandle::new(report, heart.clone(), Readiness::new(), |_| false);
        let (sent, send) = recorder();
        let task = tokio::spawn(async move { notify(&handle, Some(Duration::from_millis(40)), send).await });
        until(|| !sent.lock().unwrap().is_empty()).await;
        sleep(Duration::from_millis(50)).await;
        assert!(!sent.lock().unwrap().contains(&"WATCHDOG=1".to_owned()));
        heart.beat(Instant::now());
        until(|| sent.lock().unwrap().contains(&"WATCHDOG=1".to_owned())).await;
        task.abort();
    }

    #[test]
    fn foreign_text_stays_in_its_line() {
        let report = Report { reason: "lease x: bad\nMAINPID=1".into(), ..Report::default() };
        assert_eq!(status_line(&report), "starting; lease x: bad MAINPID=1");
    }
}
