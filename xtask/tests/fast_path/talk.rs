//! A conversation through the datapath: a numbered message every millisecond, each answered by its echo.

use std::{
    collections::BTreeSet,
    io::{ErrorKind, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpStream, UdpSocket},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use nix::sys::socket::{setsockopt, sockopt};
use xtask::lab::{Netns, wait};

/// How soon a loop looks whether it shall end.
pub(crate) const TICK: Duration = Duration::from_millis(20);
/// Whoever has heard nothing for so long hears nothing more.
const PATIENCE: Duration = Duration::from_secs(20);
const PACE: Duration = Duration::from_millis(1);

/// Speaks until it is stopped.
pub(crate) struct Talk {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    what: String,
    local: SocketAddr,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    hang_up: AtomicBool,
    paused: AtomicBool,
    sent: AtomicU64,
    answered: Mutex<BTreeSet<u64>>,
    broken: Mutex<Option<String>>,
}

enum Line {
    Tcp(TcpStream),
    Udp(UdpSocket),
}

impl Talk {
    /// Over one TCP connection.
    pub(crate) fn tcp(from: &Netns, to: SocketAddr) -> Self {
        let stream = connect(from, to).unwrap_or_else(|error| panic!("{} to {to}: {error}", from.name()));
        stream.set_write_timeout(Some(TICK)).unwrap();
        stream.set_read_timeout(Some(TICK)).unwrap();
        Self::over(Line::Tcp(stream), format!("TCP from {} to {to}", from.name()))
    }

    /// Over one UDP flow; only the peer's own answers count.
    pub(crate) fn udp(from: &Netns, to: SocketAddr) -> Self {
        Self::over(Line::Udp(udp_to(from, to)), format!("UDP from {} to {to}", from.name()))
    }

    fn over(line: Line, what: String) -> Self {
        let local = match &line {
            Line::Tcp(stream) => stream.local_addr().unwrap(),
            Line::Udp(socket) => socket.local_addr().unwrap(),
        };
        let (shared, line) = (Arc::<Shared>::default(), Arc::new(line));
        let threads = [speak as fn(&Line, &Shared), listen].map(|part| {
            let (shared, line) = (Arc::clone(&shared), Arc::clone(&line));
            thread::spawn(move || part(&line, &shared))
        });
        Self { shared, threads: threads.into(), what, local }
    }

    /// Our end.
    pub(crate) fn local(&self) -> SocketAddr {
        self.local
    }

    pub(crate) fn sent(&self) -> u64 {
        self.shared.sent.load(Ordering::Acquire)
    }

    pub(crate) fn answered(&self) -> u64 {
        self.shared.answered.lock().unwrap().len() as u64
    }

    /// Says nothing from now on, or speaks again.
    pub(crate) fn pause(&self, paused: bool) {
        self.shared.paused.store(paused, Ordering::Release);
    }

    /// What the kernel last said against it.
    pub(crate) fn broken(&self) -> Option<String> {
        self.shared.broken.lock().unwrap().clone()
    }

    /// Waits for so many more answers.
    pub(crate) fn more(&self, count: u64) {
        let goal = self.answered() + count;
        wait::until(&format!("{count} more answers on {}", self.what), PATIENCE, || {
            (self.answered() >= goal).then_some(())
        })
        .unwrap_or_else(|error| panic!("{error}: {} of {}, {:?}", self.answered(), self.sent(), self.broken()));
    }

    /// Waits until so many more have been sent, answered or not.
    pub(crate) fn more_sent(&self, count: u64) {
        let goal = self.sent() + count;
        wait::until(&format!("{count} more messages on {}", self.what), PATIENCE, || {
            (self.sent() >= goal).then_some(())
        })
        .unwrap();
    }

    /// Ends it, and gives what is under way the time to come; how many went without an answer.
    pub(crate) fn lost(self) -> u64 {
        self.shared.stop.store(true, Ordering::Release);
        let all = || (self.answered() == self.sent()).then_some(());
        // What is lost is lost after this.
        wait::until("the last answers", Duration::from_secs(3), all).ok();
        self.sent() - self.answered()
    }

    /// Ends it; every message must have been answered.
    pub(crate) fn whole(self) {
        let (sent, what, broken) = (self.sent(), self.what.clone(), self.broken());
        let lost = self.lost();
        assert!(sent > 0 && lost == 0, "{what}: {lost} of {sent} lost, {broken:?}");
    }
}

impl Drop for Talk {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        self.shared.hang_up.store(true, Ordering::Release);
        for thread in self.threads.drain(..) {
            thread.join().ok();
        }
    }
}

