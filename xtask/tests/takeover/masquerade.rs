//! New connections to the outside, all the time: each has to be masqueraded.

use std::{
    net::UdpSocket,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use xtask::lab::{Capture, Cluster, Family, OUTSIDE_V4};

/// A UDP packet each millisecond from a port of its own, so that no packet profits from the one before.
pub(crate) struct Flows {
    stop: Arc<AtomicBool>,
    sender: JoinHandle<usize>,
    capture: Capture,
    masqueraded: String,
}

impl Flows {
    /// From the pod of node 1.
    pub(crate) fn start(cluster: &Cluster) -> Self {
        let filter = format!("udp dst port 9 and dst host {OUTSIDE_V4}");
        let capture = Capture::start(cluster.underlay().netns(), "br0", &filter).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let path = cluster.node(1).pod().netns().path();
        let sender = thread::spawn(move || {
            let namespace = std::fs::File::open(path).unwrap();
            nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            let mut sent = 0;
            for port in (20_000_u16..60_000).cycle() {
                if stopped.load(Ordering::Acquire) {
                    break;
                }
                let socket = UdpSocket::bind(("0.0.0.0", port)).unwrap();
                socket.send_to(b"probe", (OUTSIDE_V4, 9)).unwrap();
                sent += 1;
                thread::sleep(Duration::from_millis(1));
            }
            sent
        });
        Self { stop, sender, capture, masqueraded: cluster.node(1).address(Family::V4).to_string() }
    }

    /// Ends it: every packet came out, with the node's address.
    pub(crate) fn assert_all_masqueraded(self) {
        self.stop.store(true, Ordering::Release);
        let sent = self.sender.join().unwrap();
        let packets = self.capture.stop().unwrap();
        let sources = packets.fields("udp.dstport == 9", &["ip.src"]).unwrap();
        let bare: Vec<_> = sources.iter().filter(|row| row[0] != self.masqueraded).collect();
        println!("{} of {sent} new flows seen, {} not masqueraded", sources.len(), bare.len());
        assert!(bare.is_empty(), "{} of {} went out as {:?}", bare.len(), sources.len(), bare[0]);
        assert!(sent > 100 && sources.len() == sent, "{} of {sent} came out", sources.len());
    }
}
