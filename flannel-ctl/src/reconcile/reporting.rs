//! What the loop remembers for people, and the report it makes of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, SystemTime},
};

use super::{
    Ear, Retries, World,
    burst::Burst,
    own_report::{network, own_lease, uplink},
};
use crate::{
    model::{Backend, Family, Key, Op, Setting},
    plan::{desire::is_direct, explain::explain},
    serve::report::{
        Condition, Counters, FailingObject, FilterReport, KernelReport, NetworkReport, PeerCounts, PeerReport,
        PeerState, PeerVia, RefusedLease, Report,
    },
    source::{Event, OwnLease},
};

/// With more objects failing than this, how many peers they concern is counted only so often.
const EXACT: usize = 256;
const COUNTED: Duration = Duration::from_secs(1);

/// What failing objects amount to.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    /// Wanted, and not in place.
    missing: usize,
    /// Peers that they belong to.
    peers: usize,
}

/// State that exists to be shown.
#[derive(Debug)]
pub(super) struct Memory {
    base: Report,
    counters: Counters,
    lease: OwnLease,
    refused: BTreeMap<String, RefusedLease>,
    refusals: Burst,
    failures: Burst,
    tally: (Duration, Tally),
    disturbed: BTreeSet<Key>,
    /// The last full look was not of our own making: differences are somebody else's work.
    suspicious: bool,
    looked_before: bool,
    /// Why the source holds removals back.
    holding: Option<String>,
    pub(super) uplink_problem: Option<String>,
    pub(super) observe_problem: Option<String>,
    pub(super) publish_problem: Option<String>,
    pub(super) on_link_problem: Option<String>,
    deaf: BTreeMap<Ear, String>,
}

impl Memory {
    pub(super) fn new(base: Report, lease: OwnLease) -> Self {
        Self {
            base,
            counters: Counters::default(),
            lease,
            refused: BTreeMap::new(),
            refusals: Burst::new("more leases are refused than are logged; see `flannel-ctl status` for the list"),
            failures: Burst::new("more kernel changes fail than are logged; see `flannel-ctl status` for the list"),
            tally: (Duration::ZERO, Tally::default()),
            disturbed: BTreeSet::new(),
            suspicious: false,
            looked_before: false,
            holding: None,
            uplink_problem: None,
            observe_problem: None,
            publish_problem: None,
            on_link_problem: None,
            deaf: BTreeMap::new(),
        }
    }

    pub(super) fn counters(&mut self) -> &mut Counters {
        &mut self.counters
    }

    pub(super) fn event(&mut self, event: &Event) {
        self.counters.events += 1;
        let source = &mut self.base.source;
        source.last_event_unix = Some(unix_now());
        match event {
            Event::Snapshot(_) | Event::Put(_) | Event::Delete(_) | Event::Lost { .. } => {}
            Event::Own(lease) => self.lease = lease.clone(),
            Event::Conflict { .. } => self.counters.own_subnet_conflicts += 1,
            Event::Holding(why) => self.holding = Some(why.clone()).filter(|why| !why.is_empty()),
            Event::NetworkChanged(what) => {
                self.base.network.get_or_insert_default().problem = Some(what.clone()).filter(|what| !what.is_empty());
            }
            Event::Connected => {
                source.connected = true;
                source.detail.clear();
            }
            Event::Disconnected(why) => {
                source.connected = false;
                source.detail.clone_from(why);
                self.counters.source_disconnects += 1;
            }
        }
    }

    /// Leases were refused: says so once per lease and reason, and not too often.
    pub(super) fn refused(&mut self, world: &World, keys: &[String]) {
        for key in keys {
            let Some(refused) = world.roster().refused().get(key) else { continue };
            let reason = refused.reason.to_string();
            if self.refused.get(key).is_some_and(|known| known.reason == reason) {
                continue;
            }
            if self.refusals.admits() {
                tracing::warn!(key = printable(key), reason, "refused a lease");
            }
            let since_unix = unix_now();
            self.refused.insert(key.clone(), RefusedLease { key: printable(key), reason, since_unix });
        }
    }

    /// Kernel changes failed that had not, or otherwise.
    pub(super) fn changes_failed(&mut self, error: &str, failed: usize) {
        if self.failures.admits() {
            tracing::error!(error, failed, "kernel changes failed; each is tried again on its own");
        }
    }

    /// Exact for few, up to a second old for many: it takes a look at each of them.
    fn tally(&mut self, world: &World, retries: &Retries, now: Duration) -> Tally {
        if retries.iter().len() <= EXACT || now >= self.tally.0 + COUNTED {
            let missing = retries.iter().filter(|(key, _)| world.wanted().contains_key(key)).count();
            self.tally = (now, Tally { missing, peers: failing_peers(world, retries) });
        }
        let Tally { missing, peers } = self.tally.1;
        Tally { missing: missing.min(world.wanted().len()), peers: peers.min(world.roster().peer_count()) }
    }

