//! Flows of the fast path, both directions joined.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use flannel_common::{EgressFlow, IngressFlow, Settings, Tuple, Use, state};
use serde::Serialize;

/// The two flow tables at one moment.
pub struct Known {
    pub settings: Settings,
    /// Nanoseconds of the monotonic clock.
    pub now: u64,
    pub egress: Vec<(Tuple, EgressFlow)>,
    pub ingress: Vec<(Tuple, IngressFlow)>,
}

/// One flow of a pod. Field names are an interface.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Flow {
    /// `tcp` or `udp`.
    pub protocol: &'static str,
    /// The pod's end, as the pod has it.
    pub pod: SocketAddr,
    /// The other end, as the pod has it.
    pub remote: SocketAddr,
    /// What netfilter makes of the two; `None`: nothing.
    pub nat: Option<Nat>,
    /// The host's side of the pod's interface; empty if that is gone.
    pub interface: String,
    pub interface_index: u32,
    /// The node at the other end of the tunnel.
    pub peer: IpAddr,
    /// Both directions take the fast path.
    pub fast: bool,
    /// Of the first direction that does not.
    pub reason: Option<Standing>,
    /// Fast ones, both directions.
    pub packets: u64,
    /// From the inner IP header on.
    pub bytes: u64,
    /// Since the kernel path first let a packet of it through.
    pub age_seconds: f64,
    /// Since it last did.
    pub proved_seconds_ago: f64,
    pub sent: Direction,
    pub received: Direction,
}

/// Both ends on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Nat {
    pub pod: SocketAddr,
    pub remote: SocketAddr,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Direction {
    pub standing: Standing,
    pub packets: u64,
    pub bytes: u64,
    /// For how long the last proof still holds.
    pub valid_seconds: f64,
}

/// What becomes of the next packet of a direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    Fast,
    /// The next packet proves it again.
    Expired,
    /// Something changed since the last proof: the next packet proves it again.
    Doubted,
    /// The other direction was not seen when it was proved last.
    OneWay,
    /// No packet of this direction is known.
    Unseen,
    /// The pod's interface is gone.
    InterfaceGone,
    /// `--fast-path off`.
    Off,
    /// No daemon has been at work for minutes.
    NoDaemon,
}

impl Standing {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fast => "fast",
            Self::Expired => "expired",
            Self::Doubted => "doubted",
            Self::OneWay => "one_way",
            Self::Unseen => "unseen",
            Self::InterfaceGone => "interface_gone",
            Self::Off => "off",
            Self::NoDaemon => "no_daemon",
        }
    }
}

/// What the entries of both tables have in common.
#[derive(Clone, Copy)]
struct Entry {
    expires: u64,
    epoch: u32,
    state: u32,
    used: Use,
}

impl Known {
    /// The flows, in no order that means anything. `name` knows the interfaces that are there.
    pub fn flows(&self, name: impl Fn(u32) -> Option<String>) -> Vec<Flow> {
        let mut ingress: BTreeMap<_, _> =
            self.ingress.iter().map(|(tuple, flow)| (order(tuple), (tuple, flow))).collect();
        let sent: BTreeMap<_, _> = self.egress.iter().map(|(tuple, flow)| (order(tuple), (tuple, flow))).collect();
        let mut flows = Vec::new();
        for (tuple, egress) in sent.into_values() {
            let answers = ingress
                .get(&order(&egress.wire.reversed()))
                .filter(|(_, answers)| answers.delivered == tuple.reversed())
                .map(|(arrives, answers)| (order(arrives), *answers));
            if let Some((key, _)) = answers {
                ingress.remove(&key);
            }
            let entry = Entry { expires: egress.expires, epoch: egress.epoch, state: egress.state, used: egress.used };
            let answers = answers.map(|(_, answers)| Entry::of(answers));
            flows.push(self.flow(
                tuple,
                &egress.wire,
                egress.pod,
                egress.peer().into(),
                &[Some(entry), answers],
                &name,
            ));
        }
        for (arrives, flow) in ingress.into_values() {
            let (sent, wire) = (flow.delivered.reversed(), arrives.reversed());
            flows.push(self.flow(&sent, &wire, flow.pod, flow.outer.into(), &[None, Some(Entry::of(flow))], &name));
        }
        flows
    }

    /// Of the two entries, the first is for what goes out.
    fn flow(
        &self,
        sent: &Tuple,
        wire: &Tuple,
        pod: u32,
        peer: IpAddr,
        entries: &[Option<Entry>; 2],
        name: &impl Fn(u32) -> Option<String>,
    ) -> Flow {
        let interface = name(pod);
        let there = interface.is_some();
        let uses = || entries.iter().flatten().map(|entry| entry.used);
        let (created, proved) = (uses().map(|used| used.created).min(), uses().map(|used| used.proved).max());
        let directions = entries.each_ref().map(|entry| self.direction(entry.as_ref(), there));
        let reason = directions.iter().map(|direction| direction.standing).find(|standing| *standing != Standing::Fast);
        let [sent_direction, received] = directions;
        Flow {
            protocol: if sent.protocol == 6 { "tcp" } else { "udp" },
            pod: source(sent),
            remote: source(&sent.reversed()),
            nat: (sent != wire).then(|| Nat { pod: source(wire), remote: source(&wire.reversed()) }),
            interface: interface.unwrap_or_default(),
            interface_index: pod,
            peer,
            fast: reason.is_none(),
            reason,
            packets: uses().map(|used| used.packets).sum(),
            bytes: uses().map(|used| used.bytes).sum(),
            age_seconds: created.map_or(0.0, |at| seconds(self.now.saturating_sub(at))),
            proved_seconds_ago: proved.map_or(0.0, |at| seconds(self.now.saturating_sub(at))),
            sent: sent_direction,
            received,
        }
    }

    fn direction(&self, entry: Option<&Entry>, interface_is_there: bool) -> Direction {
        let Some(entry) = entry else {
            return Direction { standing: Standing::Unseen, packets: 0, bytes: 0, valid_seconds: 0.0 };
        };
        let standing = if self.settings.enabled == 0 {
            Standing::Off
        } else if self.settings.deadline < self.now {
            Standing::NoDaemon
        } else if !interface_is_there {
            Standing::InterfaceGone
        } else if entry.epoch != self.settings.epoch {
            Standing::Doubted
        } else if entry.expires < self.now {
            Standing::Expired
        } else if entry.state & state::PAIRED == 0 {
            Standing::OneWay
        } else {
            Standing::Fast
        };
        let Use { packets, bytes, .. } = entry.used;
        Direction { standing, packets, bytes, valid_seconds: seconds(entry.expires.saturating_sub(self.now)) }
    }
}

impl Entry {
    fn of(flow: &IngressFlow) -> Self {
        Self { expires: flow.expires, epoch: flow.epoch, state: flow.state, used: flow.used }
    }
}

/// By what tuples are sorted and compared.
fn order(tuple: &Tuple) -> [u32; size_of::<Tuple>() / 4] {
    bytemuck::cast(*tuple)
}

fn source(tuple: &Tuple) -> SocketAddr {
    SocketAddr::new(tuple.source.into(), u16::from_be(tuple.source_port))
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
fn seconds(nanoseconds: u64) -> f64 {
    (nanoseconds / 1_000_000) as f64 / 1000.0
}

#[cfg(test)]
#[path = "flows_tests.rs"]
mod tests;
