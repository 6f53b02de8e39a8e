//! A pod, the node (the test's own namespace) and the world outside; probes that count.

use std::{
    collections::BTreeMap,
    net::{IpAddr, UdpSocket},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use nix::{
    sched::{CloneFlags, setns},
    sys::socket::{setsockopt, sockopt},
};

pub(super) use crate::kernel::netlink::namespace::{ip, isolated};

/// A named namespace that goes when this does.
pub(super) struct Namespace(String);

impl Namespace {
    pub(super) fn new(name: &str) -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let name = format!("ffilter-{}-{}-{name}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        ip(&format!("netns add {name}"));
        ip(&format!("-n {name} link set lo up"));
        Self(name)
    }

    pub(super) fn name(&self) -> &str {
        &self.0
    }

    pub(super) fn ip(&self, args: &str) {
        ip(&format!("-n {} {args}", self.0));
    }

    /// On a thread in that namespace.
    pub(super) fn spawn<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
        let path = format!("/run/netns/{}", self.0);
        thread::spawn(move || {
            setns(std::fs::File::open(path).unwrap(), CloneFlags::CLONE_NEWNET).unwrap();
            work()
        })
    }

    pub(super) fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        self.spawn(work).join().unwrap()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let done = Command::new("ip").args(["netns", "del", &self.0]).status();
        assert!(done.is_ok_and(|status| status.success()) || thread::panicking());
    }
}

/// `sh -c`, which must succeed, in the calling thread's namespace.
pub(super) fn sh(script: &str) -> String {
    let output = Command::new("sh").args(["-c", script]).output().unwrap();
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A pod at 10.244.1.2 and fd00:244:0:1::2, the world at 192.0.2.2 and 2001:db8::2, which knows
/// no way back to pods: what is not masqueraded shows there.
pub(super) struct Node {
    pub(super) pod: Namespace,
    pub(super) world: Namespace,
}

impl Node {
    pub(super) fn new() -> Self {
        let (pod, world) = (Namespace::new("pod"), Namespace::new("world"));
        for (end, other, near, far) in [
            ("pod0", &pod, ["10.244.1.1/24", "fd00:244:0:1::1/64"], ["10.244.1.2/24", "fd00:244:0:1::2/64"]),
            ("world0", &world, ["192.0.2.1/24", "2001:db8::1/64"], ["192.0.2.2/24", "2001:db8::2/64"]),
        ] {
            ip(&format!("link add {end} type veth peer name eth0 netns {}", other.name()));
            ip(&format!("link set {end} up"));
            other.ip("link set eth0 up");
            for (near, far) in near.iter().zip(far) {
                let nodad = if far.contains(':') { " nodad" } else { "" };
                ip(&format!("addr add {near} dev {end}{nodad}"));
                other.ip(&format!("addr add {far} dev eth0{nodad}"));
            }
        }
        pod.ip("route add default via 10.244.1.1");
        pod.ip("-6 route add default via fd00:244:0:1::1");
        sh("echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding");
        Self { pod, world }
    }

    /// From now on, every millisecond one packet of a new flow, pod to world, both families.
    pub(super) fn probe(&self) -> Probe {
        let receivers: Vec<_> = ["192.0.2.2:9999", "[2001:db8::2]:9999"]
            .into_iter()
            .map(|address| self.world.run(move || UdpSocket::bind(address).unwrap()))
            .collect();
        let stop = Arc::new(AtomicBool::new(false));
        let sent = [Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0))];
        let senders = [("192.0.2.2:9999", &sent[0]), ("[2001:db8::2]:9999", &sent[1])].map(|(address, sent)| {
            let (stop, sent) = (stop.clone(), sent.clone());
            self.pod.spawn(move || {
                let any = if address.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" };
                while !stop.load(Ordering::Relaxed) {
                    UdpSocket::bind(any).unwrap().send_to(b"probe", address).unwrap();
                    sent.fetch_add(1, Ordering::Relaxed);
                    thread::sleep(Duration::from_millis(1));
                }
            })
        });
        let ended = Arc::new(AtomicBool::new(false));
        let collectors = receivers.into_iter().map(|receiver| {
            let ended = ended.clone();
            thread::spawn(move || {
                let mut sources: BTreeMap<IpAddr, u64> = BTreeMap::new();
                // A reader without a processor must not look like packets lost on the way.
                setsockopt(&receiver, sockopt::RcvBufForce, &(16 << 20)).unwrap();
                receiver.set_read_timeout(Some(Duration::from_millis(700))).unwrap();
                loop {
                    match receiver.recv_from(&mut [0; 64]) {
                        Ok((_, source)) => *sources.entry(source.ip()).or_default() += 1,
                        Err(_) if ended.load(Ordering::Acquire) => return sources,
                        Err(_) => {}
                    }
                }
            })
        });
        let probe = Probe { stop, collectors: collectors.collect(), ended, senders: senders.into(), sent };
        probe.go_on();
        probe
    }
}

pub(super) struct Probe {
    stop: Arc<AtomicBool>,
    /// Nothing is sent any more.
    ended: Arc<AtomicBool>,
    senders: Vec<JoinHandle<()>>,
    sent: [Arc<AtomicU64>; 2],
    collectors: Vec<JoinHandle<BTreeMap<IpAddr, u64>>>,
}

impl Probe {
    /// Until fifty more packets were sent in each family.
    fn go_on(&self) {
        for sent in &self.sent {
            let goal = sent.load(Ordering::Relaxed) + 50;
            while sent.load(Ordering::Relaxed) < goal {
                thread::yield_now();
            }
        }
    }

    /// Every packet arrived, from the node's own address.
    pub(super) fn all_masqueraded(self) {
        self.go_on();
        self.stop.store(true, Ordering::Relaxed);
        self.senders.into_iter().for_each(|sender| sender.join().unwrap());
        self.ended.store(true, Ordering::Release);
        let sent = self.sent.map(|sent| sent.load(Ordering::Relaxed));
        let seen: Vec<_> = self.collectors.into_iter().map(|collector| collector.join().unwrap()).collect();
        let node: [IpAddr; 2] = ["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()];
        for ((sent, seen), node) in sent.iter().zip(seen).zip(node) {
            assert_eq!(seen, BTreeMap::from([(node, *sent)]), "of {sent} packets sent");
        }
    }
}