    /// Notices do not come any more, for this reason, or come again.
    pub(super) fn deaf(&mut self, ear: Ear, problem: Option<String>) {
        let of = match ear {
            Ear::Kernel => "notices from the kernel",
            Ear::Filter => "notices of packet filter changes",
        };
        let Some(problem) = problem else {
            tracing::info!("{of} come again");
            self.deaf.remove(&ear);
            return;
        };
        let text = format!("no {of}, looking every 10 s: {problem}");
        if self.deaf.get(&ear) != Some(&text) {
            tracing::warn!(problem, "no {of}; looking every 10 s until they come again");
        }
        self.deaf.insert(ear, text);
    }

    pub(super) fn is_deaf(&self, ear: Ear) -> bool {
        self.deaf.contains_key(&ear)
    }

    pub(super) fn disturbed(&mut self, key: Key) {
        self.disturbed.insert(key);
    }

    pub(super) fn observed(&mut self, why: &str) {
        // The first look finds what an earlier life left; after that, differences that we did not
        // cause ourselves are news.
        self.suspicious = self.looked_before && why != "this node changed";
        self.looked_before = true;
    }

    pub(super) fn swept(&mut self) {
        self.counters.sweeps += 1;
        self.base.last_sweep_unix = Some(unix_now());
    }

    /// Whether these changes mend what somebody else did; then with an example in words.
    pub(super) fn take_disturbance(&mut self, ops: &[Op]) -> Option<String> {
        let disturbed = std::mem::take(&mut self.disturbed);
        let suspicious = std::mem::take(&mut self.suspicious);
        let mended: Vec<&Op> =
            ops.iter().filter(|op| disturbed.contains(&op.key) || (suspicious && op.from.is_some())).collect();
        self.counters.repairs += mended.len() as u64;
        mended.first().map(|op| explain(op))
    }

    pub(super) fn failed(&mut self, key: &Key) {
        *self.counters.kernel_errors.entry(kind(key).into()).or_default() += 1;
    }

    pub(super) fn applied(&mut self, changes: usize, took: Duration) {
        self.counters.changes += changes as u64;
        self.base.last_convergence_ms = Some(took.as_secs_f64() * 1000.0);
    }

    pub(super) fn report(&mut self, world: &World, retries: &Retries, now: Duration, filter: FilterReport) -> Report {
        self.counters.passes += 1;
        // All that the roster refuses is in here, so equal numbers are equal sets. Looking through
        // ten thousand at every event, and not once a pass, would not do.
        if self.refused.len() != world.roster().refused().len() {
            self.refused.retain(|key, _| world.roster().refused().contains_key(key));
        }
        self.counters.guard_drops =
            filter.counters.iter().filter(|(name, _)| name.starts_with("refused-")).map(|(_, packets)| packets).sum();
        let (condition, reason) = self.condition(world, retries);
        if condition != self.base.state {
            tracing::info!(from = self.base.state.name(), to = condition.name(), reason, "state");
            self.base.state = condition;
            self.base.since_unix = unix_now();
        }
        let tally = self.tally(world, retries, now);
        let mut report = self.base.clone();
        let was = report.network.take();
        report.reason = reason;
        report.network = Some(NetworkReport { problem: was.and_then(|was| was.problem), ..network(world) });
        report.lease = (!world.is_fenced()).then(|| own_lease(&self.lease));
        report.uplink = Some(uplink(world));
        report.datapath.mtu = world.facts().pod_mtu();
        let facts = world.facts();
        if let Some(why) = facts.no_fast_path().filter(|_| facts.options.fast_path.is_some()) {
            report.datapath.why = why.into();
        }
        report.peers = PeerCounts {
            total: world.roster().peer_count() as u64,
            programmed: (world.roster().peer_count() - tally.peers) as u64,
            refused: world.roster().refused().len() as u64,
        };
        report.kernel = kernel(world, retries, tally, now);
        report.refused = self.refused.values().take(Report::LIST_LIMIT).cloned().collect();
        report.filter = filter;
        report.counters = self.counters.clone();
        report
    }

