//! One ping from every pod to every other.

use std::{
    collections::BTreeMap,
    fmt,
    net::IpAddr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::{
    Family, Node,
    echo::{Echo, Mark},
};

/// How long a round waits for its replies.
const ROUND: Duration = Duration::from_secs(1);

/// The result of a round.
#[derive(Clone, Debug, Default)]
pub struct Mesh {
    /// Every ordered pair of nodes in every family asked for.
    pub paths: Vec<MeshPath>,
}

/// One direction between two pods in one family.
#[derive(Clone, Copy, Debug)]
pub struct MeshPath {
    /// Node numbers.
    pub from: usize,
    pub to: usize,
    pub family: Family,
    /// Nothing: no reply within a second.
    pub round_trip: Option<Duration>,
}

impl Mesh {
    /// Pings once along every path, all nodes at the same time.
    pub fn round(nodes: &[Node], families: &[Family]) -> Result<Self> {
        let paths = thread::scope(|scope| {
            let threads: Vec<_> = nodes
                .iter()
                .flat_map(|node| families.iter().map(move |family| (node, *family)))
                .map(|(node, family)| scope.spawn(move || from_one(node, nodes, family)))
                .collect();
            threads.into_iter().map(|thread| thread.join().expect("pinging does not panic")).collect::<Result<Vec<_>>>()
        })?;
        Ok(Self { paths: paths.into_iter().flatten().collect() })
    }

    /// There is at least one path, and every one works.
    pub fn whole(&self) -> bool {
        !self.paths.is_empty() && self.missing().next().is_none()
    }

    /// The paths that do not work.
    pub fn missing(&self) -> impl Iterator<Item = &MeshPath> {
        self.paths.iter().filter(|path| path.round_trip.is_none())
    }

    /// Median round-trip time of the paths from one node, or of all.
    pub fn median(&self, from: Option<usize>) -> Option<Duration> {
        let of_interest = self.paths.iter().filter(|path| from.is_none_or(|from| from == path.from));
        let mut times: Vec<_> = of_interest.filter_map(|path| path.round_trip).collect();
        times.sort_unstable();
        times.get(times.len() / 2).copied()
    }
}

impl fmt::Display for Mesh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let missing = self.missing().count();
        write!(f, "{} of {} paths work", self.paths.len() - missing, self.paths.len())?;
        for path in self.missing().take(12) {
            write!(f, "\n  no reply: node {} to node {} over {}", path.from, path.to, path.family)?;
        }
        if missing > 12 {
            write!(f, "\n  and {} more", missing - 12)?;
        }
        Ok(())
    }
}

fn from_one(node: &Node, nodes: &[Node], family: Family) -> Result<Vec<MeshPath>> {
    let echo = Echo::open(node.pod().netns(), family)?;
    let others: BTreeMap<IpAddr, usize> = nodes
        .iter()
        .filter(|other| other.number() != node.number())
        .map(|other| {
            let address = other.pod().address(family);
            Ok((address.with_context(|| format!("node {} has no {family} subnet", other.number()))?, other.number()))
        })
        .collect::<Result<_>>()?;
    let start = Instant::now();
    for (address, number) in &others {
        let sent_nanos = u64::try_from(start.elapsed().as_nanos())?;
        // A refusal by the own stack (no route yet) shows as a missing reply.
        drop(echo.send(*address, Mark { sequence: *number as u64, sent_nanos }));
    }
    let mut times = BTreeMap::new();
    while times.len() < others.len() && start.elapsed() < ROUND {
        if let Some((from, mark)) = echo.receive() {
            let round_trip = start.elapsed().saturating_sub(Duration::from_nanos(mark.sent_nanos));
            times.entry(from).or_insert(round_trip);
        }
    }
    let path = |(address, to): (IpAddr, usize)| MeshPath {
        from: node.number(),
        to,
        family,
        round_trip: times.get(&address).copied(),
    };
    Ok(others.into_iter().map(path).collect())
}
