//! A hundred thousand datagrams a second that nobody should send, at the tunnel's port, while a stream runs.

use std::{
    io::{ErrorKind, IoSlice, Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsRawFd as _,
    sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use nix::sys::socket::{ControlMessage, MsgFlags, MultiHeaders, sendmmsg};
use xtask::lab::{Cluster, Family, Memory, Netns, Node, skip_unless, wait};

use crate::{
    TOOLS,
    site::{CHUNK, PATIENCE, launch, received_drops},
    udp::NETWORK,
};

/// A second.
const RATE: u128 = 100_000;
/// Datagrams to a call, and how many sockets take turns.
const BATCH: usize = 50;
const SOCKETS: usize = 16;
/// Where a socket throws everything away: what the flood costs this machine without us.
const SINK: u16 = 9999;
const ROUNDS: usize = 3;
const WINDOW: Duration = Duration::from_millis(500);
/// What the daemon may grow by: allocator and page tables breathe.
const GROWTH_KIB: u64 = 8 << 10;

/// Who floods, from two places: an attacker's address and the one of a peer.
struct Flood {
    sockets: Vec<UdpSocket>,
    datagrams: Vec<Vec<u8>>,
    to: IpAddr,
    /// 0: rest.
    port: AtomicU16,
    /// To another port than [`SINK`].
    sent: AtomicU64,
    stop: AtomicBool,
}

impl Flood {
    fn new(places: [&Netns; 2], to: IpAddr, datagrams: Vec<Vec<u8>>) -> Self {
        let open = |at: usize| places[at % 2].enter(|| UdpSocket::bind("0.0.0.0:0")).unwrap().unwrap();
        let sockets = (0..SOCKETS).map(open).collect();
        let (port, sent, stop) = (AtomicU16::new(0), AtomicU64::new(0), AtomicBool::new(false));
        Self { sockets, datagrams, to, port, sent, stop }
    }

    fn run(&self) {
        let mut headers = MultiHeaders::<nix::sys::socket::SockaddrStorage>::preallocate(BATCH, None);
        let (mut at, mut socket, mut last) = (0, 0, Instant::now());
        // In millionths of datagrams; what could not be sent for a tenth of a second never is.
        let (cost, most) = (BATCH as u128 * 1_000_000, RATE * 100_000);
        let mut credit = 0;
        while !self.stop.load(Relaxed) {
            let port = self.port.load(Relaxed);
            let elapsed = last.elapsed();
            last += elapsed;
            credit = if port == 0 { 0 } else { (credit + elapsed.as_micros() * RATE).min(most) };
            while credit >= cost {
                let slices: Vec<_> =
                    (at..at + BATCH).map(|at| [IoSlice::new(&self.datagrams[at % self.datagrams.len()])]).collect();
                let to = [Some(SocketAddr::new(self.to, port).into()); BATCH];
                let none: [ControlMessage<'_>; 0] = [];
                let fd = self.sockets[socket % SOCKETS].as_raw_fd();
                let sent = sendmmsg(fd, &mut headers, &slices, to, none, MsgFlags::empty()).unwrap().count();
                if port != SINK {
                    self.sent.fetch_add(sent as u64, Relaxed);
                }
                credit -= cost;
                (at, socket) = (at + sent, socket + 1);
            }
            thread::sleep(Duration::from_millis(1));
        }
    }
}

/// A stream that is compared, and how far it has come.
struct Stream {
    octets: AtomicU64,
    stop: AtomicBool,
}

impl Stream {
    fn run(&self, from: &Netns, to: &Netns, at: IpAddr) {
        let listener = to.enter(|| TcpListener::bind(SocketAddr::new(at, 0))).unwrap().unwrap();
        let address = listener.local_addr().unwrap();
        let mut sending = from.enter(|| TcpStream::connect_timeout(&address, wait::LONG)).unwrap().unwrap();
        let pattern: Vec<u8> = (0..CHUNK).map(|at| (at * at % 251).to_le_bytes()[0]).collect();
        thread::scope(|scope| {
            scope.spawn(|| {
                sending.set_write_timeout(Some(PATIENCE)).unwrap();
                while !self.stop.load(Relaxed) {
                    sending.write_all(&pattern).unwrap();
                }
                drop(sending);
            });
            let (mut stream, _) = listener.accept().unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let mut buffer = vec![0; CHUNK];
            let mut at = 0;
            loop {
                // With a time limit a read is not taken up again by itself.
                let read = match stream.read(&mut buffer[..CHUNK - at]) {
                    Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                    read => read.unwrap(),
                };
                if read == 0 {
                    assert_eq!(at, 0, "the stream ended within a chunk");
                    return;
                }
                assert!(buffer[..read] == pattern[at..at + read], "octets are not what was sent");
                at = (at + read) % CHUNK;
                self.octets.fetch_add(read as u64, Relaxed);
            }
        });
    }

    /// Gbit/s from now on.
    fn rate(&self) -> f64 {
        let (before, start) = (self.octets.load(Relaxed), Instant::now());
        thread::sleep(WINDOW);
        let kilobits = u32::try_from((self.octets.load(Relaxed) - before) / 125).unwrap();
        f64::from(kilobits) / 1e6 / start.elapsed().as_secs_f64()
    }
}

/// Ends both, in a panic too.
struct End<'a>([&'a AtomicBool; 2]);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.iter().for_each(|stop| stop.store(true, Relaxed));
    }
}