    fn condition(&self, world: &World, retries: &Retries) -> (Condition, String) {
        let mut troubles = Vec::new();
        if world.is_fenced() {
            troubles.push("our subnet went to another node".to_owned());
        }
        troubles.extend(self.holding.iter().cloned());
        troubles.extend(self.observe_problem.iter().cloned());
        troubles.extend(self.uplink_problem.iter().cloned());
        troubles.extend(self.publish_problem.iter().cloned());
        troubles.extend(self.on_link_problem.iter().cloned());
        troubles.extend(self.deaf.values().cloned());
        if let Some((key, failure)) = retries.oldest().next() {
            let count = retries.iter().len();
            troubles.push(format!("{count} kernel objects fail, first: {key}: {}", failure.error));
        }
        if !self.base.source.connected && !self.base.source.detail.is_empty() {
            troubles.push(self.base.source.detail.clone());
        }
        if !troubles.is_empty() {
            (Condition::Degraded, troubles.join("; "))
        } else if !world.is_complete() {
            (Condition::Starting, "waiting for the list of leases".into())
        } else {
            (Condition::Converged, String::new())
        }
    }
}

/// Every peer with its state, ordered by key.
pub(super) fn peers(world: &World, retries: &Retries) -> Vec<PeerReport> {
    let mut errors: BTreeMap<&str, String> = BTreeMap::new();
    for (key, failure) in retries.iter() {
        if let Some(peer) = world.roster().peer_of(key) {
            errors.entry(&peer.key).or_insert_with(|| failure.error.to_string());
        }
    }
    let facts = world.facts();
    let report = |peer: &crate::model::Peer| {
        let error = errors.get(&*peer.key).cloned();
        let direct = match &facts.network.backend {
            Backend::Vxlan(vxlan) => {
                Family::ALL.into_iter().filter_map(|family| peer.public(family)).any(|ip| is_direct(facts, vxlan, ip))
            }
            Backend::HostGw => true,
            Backend::Udp { .. } | Backend::Alloc => false,
        };
        PeerReport {
            node: peer.node.clone(),
            key: peer.key.to_string(),
            ipv4: peer.subnet.net(Family::V4),
            ipv6: peer.subnet.net(Family::V6),
            public_ip: peer.public_v4,
            public_ipv6: peer.public_v6,
            vtep_mac: peer.vtep_v4.map(|mac| mac.to_string()),
            vtep_mac_v6: peer.vtep_v6.map(|mac| mac.to_string()),
            via: if direct { PeerVia::Direct } else { PeerVia::Overlay },
            state: match &error {
                Some(_) => PeerState::Failing,
                None if world.is_fenced() => PeerState::Pending,
                None => PeerState::Ok,
            },
            error,
        }
    };
    world.roster().peers().map(report).collect()
}

fn failing_peers(world: &World, retries: &Retries) -> usize {
    let keys: BTreeSet<&str> =
        retries.iter().filter_map(|(key, _)| world.roster().peer_of(key)).map(|peer| &*peer.key).collect();
    keys.len()
}

fn kernel(world: &World, retries: &Retries, tally: Tally, now: Duration) -> KernelReport {
    let wanted = world.wanted().len();
    KernelReport {
        wanted: wanted as u64,
        in_place: (wanted - tally.missing) as u64,
        failing_total: retries.iter().len() as u64,
        failing: retries
            .oldest()
            .take(Report::LIST_LIMIT)
            .map(|(key, failure)| FailingObject {
                object: key.to_string(),
                attempt: failure.error.attempt.clone(),
                error: match failure.error.hint {
                    Some(hint) => format!("{} ({hint})", failure.error.answer),
                    None => failure.error.answer.clone(),
                },
                since_secs: now.saturating_sub(failure.since).as_secs(),
                tries: u64::from(failure.tries),
                next_try_secs: failure.next.saturating_sub(now).as_secs(),
            })
            .collect(),
    }
}

/// Stable name of a kind of object, for counters.
fn kind(key: &Key) -> &'static str {
    match key {
        Key::Device(_) => "device",
        Key::Setting(_, Setting::AcceptRa | Setting::TxChecksum) => "setting",
        Key::Address(..) => "address",
        Key::Filter => "filter",
        Key::Guard(..) => "guard",
        Key::Neighbour(_) => "neighbour",
        Key::Fdb(..) => "fdb",
        Key::Nexthop(_) => "nexthop",
        Key::Forward(_) => "forward",
        Key::Engine(_) => "engine",
        Key::Route(_) => "route",
        Key::LiberalConntrack => "conntrack",
        Key::FastPath => "fast_path",
        Key::FastPeer(_) => "fast_peer",
        Key::Attachment(_) => "attachment",
    }
}

/// A key as it may be shown: whoever wrote it does not get to drive the reader's terminal.
fn printable(key: &str) -> String {
    key.chars().take(100).flat_map(char::escape_debug).collect()
}

pub(super) fn unix_now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
