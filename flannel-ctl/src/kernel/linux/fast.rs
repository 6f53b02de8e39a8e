//! The BPF fast path's share: which interfaces lead to pods, and when flows have to be proved again.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
    time::Duration,
};

use nix::errno::Errno;

use super::{LinuxKernel, explain, explain::refused, table_sum::TableSum};
use crate::{
    kernel::{
        KernelError,
        fastpath::{FastPath, FastPathError, Indexes},
        netlink::{
            fdb,
            filter::{self, Direction},
            link::{self, Link},
            neighbour::Neighbour,
            qdisc::{self, Qdisc},
            refusal::Refusal,
        },
    },
    model::{Family, Key, Object, Op, PodLink, State},
    plan::explain::explain as words,
};

impl LinuxKernel {
    pub(super) fn apply_to_fast_path(&mut self, ops: &[Op]) -> Vec<Result<(), KernelError>> {
        let indexes = self.indexes();
        let Some(fast) = &mut self.fast else {
            let refusal = Refusal::new(Errno::EOPNOTSUPP, "no BPF programs are loaded");
            return ops.iter().map(|op| Err(refused(op, &refusal))).collect();
        };
        let mut outcomes = Vec::with_capacity(ops.len());
        while let Some(op) = ops.get(outcomes.len()) {
            match (op.key, &op.to) {
                (Key::FastPeer(_), Some(Object::FastPeer { .. })) => {
                    outcomes.extend(fast.put_peers(&ops[outcomes.len()..]));
                }
                _ => outcomes.push(fast.apply(op, indexes)),
            }
        }
        let told =
            |(op, outcome): (&Op, Result<(), FastPathError>)| outcome.map_err(|error| error.into_kernel(words(op)));
        ops.iter().zip(outcomes).map(told).collect()
    }

    pub(super) fn observe_fast_path(&mut self, state: &mut State) -> Result<(), KernelError> {
        let indexes = self.indexes();
        self.fast.as_ref().map_or(Ok(()), |fast| fast.observe(indexes, state))
    }

    /// What goes without a word: settings and attachments. Of the peers see [`Self::fast_peers_are_still`].
    pub(super) fn observe_silent(&self) -> Option<Result<State, KernelError>> {
        let mut found = State::new();
        let looked = self.fast.as_ref()?.observe_without_peers(self.indexes(), &mut found);
        Some(looked.map(|()| found))
    }

    /// Whatever has the rights may write to the map, which tells nobody.
    pub(super) fn fast_peers_are_still(&self, known: &State) -> Result<bool, KernelError> {
        let Some(fast) = &self.fast else { return Ok(true) };
        let (mut expected, mut found) = (TableSum::default(), TableSum::default());
        let known = known.range((Bound::Excluded(Key::FastPath), Bound::Unbounded));
        known
            .take_while(|(key, _)| matches!(key, Key::FastPeer(_)))
            .for_each(|(key, object)| expected.add(key, object));
        fast.each_peer(|key, object| found.add(&key, &object))?;
        Ok(found == expected)
    }

    /// Every flow has to be proved again.
    pub(super) fn doubt_all_flows(&mut self) {
        if let Some(fast) = &mut self.fast {
            doubted(fast.doubt_flows());
        }
    }

    pub(super) fn settle_all_doubts(&mut self) -> Option<Duration> {
        /// What cannot be written now can hardly be a moment later.
        const AGAIN: Duration = Duration::from_secs(1);
        doubted(self.fast.as_mut()?.settle_doubts()).unwrap_or(Some(AGAIN))
    }

    /// Should it fail, the kernel path carries everything after some minutes.
    pub(super) fn renew_deadline(&mut self) {
        if let Some(Err(error)) = self.fast.as_mut().map(FastPath::renew) {
            tracing::warn!(%error, "cannot tell the fast path to go on; the kernel path carries everything soon");
        }
    }

    /// A gateway, or a peer on the uplink's network, that moved to another address: flows would go on to the old one.
    pub(super) fn follow_neighbour(&mut self, gone: bool, neighbour: &Neighbour) {
        let Some(ip) = neighbour.ip else { return };
        if self.fast.is_none() || neighbour.index != self.scope.uplink || neighbour.family == fdb::FAMILY {
            return;
        }
        // Forgotten by the kernel for lack of use, as a rule: flows ask again soon.
        let Some(mac) = neighbour.mac.filter(|_| !gone) else { return };
        if self.neighbours.has_moved(ip, mac) {
            tracing::debug!(%ip, %mac, "a neighbour on the uplink moved");
            self.doubt_all_flows();
        }
    }

