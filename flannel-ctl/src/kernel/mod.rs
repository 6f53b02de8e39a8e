//! The only place that talks to the kernel.
//!
//! Everything here is blocking and belongs to one thread, the reconcile loop's: a netlink
//! socket answers in microseconds, and order is easier to see than concurrency. The packet
//! filter alone may work beside it, in a thread that lives no longer than one call.

#[cfg(test)]
pub mod fake;

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use netlink::{address, link, neighbour, nexthop, route};

use crate::{
    model::{Family, Key, Object, Op, PodLink, State},
    plan::Facts,
    serve::report::FilterReport,
    traffic::Counts,
    userspace::Statistics,
};

mod attend;
pub mod fastpath;
pub mod filter;
pub mod links;
pub mod linux;
pub mod monitor;
pub mod netlink;
pub mod userspace;

/// What the reconcile loop needs from a kernel, real or in memory.
pub trait Kernel {
    /// What this kernel says unasked.
    type Notice;

    /// Names the devices, the uplink and the ranges that are ours from now on.
    fn set_facts(&mut self, facts: &Facts);

    /// What a notice means for us.
    fn interpret(&mut self, notice: Self::Notice) -> Interpretation;

    /// A pass of the loop begins: what may take long in it is counted from now.
    fn begin_pass(&mut self) {}

    /// Reads everything that is ours, or that we would take over from flannel. Objects of
    /// others do not appear. `wanted` lets the packet filter answer "is exactly this in force?".
    fn observe(&mut self, wanted: &State) -> Result<State, KernelError>;

    /// In so many parts [`Self::is_still`] looks at everything.
    const PARTS: usize;

    /// So many of them, the first ones and at least one, may change without a notice.
    const SILENT: usize;

    /// Nothing in this part has changed since the kernel was as `known`: a look that is cheaper than
    /// [`Self::observe`], and short.
    fn is_still(&mut self, part: usize, known: &State, wanted: &State) -> Result<bool, KernelError>;

    /// Carries out the changes in order; one outcome per op. Putting replaces, deleting what
    /// is absent succeeds. A failed op does not hold up the others.
    fn apply(&mut self, ops: &[Op]) -> Vec<Result<(), KernelError>>;

    /// Which packet filter is at work, what it cannot do, and what it counts.
    fn filter_report(&mut self, wanted: &State) -> FilterReport;

    /// What the BPF fast path has counted; `None`: there is none.
    fn fast_path_counts(&mut self) -> Option<Result<Counts, KernelError>>;

    /// The fast path's objects that change without a notice ([`Key::silent`]); `None`: there is no fast path.
    fn fast_path(&mut self) -> Option<Result<State, KernelError>>;

    /// What the engines of the userspace datapath count.
    fn engine_statistics(&mut self) -> BTreeMap<Family, Statistics> {
        BTreeMap::new()
    }

    /// The interfaces that lead to pods, by index.
    fn pods(&mut self) -> Result<BTreeMap<u32, PodLink>, KernelError>;

    /// Something that flows on the fast path depend on may have changed: each is to be proved again. What happens too
    /// often is put off until [`Self::settle_doubts`].
    fn doubt_flows(&mut self);

    /// Doubts the flows if that was put off and is due. How long until it is; `None`: nothing was put off.
    fn settle_doubts(&mut self) -> Option<Duration>;

    /// We live: the fast path goes on. Called every second.
    fn renew_fast_path(&mut self) {}

    /// Our IPv6 VXLAN device, as last seen, takes tunnel packets whose UDP checksum is zero.
    fn takes_zero_checksum(&self) -> bool;

    /// Which of these addresses are reached through the uplink without a gateway; one answer each.
    fn on_link(&mut self, addresses: &[IpAddr]) -> Vec<Result<bool, KernelError>>;
}

/// Whatever carries out the packet filter's share of the state: [`Key::Filter`] and
/// [`Key::Guard`].
pub trait PacketFilter: Send {
    /// A pass of the loop begins: its tools have a bounded time in it together.
    fn begin_pass(&mut self) {}

    /// Adds what is in force to `out`. `wanted` is there because rules are easier to compare
    /// with a text than to read back.
    fn observe(&mut self, wanted: &State, out: &mut State) -> Result<(), KernelError>;

    /// What [`Self::observe`] would add is what `known` holds of it.
    fn is_still(&mut self, known: &State, wanted: &State) -> Result<bool, KernelError>;

    /// Carries out the changes as one transaction where the tool can; one outcome per op.
    fn apply(&mut self, ops: &[Op]) -> Vec<Result<(), KernelError>>;

    /// Which tool it is and why, what of `wanted` it cannot do, and what it counts.
    fn report(&mut self, wanted: &State) -> FilterReport;
}

/// What the kernel said unasked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    Link {
        gone: bool,
        link: link::Link,
    },
    Address {
        gone: bool,
        address: address::Address,
    },
    /// A neighbour or, in the bridge family, a forwarding entry.
    Neighbour {
        gone: bool,
        neighbour: neighbour::Neighbour,
    },
    Route {
        gone: bool,
        /// The kernel put it in another's place, of whose end it says nothing.
        replaced: bool,
        route: route::Entry,
    },
    Nexthop {
        gone: bool,
        nexthop: nexthop::Nexthop,
    },
    /// A thread of the userspace datapath ended by itself.
    EngineEnded,
    /// A queueing discipline or a filter of an interface came, went or changed.
    TrafficControl {
        interface: u32,
    },
    /// Notices were lost.
    Overflow,
    /// None will come, for this reason, until [`Notice::Overflow`] says that they do again.
    Deaf(String),
}

/// What a [`Notice`] means for us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Interpretation {
    Irrelevant,
    /// Exactly this object is now so; `None`: is gone.
    Changed(Key, Option<Object>),
    /// More may have changed than was said: observe again. Carries the reason.
    Resync(&'static str),
    /// The uplink's addresses, MTU or existence changed: choose it again, then observe again.
    Uplink,
    /// An interface that may lead to a pod came, went or changed.
    Pods,
    /// Routes of others changed: what [`Kernel::on_link`] answers may be different now.
    Topology,
}

/// What was tried, on what, what the kernel answered, and what usually explains it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{attempt}: {answer}{}", .hint.map(|hint| format!(" ({hint})")).unwrap_or_default())]
pub struct KernelError {
    /// "add route 10.5.48.0/24 via flannel.1"
    pub attempt: String,
    /// errno text, with the kernel's own extended message if it sent one.
    pub answer: String,
    /// What usually explains it.
    pub hint: Option<&'static str>,
    /// 0 when the failure was not an errno.
    pub errno: i32,
}
