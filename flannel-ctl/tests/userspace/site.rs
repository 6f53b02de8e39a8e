//! Two nodes, a wire between them, a tunnel across it.

use std::{
    io::ErrorKind,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    sync::{Arc, mpsc},
    time::Duration,
};

use flannel_ctl::{
    model::{Family, Forward, Mac},
    userspace::{Counter, Engine, EngineError, Offloads, Options, Table, Wire},
};
use xtask::lab::{self, Netns};

pub(crate) const DEVICE: &str = "flannel.1";
pub(crate) const PORT: u16 = 8472;
pub(crate) const VNI: u32 = 1;
/// The machine may be busy.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

/// One end of the wire; numbers are 1 and 2.
pub(crate) struct Node {
    pub(crate) number: u8,
    pub(crate) netns: Netns,
    pub(crate) engine: Option<Engine>,
    pub(crate) ended: Option<mpsc::Receiver<EngineError>>,
}

/// Two namespaces named after `prefix`, joined by a veth pair.
pub(crate) fn nodes(prefix: &str) -> [Node; 2] {
    let [first, second] = [1, 2].map(|number| {
        let name = format!("{prefix}{number}");
        if Netns::list().contains(&name) {
            Netns::remove(&name).unwrap();
        }
        Node { number, netns: Netns::create(name).unwrap(), engine: None, ended: None }
    });
    first
        .netns
        .ip(&format!("link add wire0 mtu 1500 type veth peer name wire0 mtu 1500 netns {}\n", second.netns.name()))
        .unwrap();
    for node in [&first, &second] {
        let n = node.number;
        node.netns
            .ip(&format!(
                "address add 192.0.2.{n}/24 dev wire0\naddress add 2001:db8::{n}/64 dev wire0\nlink set wire0 up\n"
            ))
            .unwrap();
    }
    first.netns.settle("wire0").unwrap();
    second.netns.settle("wire0").unwrap();
    [first, second]
}

pub(crate) fn mac(number: u8) -> Mac {
    Mac([2, 0, 0, 0, 0, number])
}

/// A node's address on the wire.
pub(crate) fn outer(family: Family, number: u8) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(192, 0, 2, number).into(),
        Family::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, number.into()).into(),
    }
}

/// A node's address in the tunnel.
pub(crate) fn inner(family: Family, number: u8) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(10, 244, number, 1).into(),
        Family::V6 => Ipv6Addr::new(0xfd00, number.into(), 0, 0, 0, 0, 0, 1).into(),
    }
}

pub(crate) fn vxlan(number: u8) -> Wire {
    Wire::Vxlan { vni: VNI, port: PORT, mac: mac(number) }
}

impl Node {
    fn other(&self) -> u8 {
        3 - self.number
    }

    /// The two ranges of the other node.
    pub(crate) fn table(&self, family: Family) -> Arc<Table> {
        let (table, n) = (Table::default(), self.other());
        let forward = Some(Forward { public: outer(family, n), mac: mac(n) });
        table.apply([
            (format!("10.244.{n}.0/24").parse().unwrap(), forward),
            (format!("fd00:{n}::/32").parse().unwrap(), forward),
        ]);
        Arc::new(table)
    }

    pub(crate) fn options(&self, wire: Wire, family: Family) -> Options {
        Options {
            wire,
            device: DEVICE.into(),
            mtu: 1500 - wire.overhead(family),
            local: outer(family, self.number),
            queues: None,
            offloads: Offloads::ALL,
            receive_buffer: Options::RECEIVE_BUFFER,
        }
    }

    /// Starts an engine, and makes the device what reconcile would make it.
    pub(crate) fn start(&mut self, options: &Options) {
        let (ended_tx, ended) = mpsc::channel();
        let table = self.table(Family::of(&options.local));
        let start = || Engine::start(options, &table, move |error| ended_tx.send(error).unwrap());
        self.engine = Some(self.netns.enter(start).unwrap().unwrap());
        self.ended = Some(ended);
        self.route(options.mtu, "");
    }

    /// The kernel's device in the engine's place, as flannel makes it.
    pub(crate) fn start_kernel(&self, family: Family) {
        self.start_kernel_with(family, "udpcsum");
    }

    /// The same, with other options.
    pub(crate) fn start_kernel_with(&self, family: Family, options: &str) {
        let (n, other) = (self.number, self.other());
        let (local, remote) = (outer(family, n), outer(family, other));
        let (own, peer) = (mac(n), mac(other));
        self.netns
            .ip(&format!(
                "link add {DEVICE} address {own} type vxlan id {VNI} local {local} dev wire0 dstport {PORT} nolearning {options}\n\
                 neighbour add 10.244.{other}.0 lladdr {peer} dev {DEVICE} nud permanent\n\
                 neighbour add fd00:{other}:: lladdr {peer} dev {DEVICE} nud permanent\n"
            ))
            .unwrap();
        self.netns.run(&format!("bridge fdb add {peer} dev {DEVICE} dst {remote}")).unwrap();
        self.route(1500 - family.vxlan_overhead(), "via");
    }

    fn route(&self, mtu: u32, via: &str) {
        let (n, other) = (self.number, self.other());
        let gateway = |address: String| if via.is_empty() { String::new() } else { format!("via {address} onlink") };
        self.netns
            .ip(&format!(
                "link set {DEVICE} mtu {mtu} up\n\
                 address add 10.244.{n}.1/32 dev {DEVICE}\naddress add fd00:{n}::1/128 dev {DEVICE} nodad\n\
                 route add 10.244.{other}.0/24 {} dev {DEVICE} src 10.244.{n}.1\n\
                 route add fd00:{other}::/32 {} dev {DEVICE} src fd00:{n}::1\n",
                gateway(format!("10.244.{other}.0")),
                gateway(format!("fd00:{other}::")),
            ))
            .unwrap();
    }

    pub(crate) fn count(&self, counter: Counter) -> u64 {
        self.engine.as_ref().unwrap().statistics().get(counter)
    }

    /// A UDP socket in this node's namespace, with a limit to how long it waits.
    pub(crate) fn udp(&self, address: IpAddr) -> UdpSocket {
        let socket = self.netns.enter(|| UdpSocket::bind((address, 0))).unwrap().unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
    }
}

/// Sends so much through a TCP connection between the inner addresses, and compares every octet.
pub(crate) fn transfer(from: &Node, to: &Node, family: Family, octets: usize) {
    lab::transfer(&from.netns, &to.netns, inner(family, to.number), octets).unwrap();
}

/// A datagram there and back.
pub(crate) fn echo(from: &Node, to: &Node, family: Family, octets: usize) {
    let (here, there) = (from.udp(inner(family, from.number)), to.udp(inner(family, to.number)));
    let sent: Vec<u8> = (0..octets).map(|at| u8::try_from(at % 251).unwrap()).collect();
    let mut buffer = vec![0; 1 << 16];
    here.send_to(&sent, there.local_addr().unwrap()).unwrap();
    let (read, back) = receive(&there, &mut buffer);
    assert_eq!(buffer[..read], sent);
    there.send_to(&buffer[..read], back).unwrap();
    let (read, _) = receive(&here, &mut buffer);
    assert_eq!(buffer[..read], sent);
}

/// A call with a limit to its time is not begun anew by the kernel when something interrupts it.
fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> (usize, SocketAddr) {
    loop {
        match socket.recv_from(buffer) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            received => return received.unwrap(),
        }
    }
}