/// Resident memory.
fn resident_kib(node: &Node) -> u64 {
    Memory::of(node.pid().unwrap()).unwrap().resident_kb
}

/// IPv4 and UDP, with lengths that are right and no UDP checksum.
fn packet(source: [u8; 4], destination: [u8; 4]) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 60, 0, 1, 0, 0, 64, 17, 0, 0];
    packet.extend(source);
    packet.extend(destination);
    let sum: u32 = packet.chunks(2).map(|two| u32::from(u16::from_be_bytes([two[0], two[1]]))).sum();
    let folded = u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap();
    packet[10..12].copy_from_slice(&(!folded).to_be_bytes());
    packet.extend([0x1e, 0x61, 0x1e, 0x61, 0, 40, 0, 0]);
    packet.extend([b'!'; 32]);
    packet
}

/// What is wrong with them goes from the first octet to the last. `before`: what stands before a good packet.
fn bad(before: &[u8], pods: [[u8; 4]; 2]) -> Vec<Vec<u8>> {
    let [victim, peer] = pods;
    let stranger = [packet([10, 244, 99, 9], victim), packet(victim, victim), packet([8, 8, 8, 8], victim)];
    let mut all: Vec<Vec<u8>> = stranger.iter().map(|packet| [before, packet].concat()).collect();
    let good = [before, &packet(peer, victim)].concat();
    // The last octets are missing, down to nothing.
    all.extend((0..good.len() - 1).step_by(3).map(|octets| good[..octets].to_vec()));
    // Each header octet that is checked; inner addresses are as above.
    for octet in (0..before.len()).filter(|octet| !(14..20).contains(octet)) {
        let mut bad = good.clone();
        bad[octet] ^= 0x24;
        all.push(bad);
    }
    for first in [0x05, 0x41, 0x55, 0x60, 0xff] {
        let mut bad = good.clone();
        bad[before.len()] = first;
        all.push(bad);
    }
    all
}

/// VXLAN and Ethernet header of a node's peer to that node.
fn vxlan_header(cluster: &Cluster, node: &Node) -> Vec<u8> {
    let leases = cluster.etcdctl(&["get", "--prefix", "/coreos.com/network/subnets/"]).unwrap();
    let address = node.address(Family::V4).to_string();
    let lease = leases.lines().find(|line| line.contains(&format!("\"PublicIP\":\"{address}\""))).unwrap();
    let lease: serde_json::Value = serde_json::from_str(lease).unwrap();
    let mac = lease["BackendData"]["VtepMAC"].as_str().unwrap();
    let mac = mac.split(':').map(|octet| u8::from_str_radix(octet, 16).unwrap());
    [8, 0, 0, 0, 0, 0, 1, 0].into_iter().chain(mac).chain([2, 0, 0, 0, 0, 9, 8, 0]).collect()
}

fn octets(node: &Node) -> [u8; 4] {
    match node.pod().address(Family::V4).unwrap() {
        IpAddr::V4(address) => address.octets(),
        IpAddr::V6(_) => unreachable!("an IPv4 cluster"),
    }
}

