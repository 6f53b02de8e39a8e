//! Traffic that accounts for every packet: pings, datagrams there and back, and a TCP stream.

use std::{
    io::ErrorKind,
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use nix::sys::socket::{setsockopt, sockopt};
use xtask::lab::{Cluster, Family, Netns, Ping, wait};

use crate::stream::Stream;

/// What flows between the pods of nodes 1 and 2.
pub(crate) struct Traffic {
    pings: Vec<Ping>,
    datagrams: Vec<Datagrams>,
    stream: Stream,
}

impl Traffic {
    pub(crate) fn start(cluster: &Cluster) -> Self {
        let pod = |number: usize| cluster.node(number).pod();
        let pings = [(1, 2, Family::V4), (2, 1, Family::V6)].map(|(a, b, family)| cluster.ping(a, b, family).unwrap());
        let datagrams = [(1, 2, Family::V4), (2, 1, Family::V6)]
            .map(|(a, b, family)| Datagrams::start(pod(a).netns(), pod(b).netns(), pod(b).address(family).unwrap()));
        let traffic = Self { pings: pings.into(), datagrams: datagrams.into(), stream: Stream::start(cluster, 1, 2) };
        traffic.more(300);
        traffic
    }

    /// Waits until that many more datagrams have come back in each direction.
    pub(crate) fn more(&self, answers: u64) {
        self.datagrams.iter().for_each(|datagrams| datagrams.more(answers));
    }

    /// Ends it, and fails if anything was lost or broke.
    pub(crate) fn assert_nothing_lost(self) {
        self.stream.assert_unbroken();
        for report in self.pings.into_iter().map(Ping::stop) {
            println!("{report}");
            report.assert_nothing_lost();
        }
        for (sent, received) in self.datagrams.into_iter().map(Datagrams::stop) {
            println!("{sent} datagrams, {received} back");
            assert_eq!(sent, received, "datagrams were lost");
        }
    }
}

/// A datagram every millisecond, sent back by the other end: both directions of a flow that the fast path may carry.
pub(crate) struct Datagrams {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    end: AtomicBool,
    sent: AtomicU64,
    received: AtomicU64,
}

impl Datagrams {
    pub(crate) fn start(from: &Netns, to: &Netns, address: IpAddr) -> Self {
        let any: IpAddr = if address.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
        let open = |netns: &Netns, address: IpAddr| {
            let socket = netns.enter(|| UdpSocket::bind(SocketAddr::new(address, 0))).unwrap().unwrap();
            // A reader without a processor must not look like datagrams lost on the way.
            setsockopt(&socket, sockopt::RcvBufForce, &(16 << 20)).unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
            // A reader without a core must not look like packets lost on the way.
            setsockopt(&socket, sockopt::RcvBufForce, &(16 << 20)).unwrap();
            socket
        };
        let (server, client) = (open(to, address), Arc::new(open(from, any)));
        client.connect(server.local_addr().unwrap()).unwrap();
        let shared = Arc::new(Shared::default());
        let threads = [
            {
                let shared = Arc::clone(&shared);
                thread::spawn(move || send_back(&shared, &server))
            },
            {
                let (shared, client) = (Arc::clone(&shared), Arc::clone(&client));
                thread::spawn(move || receive(&shared, &client))
            },
            {
                let shared = Arc::clone(&shared);
                thread::spawn(move || send(&shared, &client))
            },
        ];
        Self { shared, threads: threads.into() }
    }

    pub(crate) fn more(&self, answers: u64) {
        let received = || self.shared.received.load(Ordering::Acquire);
        let goal = received() + answers;
        wait::until("more datagrams to come back", wait::LONG, || (received() >= goal).then_some(())).unwrap();
    }

    /// Sent and received, once nothing is under way any more.
    pub(crate) fn stop(self) -> (u64, u64) {
        self.shared.stop.store(true, Ordering::Release);
        let count = || (self.shared.sent.load(Ordering::Acquire), self.shared.received.load(Ordering::Acquire));
        // What is lost is told by the counts.
        wait::until("the last datagrams", Duration::from_secs(3), || {
            let (sent, received) = count();
            (self.threads[2].is_finished() && sent == received).then_some(())
        })
        .ok();
        self.shared.end.store(true, Ordering::Release);
        let counts = count();
        self.threads.into_iter().for_each(|thread| thread.join().unwrap());
        counts
    }
}

fn send(shared: &Shared, socket: &UdpSocket) {
    let mut due = Instant::now();
    while !shared.stop.load(Ordering::Acquire) {
        let sequence = shared.sent.fetch_add(1, Ordering::AcqRel);
        // One that the stack refuses is lost, and counted so.
        socket.send(&sequence.to_be_bytes()).ok();
        due += Duration::from_millis(1);
        thread::sleep(due.saturating_duration_since(Instant::now()));
    }
}

fn receive(shared: &Shared, socket: &UdpSocket) {
    let mut buffer = [0; 64];
    while !shared.end.load(Ordering::Acquire) {
        if socket.recv(&mut buffer).is_ok() {
            shared.received.fetch_add(1, Ordering::AcqRel);
        }
    }
}

fn send_back(shared: &Shared, socket: &UdpSocket) {
    let mut buffer = [0; 64];
    while !shared.end.load(Ordering::Acquire) {
        match socket.recv_from(&mut buffer) {
            Ok((length, from)) => drop(socket.send_to(&buffer[..length], from)),
            Err(error) => assert!(
                matches!(
                    error.kind(),
                    ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted | ErrorKind::ConnectionRefused
                ),
                "{error}"
            ),
        }
    }
}