    /// Veths whose other end is in another network namespace, whoever made them.
    pub(super) fn list_pods(&mut self) -> Result<BTreeMap<u32, PodLink>, KernelError> {
        let attempt = |refusal: Refusal| explain("list the interfaces that lead to pods", &refusal, None);
        let uplink = self.scope.uplink;
        let mut links = self.socket.dump(link::list(), Link::read).map_err(attempt)?;
        let underlay = underlay(&links, uplink);
        links.retain(|link| {
            let leads_to_a_pod = link.kind.as_deref() == Some("veth") && link.leads_elsewhere;
            leads_to_a_pod && link.is_up() && !underlay.contains(&link.index)
        });
        let shaped: BTreeSet<u32> = self
            .socket
            .dump(qdisc::list(), Qdisc::read)
            .map_err(attempt)?
            .into_iter()
            .filter(Qdisc::is_ingress)
            .map(|qdisc| qdisc.interface)
            .collect();
        let filtered = links
            .iter()
            .filter(|link| shaped.contains(&link.index))
            .map(|link| Ok((link.index, self.is_filtered_by_others(link.index).map_err(attempt)?)))
            .collect::<Result<BTreeMap<u32, bool>, KernelError>>()?;
        Ok(links
            .into_iter()
            .map(|link| {
                let spared = match link.qdisc.as_deref() {
                    Some("noqueue") | None if filtered.get(&link.index) == Some(&true) => {
                        Some("somebody filters what comes in (an ingress or clsact queueing discipline)")
                    }
                    Some("noqueue" | "noop") | None => None,
                    Some(_) => Some("somebody shapes what goes out (a queueing discipline)"),
                };
                (link.index, PodLink { name: link.name, mtu: link.mtu, spared })
            })
            .collect())
    }

    /// A queueing discipline alone does nothing, and before Linux 6.6 it may be there for our programs.
    fn is_filtered_by_others(&mut self, interface: u32) -> Result<bool, Refusal> {
        for direction in Direction::BOTH {
            if filter::others(&mut self.socket, interface, direction)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn indexes(&self) -> Indexes {
        Indexes { v4: self.device_index(Family::V4), v6: self.device_index(Family::V6) }
    }
}

/// That it fails is no reason to stop: it is tried again, and flows are proved again soon anyway.
fn doubted<T>(outcome: Result<T, FastPathError>) -> Option<T> {
    outcome
        .inspect_err(|error| {
            tracing::warn!(%error, "cannot have the flows proved again at once; they are within their validity");
        })
        .ok()
}

/// The uplink and what it is made of: ports of a bridge, the device under a VLAN. In a node that is a container itself
/// they are veths whose other end is elsewhere, as pods' are.
fn underlay(links: &[Link], uplink: u32) -> BTreeSet<u32> {
    let mut underlay = BTreeSet::from([uplink]);
    let mut new = vec![uplink];
    while let Some(upper) = new.pop() {
        let ports = links.iter().filter(|link| link.master == upper).map(|link| link.index);
        let below = links.iter().filter(|link| link.index == upper && link.lower != 0).map(|link| link.lower);
        for index in ports.chain(below) {
            if underlay.insert(index) {
                new.push(index);
            }
        }
    }
    underlay
}

/// Flows that were proved before this change may not be right after it.
pub(super) fn unsettles(op: &Op) -> bool {
    let replaces = op.from.is_some();
    match op.key {
        Key::Device(_) | Key::Filter => true,
        Key::Neighbour(_) | Key::Fdb(..) | Key::Nexthop(_) | Key::Route(_) | Key::Guard(..) | Key::FastPeer(_) => {
            replaces
        }
        // Somebody came whom flows have passed unseen since they were proved.
        Key::Attachment(_) => replaces,
        Key::Setting(..)
        | Key::Address(..)
        | Key::LiberalConntrack
        | Key::FastPath
        // Userspace and fast path exclude each other.
        | Key::Forward(_)
        | Key::Engine(_) => false,
    }
}