fn withstands(cluster: &Cluster, prefix: &str, port: u16, before: &[u8]) {
    let (peer, node) = (cluster.node(1), cluster.node(2));
    let attacker = Netns::create(format!("{prefix}9")).unwrap();
    cluster.underlay().plug(&attacker, 9).unwrap();
    attacker.settle("eth0").unwrap();
    let sink = node.netns().enter(|| UdpSocket::bind((node.address(Family::V4), SINK))).unwrap().unwrap();
    let datagrams = bad(before, [octets(node), octets(peer)]);
    let flood = Flood::new([&attacker, peer.netns()], node.address(Family::V4), datagrams);
    let stream = Stream { octets: AtomicU64::new(0), stop: AtomicBool::new(false) };
    let dropped = || received_drops(node, Family::V4);
    let counted = dropped();
    let mut rates = [Vec::new(), Vec::new(), Vec::new()];
    let to = node.pod().address(Family::V4).unwrap();
    let resident = thread::scope(|scope| {
        let _end = End([&flood.stop, &stream.stop]);
        scope.spawn(|| flood.run());
        scope.spawn(|| stream.run(peer.pod().netns(), node.pod().netns(), to));
        wait::until("the stream to run", wait::LONG, || (stream.octets.load(Relaxed) > 10 << 20).then_some(()))
            .unwrap();
        // Once before, so that whatever is allocated for it is there.
        let mut before = 0;
        for round in 0..=ROUNDS {
            for (rates, port) in rates.iter_mut().zip([0, SINK, port]) {
                flood.port.store(port, Relaxed);
                let rate = stream.rate();
                flood.port.store(0, Relaxed);
                if round > 0 {
                    rates.push(rate);
                }
            }
            if round == 0 {
                before = resident_kib(node);
            }
        }
        [before, resident_kib(node)]
    });
    drop(sink);
    let at_port = flood.sent.load(Relaxed);
    let each_second = u128::from(at_port) * 1000 / (WINDOW.as_millis() * (ROUNDS as u128 + 1));
    println!("{prefix}: {at_port} datagrams, {each_second} a second");
    for (calm, (sink, flood)) in rates[0].iter().zip(rates[1].iter().zip(&rates[2])) {
        println!(
            "  stream: {:.2} Gbit/s; {:.2} of it while a socket is flooded that throws away, {:.2} while the tunnel is",
            calm,
            sink / calm,
            flood / calm
        );
    }
    println!("  resident: {resident:?} KiB");
    assert!(resident[1] < resident[0] + GROWTH_KIB, "{resident:?} KiB");
    // All that reached the node is counted; the wire may have lost some.
    let enough = || (dropped() - counted > at_port / 10 * 9).then_some(());
    wait::until("the drops to be counted", wait::LONG, enough)
        .unwrap_or_else(|error| panic!("{error}: {} of {at_port}: {:#}", dropped() - counted, node.status().unwrap()));
    println!("  counted: {}", dropped() - counted);
    assert!(dropped() - counted <= at_port, "more than was sent");
    let mut ratios: Vec<_> = rates[2].iter().zip(&rates[1]).map(|(flooded, sink)| flooded / sink).collect();
    ratios.sort_by(f64::total_cmp);
    // How much it keeps on a quiet machine is for a benchmark to say.
    assert!(ratios[ROUNDS - 1] > 0.2, "{ratios:?}");
    assert!(node.ended().unwrap().is_none());
    node.wait_converged().unwrap();
    cluster.assert_whole();
}

#[test]
fn a_flood_of_forged_and_truncated_datagrams_is_dropped_counted_and_survived() {
    if skip_unless(&[&TOOLS[..], &["etcdctl"]].concat()) {
        return;
    }
    let userspace = || vec![launch("userspace"); 2];
    let cluster = Cluster::builder("usfl").nodes(2).launches(userspace()).start().unwrap();
    for node in cluster.nodes() {
        node.wait_converged().unwrap();
    }
    cluster.assert_whole();
    let header = vxlan_header(&cluster, cluster.node(2));
    withstands(&cluster, "usfl", 8472, &header);
    drop(cluster);
    let cluster = Cluster::builder("usflu").nodes(2).network(NETWORK).start().unwrap();
    for node in cluster.nodes() {
        node.wait_converged().unwrap();
    }
    cluster.assert_whole();
    withstands(&cluster, "usflu", 8285, &[]);
}
