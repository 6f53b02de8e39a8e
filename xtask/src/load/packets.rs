//! Datagrams by the batch: what one core can send, and what of it is received unchanged.

use std::{
    hint,
    io::{IoSlice, IoSliceMut, Read},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket},
    os::fd::AsRawFd as _,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::{
    errno::Errno,
    sys::socket::{ControlMessage, MsgFlags, MultiHeaders, recvmmsg, sendmmsg, setsockopt, sockopt},
};
use serde::{Deserialize, Serialize};

use super::{Datagrams, MEASURING, Port, READY, say};

/// Datagrams to a system call.
const BATCH: usize = 64;
/// Room for what comes while the receiver is not scheduled.
const RECEIVE_BUFFER: usize = 8 << 20;
/// How often the receiver sends a datagram back, as protocols with acknowledgements do: a firewall or datapath that
/// waits for an answer before it believes in a flow gets one.
const ANSWER: Duration = Duration::from_millis(100);
/// The receiver gives up when nothing comes for so long.
const SILENCE: Duration = Duration::from_secs(10);
/// The sender goes on for so long, because the receiver counts from the first datagram that it gets.
const LONGER: Duration = Duration::from_millis(200);
/// Turns of an idle loop between two looks, some ten microseconds: a look costs the sender a cache line.
const IDLE_TURNS: u32 = 400;

#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Received {
    pub(crate) count: u64,
    /// Per second.
    pub(crate) rate: f64,
    /// Datagrams that were not what the sender sends.
    pub(crate) garbled: u64,
}

#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Sent {
    /// Per second, warm-up included.
    pub(crate) rate: f64,
}

/// Sends as fast as the system calls return, until a little after the receiver is done.
pub(super) fn send(datagrams: &Datagrams) -> Result<Sent> {
    let any: IpAddr =
        if datagrams.address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).context("binding a UDP socket")?;
    socket.connect(Port::Packets.of(datagrams.address))?;
    let payload = payload(datagrams.size);
    let slices = vec![[IoSlice::new(&payload)]; BATCH];
    let mut headers = MultiHeaders::<()>::preallocate(BATCH, None);
    let start = Instant::now();
    let (_, end) = datagrams.window.from(start);
    let end = end + LONGER;
    let mut sent = 0_u64;
    while Instant::now() < end {
        let no_control: [ControlMessage<'_>; 0] = [];
        match sendmmsg(socket.as_raw_fd(), &mut headers, &slices, [None::<()>; BATCH], no_control, MsgFlags::empty()) {
            Ok(results) => sent += results.count() as u64,
            Err(Errno::ENOBUFS | Errno::EINTR) => {}
            Err(error) => return Err(error).with_context(|| format!("sending to {}", datagrams.address)),
        }
    }
    Ok(Sent { rate: per_second(sent, start.elapsed().as_secs_f64()) })
}

