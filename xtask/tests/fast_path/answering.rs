//! What answers in a pod: every message by its echo, over TCP and UDP.

use std::{
    collections::BTreeSet,
    io::{ErrorKind, Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use nix::sys::socket::{setsockopt, sockopt};
use xtask::lab::Netns;

use crate::talk::TICK;

/// Octets of a message of [`crate::talk::Talk`].
const MESSAGE: usize = 8;

/// Echoes until it is dropped.
pub(crate) struct Answering {
    at: SocketAddr,
    heard: Arc<Heard>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Heard {
    stop: AtomicBool,
    messages: AtomicU64,
    from: Mutex<BTreeSet<IpAddr>>,
    strange: Mutex<BTreeSet<String>>,
}

impl Answering {
    pub(crate) fn at(netns: &Netns, at: SocketAddr) -> Self {
        let open = || Ok::<_, std::io::Error>((TcpListener::bind(at)?, UdpSocket::bind(at)?));
        let (listener, socket) =
            netns.enter(open).unwrap().unwrap_or_else(|error| panic!("{at} in {}: {error}", netns.name()));
        setsockopt(&socket, sockopt::RcvBufForce, &(64 << 20)).unwrap();
        socket.set_read_timeout(Some(TICK)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let heard = Arc::<Heard>::default();
        let (one, other) = (Arc::clone(&heard), Arc::clone(&heard));
        let threads =
            vec![thread::spawn(move || accept(&listener, &one)), thread::spawn(move || datagrams(&socket, &other))];
        Self { at, heard, threads }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.at
    }

    /// Messages of UDP, and pieces of TCP, that have come so far.
    pub(crate) fn heard(&self) -> u64 {
        self.heard.messages.load(Ordering::Acquire)
    }

    /// Whom they seemed to come from.
    pub(crate) fn from(&self) -> BTreeSet<IpAddr> {
        self.heard.from.lock().unwrap().clone()
    }

    /// Datagrams that no [`crate::talk::Talk`] sends.
    pub(crate) fn strange(&self) -> BTreeSet<String> {
        self.heard.strange.lock().unwrap().clone()
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.heard.stop.store(true, Ordering::Release);
        for thread in self.threads.drain(..) {
            thread.join().ok();
        }
    }
}

impl Heard {
    fn note(&self, from: IpAddr) {
        self.messages.fetch_add(1, Ordering::AcqRel);
        self.from.lock().unwrap().insert(from);
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }
}

fn accept(listener: &TcpListener, heard: &Arc<Heard>) {
    let mut streams = Vec::new();
    while !heard.stopped() {
        match listener.accept() {
            Ok((stream, from)) => {
                let heard = Arc::clone(heard);
                streams.push(thread::spawn(move || echo(stream, from.ip(), &heard)));
            }
            Err(_) => thread::sleep(Duration::from_millis(2)),
        }
    }
    for stream in streams {
        stream.join().ok();
    }
}

fn echo(mut stream: TcpStream, from: IpAddr, heard: &Heard) {
    stream.set_nonblocking(false).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(TICK)).unwrap();
    let mut buffer = [0; 4096];
    while !heard.stopped() {
        match stream.read(&mut buffer) {
            Ok(0) => return,
            Ok(read) => {
                heard.note(from);
                if stream.write_all(&buffer[..read]).is_err() {
                    return;
                }
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(_) => return,
        }
    }
}

fn datagrams(socket: &UdpSocket, heard: &Heard) {
    let mut buffer = vec![0; 65_536];
    while !heard.stopped() {
        let Ok((read, from)) = socket.recv_from(&mut buffer) else { continue };
        heard.note(from.ip());
        if read != MESSAGE {
            heard.strange.lock().unwrap().insert(String::from_utf8_lossy(&buffer[..read]).into_owned());
        }
        // The other side may be gone, or closed to us: then it gets no answer.
        socket.send_to(&buffer[..read], from).ok();
    }
}
