//! Clusters with userspace nodes, and what is asked of them.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream},
    thread,
    time::Duration,
};

use serde_json::Value;
use xtask::lab::{Cluster, Family, Launch, Netns, Node, wait};

/// No divisor of any power of two: what is displaced does not look right.
pub(crate) const CHUNK: usize = 251_003;
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

pub(crate) fn launch(datapath: &str) -> Launch {
    Launch { args: vec!["--datapath".into(), datapath.into()], ..Launch::default() }
}

/// A dual-stack node for each datapath.
pub(crate) fn cluster(prefix: &str, datapaths: &[&str]) -> Cluster {
    let launches = datapaths.iter().map(|datapath| launch(datapath)).collect();
    let cluster = Cluster::builder(prefix).nodes(datapaths.len()).dual_stack().launches(launches).start().unwrap();
    let mesh = cluster.wait_mesh(Duration::from_secs(20)).unwrap();
    assert!(mesh.whole(), "{mesh}");
    cluster.nodes().iter().for_each(wait_converged);
    cluster
}

pub(crate) fn wait_converged(node: &Node) {
    wait::until("the node to be converged", wait::LONG, || (node.status().ok()?["state"] == "converged").then_some(()))
        .unwrap_or_else(|error| panic!("{error}: {:#}\n{}", node.status().unwrap(), node.log()));
}

/// What the engine of that family counts.
pub(crate) fn count(node: &Node, family: Family, counter: &str) -> u64 {
    let status = node.status().unwrap();
    let engines = status["userspace"].as_array().unwrap().clone();
    let engine = engines.iter().find(|engine| engine["family"] == family.to_string());
    engine.map_or(Value::Null, |engine| engine["counters"][counter].clone()).as_u64().unwrap_or(0)
}

/// Datagrams that the engine of that family, or the kernel before it, did not take.
pub(crate) fn received_drops(node: &Node, family: Family) -> u64 {
    let status = node.status().unwrap();
    let engines = status["userspace"].as_array().unwrap().clone();
    let engine = engines.iter().find(|engine| engine["family"] == family.to_string()).unwrap();
    let fine = ["packets", "bytes", "calls", "writes"].map(|what| format!("received_{what}"));
    let counters = engine["counters"].as_object().unwrap().iter();
    let drops = counters.filter(|(name, _)| name.starts_with("received_") && !fine.contains(name));
    drops.map(|(_, count)| count.as_u64().unwrap()).sum()
}

/// Sends so many octets from one namespace to another, and compares each.
pub(crate) fn transfer(from: &Netns, to: &Netns, at: IpAddr, octets: usize) {
    let listener = to.enter(|| TcpListener::bind(SocketAddr::new(at, 0))).unwrap().unwrap();
    let address = listener.local_addr().unwrap();
    let mut stream = from.enter(|| TcpStream::connect_timeout(&address, wait::LONG)).unwrap().unwrap();
    let pattern: Vec<u8> = (0..CHUNK).map(|at| (at * at % 251).to_le_bytes()[0]).collect();
    let chunks = octets.div_ceil(CHUNK) as u64;
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut chunk = pattern.clone();
            stream.set_write_timeout(Some(PATIENCE)).unwrap();
            for number in 0..chunks {
                chunk[..8].copy_from_slice(&number.to_be_bytes());
                stream.write_all(&chunk).unwrap();
            }
            stream.shutdown(Shutdown::Write).unwrap();
        });
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut chunk = vec![0; CHUNK];
        for number in 0..chunks {
            stream.read_exact(&mut chunk).unwrap();
            assert_eq!(chunk[..8], number.to_be_bytes());
            assert!(chunk[8..] == pattern[8..], "chunk {number} was garbled");
        }
        assert_eq!(stream.read(&mut chunk).unwrap(), 0, "more came than was sent");
    });
}