/// A TCP connection from inside a namespace.
pub(crate) fn connect(from: &Netns, to: SocketAddr) -> std::io::Result<TcpStream> {
    let stream = from.enter(|| TcpStream::connect_timeout(&to, PATIENCE)).unwrap()?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// A UDP socket inside a namespace that talks to one address.
pub(crate) fn udp_to(from: &Netns, to: SocketAddr) -> UdpSocket {
    let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = from.enter(|| UdpSocket::bind((any, 0)).and_then(|s| s.connect(to).map(|()| s))).unwrap().unwrap();
    // A reader without a core must not look like packets lost on the way.
    setsockopt(&socket, sockopt::RcvBufForce, &(16 << 20)).unwrap();
    socket.set_read_timeout(Some(TICK)).unwrap();
    socket
}

/// So many requests, each waiting for its answer.
pub(crate) fn exchange(stream: &mut TcpStream, count: u64) {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    for number in 0..count {
        let (request, mut answer) = (number.to_be_bytes(), [0; 8]);
        stream.write_all(&request).unwrap();
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(answer, request);
    }
}

fn speak(line: &Line, shared: &Shared) {
    while !shared.stop.load(Ordering::Acquire) {
        if shared.paused.load(Ordering::Acquire) {
            thread::sleep(PACE);
            continue;
        }
        let number = shared.sent.load(Ordering::Acquire).to_be_bytes();
        let outcome = match line {
            Line::Tcp(stream) => (&mut &*stream).write_all(&number),
            Line::Udp(socket) => socket.send(&number).map(drop),
        };
        match (outcome, line) {
            (Ok(()), _) => {}
            // Nothing more is taken until something has been answered.
            (Err(error), Line::Tcp(_)) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                continue;
            }
            // An ICMP error for an earlier one: this one has not been sent.
            (Err(error), Line::Udp(_)) => {
                *shared.broken.lock().unwrap() = Some(error.to_string());
                continue;
            }
            (Err(error), Line::Tcp(_)) => {
                *shared.broken.lock().unwrap() = Some(error.to_string());
                return;
            }
        }
        shared.sent.fetch_add(1, Ordering::AcqRel);
        thread::sleep(PACE);
    }
}

fn listen(line: &Line, shared: &Shared) {
    let (mut number, mut datagram) = ([0; 8], [0; 256]);
    let mut have = 0;
    while !shared.hang_up.load(Ordering::Acquire) {
        let outcome = match line {
            Line::Tcp(stream) => (&mut &*stream).read(&mut number[have..]),
            Line::Udp(socket) => socket.recv(&mut datagram),
        };
        match outcome {
            Ok(0) => break,
            Ok(read) if matches!(line, Line::Tcp(_)) => have += read,
            // Others are answers to what somebody else sent in our name.
            Ok(read) if read == number.len() => {
                number.copy_from_slice(&datagram[..read]);
                have = read;
            }
            Ok(_) => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => continue,
            Err(error) => {
                *shared.broken.lock().unwrap() = Some(error.to_string());
                if matches!(line, Line::Tcp(_)) {
                    break;
                }
            }
        }
        if have == number.len() {
            shared.answered.lock().unwrap().insert(u64::from_be_bytes(number));
            have = 0;
        }
    }
    if let Line::Tcp(stream) = line {
        stream.shutdown(Shutdown::Both).ok();
    }
}
