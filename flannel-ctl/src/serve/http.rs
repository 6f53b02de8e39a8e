//! The HTTP routes: health for probes, reports for our own verbs, metrics for Prometheus.

use std::{
    fmt::Write as _,
    io,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::get,
};
use serde::Serialize;
use tokio::net::TcpListener;

use super::{
    Heartbeat, ReportHandle,
    limit::{Limited, affordable},
    metrics,
};

/// The server on `--healthz-ip` and `--healthz-port`, bound.
#[derive(Debug)]
pub struct HealthServer {
    listener: TcpListener,
}

/// The address could not be had.
#[derive(Debug, thiserror::Error)]
#[error("listen for health probes on {address}: {answer}{}", hint(.answer))]
pub struct BindError {
    pub address: SocketAddr,
    pub answer: io::Error,
}

impl HealthServer {
    /// A probe that is not done by then has been forgotten by whoever sent it.
    const LIFETIME: Duration = Duration::from_secs(15);
    const CONNECTIONS: usize = 64;

    pub async fn bind(ip: IpAddr, port: u16) -> Result<Self, BindError> {
        let address = SocketAddr::new(ip, port);
        match TcpListener::bind(address).await {
            Ok(listener) => Ok(Self { listener }),
            Err(answer) => Err(BindError { address, answer }),
        }
    }

    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves `/healthz`, `/readyz` and `/metrics` until dropped.
    pub async fn run(self, handle: ReportHandle) -> io::Result<()> {
        let listener = Limited::new(self.listener, affordable(Self::CONNECTIONS), Self::LIFETIME);
        axum::serve(listener, health_routes().with_state(handle)).await
    }
}

/// What anybody on the network may ask: no names and addresses of others.
fn health_routes() -> Router<ReportHandle> {
    Router::new().route("/healthz", get(healthz)).route("/readyz", get(readyz)).route("/metrics", get(scrape))
}

/// What our own verbs ask, over the status socket.
pub(super) fn status_routes() -> Router<ReportHandle> {
    health_routes().route("/status", get(status)).route("/peers", get(peers))
}

/// flannel's answer while the reconcile loop turns; the reason when it does not.
pub fn health(heartbeat_age: Duration) -> (StatusCode, String) {
    if heartbeat_age <= Heartbeat::LIMIT {
        return (StatusCode::OK, "flanneld is running".to_owned());
    }
    let reason = format!(
        "the reconcile loop has not come round for {} s (limit {} s)",
        heartbeat_age.as_secs(),
        Heartbeat::LIMIT.as_secs()
    );
    (StatusCode::SERVICE_UNAVAILABLE, reason)
}

/// Ready when nothing is awaited and the loop turns.
pub fn readiness(awaited: &[&str], heartbeat_age: Duration) -> (StatusCode, String) {
    if awaited.is_empty() {
        let (code, reason) = health(heartbeat_age);
        return (code, if code.is_success() { "ready".to_owned() } else { reason });
    }
    let mut reason = "waiting for ".to_owned();
    for (i, what) in awaited.iter().enumerate() {
        write!(reason, "{}{what}", if i == 0 { "" } else { ", " }).expect("writing to a String cannot fail");
    }
    (StatusCode::SERVICE_UNAVAILABLE, reason)
}

async fn healthz(State(handle): State<ReportHandle>) -> impl IntoResponse {
    health(handle.heartbeat().age(Instant::now()))
}

async fn readyz(State(handle): State<ReportHandle>) -> impl IntoResponse {
    readiness(&handle.readiness().awaited(), handle.heartbeat().age(Instant::now()))
}

async fn scrape(State(handle): State<ReportHandle>) -> Response {
    match metrics::render(handle.report(Instant::now())) {
        Ok(text) => ([(CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("render the metrics: {error}")).into_response(),
    }
}

async fn status(State(handle): State<ReportHandle>) -> Response {
    json(&handle.report(Instant::now()))
}

async fn peers(State(handle): State<ReportHandle>) -> Response {
    match handle.peers().await {
        Ok(peers) => json(&peers),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, error.to_string()).into_response(),
    }
}

fn json(value: &impl Serialize) -> Response {
    match serde_json::to_string(value) {
        Ok(text) => ([(CONTENT_TYPE, "application/json")], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("render the answer: {error}")).into_response(),
    }
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => " (another process has the port: choose another --healthz-port, or 0 for none)",
        io::ErrorKind::AddrNotAvailable => " (no interface has this address: see --healthz-ip)",
        io::ErrorKind::PermissionDenied => " (ports below 1024 need root or CAP_NET_BIND_SERVICE)",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn healthy_only_while_the_heart_beats() {
        let start = Instant::now();
        let heart = Heartbeat::new(start);
        assert_eq!(health(heart.age(start)), (StatusCode::OK, "flanneld is running".to_owned()));
        let late = start + Heartbeat::LIMIT + Duration::from_secs(3);
        let (code, reason) = health(heart.age(late));
        assert_eq!(code, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(reason, "the reconcile loop has not come round for 33 s (limit 30 s)");
        heart.beat(late);
        assert_eq!(health(heart.age(late)).0, StatusCode::OK);
    }

    #[test]
    fn not_ready_while_something_is_awaited_or_the_loop_is_stuck() {
        let (code, reason) = readiness(&["a subnet", "the kernel"], Duration::ZERO);
        assert_eq!((code.as_u16(), reason.as_str()), (503, "waiting for a subnet, the kernel"));
        assert_eq!(readiness(&[], Duration::ZERO), (StatusCode::OK, "ready".to_owned()));
        assert_eq!(readiness(&[], Duration::from_secs(31)).0.as_u16(), 503);
    }

    #[tokio::test]
    async fn a_taken_port_is_named_with_its_cure() {
        let first = HealthServer::bind([127, 0, 0, 1].into(), 0).await.unwrap();
        let address = first.local_addr().unwrap();
        let error = HealthServer::bind(address.ip(), address.port()).await.unwrap_err().to_string();
        assert!(error.contains(&address.to_string()) && error.contains("--healthz-port"), "{error}");
    }
}