/// Counts from the first datagram's time on. Then it waits for the end of `until`, with its port open: a sender that goes on
/// would be told that nobody listens, and take that for a broken path.
pub(super) fn receive(datagrams: &Datagrams, mut until: impl Read) -> Result<Received> {
    let at = Port::Packets.of(datagrams.address);
    let socket = UdpSocket::bind(at).with_context(|| format!("binding {at}"))?;
    setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER)
        .or_else(|_| setsockopt(&socket, sockopt::RcvBuf, &RECEIVE_BUFFER))
        .context("enlarging the receive buffer")?;
    socket.set_read_timeout(Some(SILENCE))?;
    let expected = payload(datagrams.size);
    let mut buffers = vec![vec![0; datagrams.size + 1]; BATCH];
    let mut headers = MultiHeaders::<()>::preallocate(BATCH, None);
    let mut window = None;
    let (mut count, mut garbled, mut told) = (0, 0, false);
    let flags = if datagrams.sleeps { MsgFlags::MSG_WAITFORONE } else { MsgFlags::MSG_DONTWAIT };
    say(READY)?;
    let (_, sender) = socket.peek_from(&mut [0; 1]).context("waiting for the first datagram")?;
    let mut answered: Option<Instant> = None;
    let mut last = Instant::now();
    loop {
        let mut slices: Vec<_> = buffers.iter_mut().map(|buffer| [IoSliceMut::new(buffer)]).collect();
        let lengths: Vec<usize> = match recvmmsg(socket.as_raw_fd(), &mut headers, &mut slices, flags, None) {
            Ok(results) => results.map(|message| message.bytes).collect(),
            Err(Errno::EINTR) => continue,
            Err(Errno::EAGAIN) if !datagrams.sleeps && last.elapsed() < SILENCE => {
                (0..IDLE_TURNS).for_each(|_| hint::spin_loop());
                continue;
            }
            Err(Errno::EAGAIN) => bail!("no datagram for {} s", SILENCE.as_secs()),
            Err(error) => return Err(error).context("receiving"),
        };
        let now = Instant::now();
        last = now;
        let (begin, end) = *window.get_or_insert_with(|| datagrams.window.from(now));
        if now >= end {
            break;
        }
        if !datagrams.one_way && answered.is_none_or(|then| now - then >= ANSWER) {
            socket.send_to(&[1], sender).context("answering")?;
            answered = Some(now);
        }
        let good = lengths.iter().zip(&buffers).filter(|(length, buffer)| buffer[..**length] == expected).count();
        garbled += (lengths.len() - good) as u64;
        if now >= begin {
            count += good as u64;
            if !told {
                say(MEASURING)?;
                told = true;
            }
        }
    }
    ensure!(told, "the datagrams stopped coming during the warm-up");
    until.read_to_end(&mut Vec::new()).context("waiting for the end of standard input")?;
    Ok(Received { count, rate: per_second(count, datagrams.window.seconds), garbled })
}

fn payload(size: usize) -> Vec<u8> {
    (0..size).map(|at| u8::try_from((at * 167 + 13) % 251).unwrap_or_default()).collect()
}

#[expect(clippy::cast_precision_loss, reason = "a count of what fits into seconds")]
fn per_second(count: u64, seconds: f64) -> f64 {
    count as f64 / seconds
}

#[cfg(test)]
mod tests {
    use std::{io, net::UdpSocket, thread};

    use super::{super::Window, *};

    /// `sendmmsg` tells of a closed port only if its first datagram meets it: one send in 64, so one run in many was void.
    #[test]
    fn a_sender_that_goes_on_is_not_told_that_nobody_listens() {
        let datagrams = Datagrams {
            address: "127.77.5.1".parse().unwrap(),
            size: 64,
            one_way: true,
            sleeps: false,
            window: Window { warmup: 0.0, seconds: 0.05 },
        };
        let socket = UdpSocket::bind("127.77.5.2:0").unwrap();
        socket.connect(Port::Packets.of(datagrams.address)).unwrap();
        let (ended, until) = io::pipe().map(|(reader, writer)| (writer, reader)).unwrap();
        let receiver = thread::spawn(move || receive(&datagrams, until));
        let payload = payload(64);
        let start = Instant::now();
        let mut accepted: Option<Instant> = None;
        while accepted.is_none_or(|first| first.elapsed() < Duration::from_millis(300)) {
            match socket.send(&payload) {
                // Only what another send survived has been taken by somebody.
                Ok(_) if accepted.is_none() && socket.send(&payload).is_ok() => accepted = Some(Instant::now()),
                Ok(_) => thread::yield_now(),
                Err(error) => assert!(accepted.is_none(), "after {:?}: {error}", start.elapsed()),
            }
            assert!(start.elapsed() < Duration::from_secs(30), "the receiver never listened");
        }
        drop(ended);
        assert!(receiver.join().unwrap().unwrap().count > 0);
    }
}
