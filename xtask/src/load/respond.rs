//! Requests and responses: each flow sends its next request when it has the answer to the last.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};

use super::{Client, MEASURING, Port, latency::Latencies, say};

/// A path that answers nothing for so long is broken.
const DEAD: Duration = Duration::from_secs(10);
/// A datagram without an answer for so long is lost.
const LOST: Duration = Duration::from_millis(200);

/// How often, and how long it took.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Responses {
    /// In the measured time, over all flows.
    pub(crate) count: usize,
    /// Per second.
    pub(crate) rate: f64,
    /// Microseconds that half of all did not exceed; and so on.
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) p999: f64,
    /// Requests without an answer.
    pub(crate) lost: usize,
}

impl Responses {
    pub(super) fn new(latencies: Latencies, lost: usize, seconds: f64) -> Self {
        let count = latencies.count();
        let [p50, p99, p999] = latencies.micros([0.5, 0.99, 0.999]);
        #[expect(clippy::cast_precision_loss, reason = "a count of what fits into seconds")]
        let rate = count as f64 / seconds;
        Self { count, rate, p50, p99, p999, lost }
    }
}

pub(super) fn tcp(client: &Client) -> Result<Responses> {
    flows(client, || {
        let mut stream = connected(Port::TcpEcho.of(client.address))?;
        let mut next = 0_u8;
        Ok(move || {
            next = next.wrapping_add(1);
            let mut answer = [0];
            stream.write_all(&[next]).context("sending a request")?;
            stream.read_exact(&mut answer).context("waiting for a response")?;
            ensure!(answer == [next], "byte {next} came back as {}", answer[0]);
            Ok(true)
        })
    })
}

pub(super) fn udp(client: &Client) -> Result<Responses> {
    flows(client, || {
        let any: IpAddr =
            if client.address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let socket = UdpSocket::bind((any, 0)).context("binding a UDP socket")?;
        socket.connect(Port::UdpEcho.of(client.address))?;
        socket.set_read_timeout(Some(LOST))?;
        let mut next = 0_u32;
        Ok(move || {
            next = next.wrapping_add(1);
            socket.send(&next.to_be_bytes()).context("sending a request")?;
            loop {
                let mut answer = [0; 4];
                match socket.recv(&mut answer) {
                    Ok(_) if answer == next.to_be_bytes() => return Ok(true),
                    Ok(_) => {} // of a request that was given up
                    Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                        return Ok(false);
                    }
                    Err(error) => return Err(error).context("waiting for a response"),
                }
            }
        })
    })
}

pub(super) fn connected(to: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to, DEAD).with_context(|| format!("connecting to {to}"))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(DEAD))?;
    Ok(stream)
}

/// One thread per flow, all of the process's core; `open` makes what does one request.
fn flows<Request>(client: &Client, open: impl Fn() -> Result<Request>) -> Result<Responses>
where
    Request: FnMut() -> Result<bool> + Send,
{
    let opened = (0..client.flows).map(|_| open()).collect::<Result<Vec<_>>>()?;
    let (begin, end) = client.window.from(Instant::now());
    let (latencies, lost) = thread::scope(|scope| {
        let threads: Vec<_> = opened.into_iter().map(|one| scope.spawn(move || repeat(one, begin, end))).collect();
        thread::sleep(begin.saturating_duration_since(Instant::now()));
        say(MEASURING)?;
        let mut all = Vec::new();
        for thread in threads {
            all.push(thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
        }
        let lost = all.iter().map(|(_, lost)| lost).sum();
        anyhow::Ok((all.into_iter().map(|(times, _)| times).collect::<Latencies>(), lost))
    })?;
    Ok(Responses::new(latencies, lost, client.window.seconds))
}

fn repeat(mut request: impl FnMut() -> Result<bool>, begin: Instant, end: Instant) -> Result<(Latencies, usize)> {
    let (mut times, mut lost) = (Latencies::default(), 0);
    let mut last_answer = Instant::now();
    loop {
        let sent = Instant::now();
        if sent >= end {
            return Ok((times, lost));
        }
        let answered = request()?;
        let now = Instant::now();
        if answered {
            last_answer = now;
        }
        ensure!(now - last_answer < DEAD, "no response for {} s", DEAD.as_secs());
        match (sent >= begin && now <= end, answered) {
            (true, true) => times.push(now - sent),
            (true, false) => lost += 1,
            (false, _) => {}
        }
    }
}
